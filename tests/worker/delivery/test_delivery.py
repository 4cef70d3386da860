"""Delivery against real storage SCPs: every output arrives under one UID, whoever was down meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from desk import Desk
from prometheus_client import CollectorRegistry

from models.records.outputs import DeliveryState
from worker.delivery import Deliverer
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox

Eventually = Callable[..., None]
REFUSED, NO_RESOURCES, COERCED, DUPLICATE = 0xC000, 0xA700, 0xB000, 0x0111


def test_an_output_is_delivered_once_and_its_instance_says_when(
    desk_on_both: Desk, archive: Any, eventually: Eventually
) -> None:
    desk = desk_on_both
    desk.settle("2.25.1", "2.25.2")
    metrics = DeliveryMetrics(CollectorRegistry())
    desk.deliver(desk.queue(archive, metrics=metrics))
    eventually(lambda: desk.states() == ["delivered"] * 2)
    time.sleep(0.1)
    assert sorted(archive.uids) == ["2.25.1", "2.25.2"]
    for row in desk.rows():
        assert (row.attempts, row.last_status, row.reason) == (1, 0, None)
        assert row.delivered_at is not None
    assert desk.delivered_at("2.25.1.9") is not None
    assert metrics.attempts.labels(destination="archive", outcome="delivered")._value.get() == 2


def test_an_instance_is_delivered_when_its_last_output_reached_the_last_destination(
    desk: Desk, archive: Any, new_archive: Any, eventually: Eventually
) -> None:
    late = new_archive()
    desk.settle("2.25.1", to=("archive", "late"))
    desk.deliver(desk.queue(archive), desk.queue(late, "late"))
    eventually(lambda: sorted(desk.states()) == ["delivered", "pending"])
    assert desk.delivered_at("2.25.1.9") is None
    late.start()
    eventually(lambda: desk.states() == ["delivered"] * 2)
    assert desk.delivered_at("2.25.1.9") is not None


def test_a_dead_destination_delays_no_other(
    desk: Desk, archive: Any, new_archive: Any, eventually: Eventually, outbox: Outbox
) -> None:
    uids = [f"2.25.{number}" for number in range(1, 11)]
    desk.settle(*uids, to=("dead", "archive"))
    queues = [desk.queue(new_archive(), "dead"), desk.queue(archive)]
    deliverer = Deliverer(queues, desk.sessions, outbox, keep_days=7)
    thread = threading.Thread(target=deliverer.run, daemon=True)
    thread.start()
    eventually(lambda: sorted(archive.uids) == sorted(uids), timeout_s=5)
    deliverer.stop()
    thread.join(15)
    assert not thread.is_alive()
    assert sorted(desk.states()) == ["delivered"] * 10 + ["pending"] * 10


def test_what_an_archive_missed_while_it_was_down_is_delivered_when_it_is_back(
    desk: Desk, archive: Any, eventually: Eventually
) -> None:
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["delivered"])
    archive.stop()
    desk.settle("2.25.2", "2.25.3")
    eventually(lambda: any(row.attempts >= 2 for row in desk.rows()))
    waiting = desk.rows()[1:]
    assert {row.state for row in waiting} == {DeliveryState.PENDING}
    assert "destination_unreachable" in {row.reason for row in waiting}
    archive.start()
    eventually(lambda: desk.states() == ["delivered"] * 3)
    assert sorted(archive.uids) == ["2.25.1", "2.25.2", "2.25.3"]


@pytest.mark.parametrize("status", [COERCED, 0xB007, DUPLICATE])
def test_a_warning_or_a_duplicate_is_delivered(desk: Desk, archive: Any, eventually: Eventually, status: int) -> None:
    archive.statuses = [status]
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["delivered"])
    assert desk.rows()[0].last_status == status
    assert desk.rows()[0].attempts == 1


def test_an_object_that_is_refused_again_and_again_is_a_dead_letter_and_the_others_go_on(
    desk: Desk, archive: Any, eventually: Eventually
) -> None:
    archive.otherwise = REFUSED
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["dead"])
    (row,) = desk.rows()
    assert (row.attempts, row.last_status, row.reason) == (3, REFUSED, "destination_refused")
    assert row.delivered_at is None
    assert desk.delivered_at("2.25.1.9") is None
    archive.otherwise = 0
    desk.settle("2.25.2")
    eventually(lambda: desk.states() == ["dead", "delivered"])
    assert archive.uids == ["2.25.1"] * 3 + ["2.25.2"]


def test_an_archive_out_of_resources_is_asked_again_for_as_long_as_it_takes(
    desk: Desk, archive: Any, eventually: Eventually
) -> None:
    archive.statuses = [NO_RESOURCES] * 5
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["delivered"])
    assert desk.rows()[0].attempts == 6, "more than the three refusals that kill"


def test_an_archive_that_rejects_the_kind_of_object_makes_dead_letters(
    desk: Desk, new_archive: Any, eventually: Eventually
) -> None:
    archive = new_archive().start(contexts={"1.2.840.10008.1.1": ["1.2.840.10008.1.2"]})
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["dead"])
    (row,) = desk.rows()
    assert (row.attempts, row.last_status, row.reason) == (3, None, "destination_rejected_context")


def test_a_destination_that_is_unreachable_for_too_long_makes_dead_letters(
    desk: Desk, new_archive: Any, eventually: Eventually
) -> None:
    desk.settle("2.25.1")
    desk.deliver(desk.queue(new_archive(), delivery_give_up_s=0.3))
    eventually(lambda: desk.states() == ["dead"])
    assert desk.rows()[0].reason == "destination_unreachable"


def test_an_output_whose_file_is_gone_is_a_dead_letter_at_once(
    desk: Desk, archive: Any, outbox: Outbox, eventually: Eventually
) -> None:
    desk.settle("2.25.1", "2.25.2", "2.25.3")
    outbox.discard("2.25.1.dcm")
    outbox.path_of("2.25.2.dcm").write_bytes(b"cut off")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["dead", "dead", "delivered"])
    assert [(row.attempts, row.reason) for row in desk.rows()[:2]] == [(1, "output_file_missing")] * 2


def test_the_wait_between_attempts_doubles_up_to_the_longest(desk: Desk, archive: Any) -> None:
    queue = desk.queue(archive, delivery_first_retry_s=5, delivery_longest_retry_s=60)
    for attempts, expected in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (50, 60), (5000, 60)]:
        waits = {queue._back_off(attempts).total_seconds() for _ in range(20)}
        assert all(0.8 * expected <= wait <= 1.2 * expected for wait in waits)
        assert len(waits) > 1, "spread, so that not everything comes at once when an archive is back"


def test_an_archive_that_is_away_is_asked_no_more_often_the_more_outputs_wait(desk: Desk, archive: Any) -> None:
    desk.settle(*(f"2.25.{number}" for number in range(1, 31)))
    metrics, waits = DeliveryMetrics(CollectorRegistry()), []

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            if len(waits) == 6:
                self.set()
            return self.is_set()

    archive.stop()
    desk.queue(archive, metrics=metrics, delivery_first_retry_s=60, delivery_longest_retry_s=60).run(Watched())
    assert waits == [0.02, 0.04, 0.04, 0.04, 0.04, 0.04]  # two claims of at most 16, then nothing is due
    assert metrics.attempts.labels(destination="archive", outcome="retry")._value.get() == 2
