"""Delivery against real storage SCPs: every output arrives under one UID, whoever was down meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.sessions import open_database, session_factory
from models.settings import Settings
from worker import commands, delivery
from worker.delivery import Deliverer, DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.sender import Sender
from worker.settings import Destination, Recipient, WorkerSettings
from worker.settlement import Settlement

Sessions = sessionmaker[Session]
Eventually = Callable[..., None]
REFUSED, NO_RESOURCES, COERCED, DUPLICATE = 0xC000, 0xA700, 0xB000, 0x0111


def _settings(**changes: Any) -> WorkerSettings:
    quick = {
        "delivery_poll_interval_s": 0.02,
        "delivery_first_retry_s": 0.05,
        "delivery_longest_retry_s": 0.2,
        "delivery_timeout_s": 3,
        "delivery_max_refusals": 3,
    }
    return WorkerSettings(**{**quick, **changes})


class Desk:
    """Settles instances with outputs and delivers them in threads of the test."""

    def __init__(self, sessions: Sessions, outbox: Outbox, outcomes: Any, put_output: Callable[[str], Path]) -> None:
        self.sessions = sessions
        self._outbox = outbox
        self._outcomes = outcomes
        self._put_output = put_output
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def settle(self, *output_uids: str, to: tuple[str, ...] = ("archive",)) -> None:
        """Settle an instance `<uid>.9` with an output for each UID."""
        for uid in output_uids:
            self._put_output(uid)
        done = [self._outcomes.done(f"{uid}.9", output_uid=uid) for uid in output_uids]
        Settlement(self.sessions, "keep_first", [Recipient(name=name) for name in to]).settle(done)

    def queue(
        self, archive: Any, name: str = "archive", metrics: DeliveryMetrics | None = None, **changes: Any
    ) -> DestinationQueue:
        """A queue to an archive that does not run yet."""
        settings = _settings(**changes)
        destination = Destination(name=name, host="127.0.0.1", port=archive.port, ae_title="ARCHIVE")
        sender = Sender(destination, "RADSTREAM", settings.delivery_timeout_s)
        return DestinationQueue(
            sender, self.sessions, self._outbox, settings, metrics or DeliveryMetrics(CollectorRegistry())
        )

    def deliver(self, *queues: DestinationQueue) -> None:
        """Run queues in threads until the test ends."""
        for queue in queues:
            thread = threading.Thread(target=queue.run, args=[self._stopping], daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive()

    def rows(self) -> list[Delivery]:
        with self.sessions() as session:
            return list(session.scalars(select(Delivery).order_by(Delivery.id)))

    def states(self) -> list[str]:
        return [row.state.value for row in self.rows()]

    def delivered_at(self, uid: str) -> Any:
        with self.sessions() as session:
            return session.scalars(select(Instance.delivered_at).where(Instance.sop_instance_uid == uid)).one()


@pytest.fixture
def make_desk(outbox: Outbox, outcomes: Any, put_output: Any) -> Iterator[Callable[[Sessions], Desk]]:
    desks: list[Desk] = []

    def make(sessions: Sessions) -> Desk:
        desks.append(Desk(sessions, outbox, outcomes, put_output))
        return desks[-1]

    yield make
    for desk in desks:
        desk.stop()


@pytest.fixture
def desk(sqlite_sessions: Sessions, make_desk: Callable[[Sessions], Desk]) -> Desk:
    """A desk on SQLite, for what does not depend on the database."""
    return make_desk(sqlite_sessions)


@pytest.fixture
def desk_on_both(sessions: Sessions, make_desk: Callable[[Sessions], Desk]) -> Desk:
    """A desk on SQLite and on PostgreSQL."""
    return make_desk(sessions)


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


# Several deliverers, and dead ones


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


def test_two_deliverers_never_send_the_same_output_twice(
    desk_on_both: Desk, archive: Any, eventually: Eventually
) -> None:
    desk = desk_on_both
    uids = [f"2.25.{number}" for number in range(1, 41)]
    desk.settle(*uids)
    desk.deliver(desk.queue(archive), desk.queue(archive))
    eventually(lambda: desk.states() == ["delivered"] * len(uids))
    assert sorted(archive.uids) == sorted(uids)
    assert {row.attempts for row in desk.rows()} == {1}


def test_claims_of_many_deliverers_never_overlap(desk_on_both: Desk, archive: Any) -> None:
    desk = desk_on_both
    desk.settle(*(f"2.25.{number}" for number in range(1, 41)))
    barrier = threading.Barrier(4)

    def claim(queue: DestinationQueue) -> list[int]:
        barrier.wait()
        return [claim.delivery_id for _ in range(3) for claim in queue._claim()]

    with ThreadPoolExecutor(4) as pool:
        claimed = [number for numbers in pool.map(claim, [desk.queue(archive) for _ in range(4)]) for number in numbers]
    assert len(claimed) == len(set(claimed)) == 40


def test_what_a_killed_deliverer_had_claimed_is_sent_by_another_when_the_claim_runs_out(
    desk_on_both: Desk, archive: Any, eventually: Eventually
) -> None:
    desk = desk_on_both
    desk.settle("2.25.1", "2.25.2")
    killed = desk.queue(archive, delivery_timeout_s=0.4)
    assert len(killed._claim()) == 2
    assert desk.queue(archive)._claim() == [], "claimed by somebody who may be alive"
    desk.deliver(desk.queue(archive))
    time.sleep(0.2)
    assert archive.uids == []
    eventually(lambda: desk.states() == ["delivered"] * 2)


def test_a_slow_archive_does_not_make_the_claims_behind_run_out(
    desk: Desk, archive: Any, eventually: Eventually
) -> None:
    uids = [f"2.25.{number}" for number in range(1, 7)]
    desk.settle(*uids)
    slow = desk.queue(archive, delivery_timeout_s=1.5)
    send = slow._sender.send

    def slowly(path: Path) -> Any:
        time.sleep(0.9)
        return send(path)

    slow._sender.send = slowly  # type: ignore[method-assign]
    desk.deliver(slow)
    eventually(lambda: len(archive.uids) == 1)
    desk.deliver(desk.queue(archive))  # 6 sends take 5.4 s, a claim lasts 4.5 s
    eventually(lambda: desk.states() == ["delivered"] * len(uids))
    assert sorted(archive.uids) == sorted(uids)


def test_a_late_failure_does_not_undo_what_another_deliverer_achieved(desk: Desk, archive: Any) -> None:
    desk.settle("2.25.1")
    slow, quick = desk.queue(archive, delivery_timeout_s=0.01), desk.queue(archive)
    (claim,) = slow._claim()
    time.sleep(0.1)
    assert quick._turn(threading.Event()) == 1
    archive.stop()
    slow._record(claim, slow._sender.send(Path("gone")), [])
    assert desk.states() == ["delivered"]


def test_stopping_ends_soon_and_gives_the_claims_back(desk: Desk, archive: Any, eventually: Eventually) -> None:
    archive.hold.clear()
    uids = [f"2.25.{number}" for number in range(1, 11)]
    desk.settle(*uids)
    desk.deliver(desk.queue(archive))
    eventually(lambda: archive.associations == 1)
    threading.Timer(0.3, archive.hold.set).start()
    desk.stop()
    assert desk.states().count("delivered") == len(archive.uids) >= 1
    soon = utc_now() + timedelta(seconds=5)
    assert all(row.next_attempt_at < soon for row in desk.rows() if row.state is DeliveryState.PENDING)
    eventually(lambda: archive.released == 1, why="an open association is released, not dropped")


# Trouble with the database


def test_delivery_goes_on_when_the_database_is_back(
    postgres_server: Any, postgres_template: str, make_desk: Any, archive: Any, eventually: Eventually
) -> None:
    postgres_server.execute(f"CREATE DATABASE away TEMPLATE {postgres_template}")
    engine = open_database(Settings(database_url=postgres_server.url("away").render_as_string(hide_password=False)))
    desk = make_desk(session_factory(engine))
    try:
        desk.settle("2.25.1")
        queue = desk.queue(archive)
        postgres_server.stop()
        desk.deliver(queue)
        eventually(lambda: not queue._database_up)
        postgres_server.start()
        eventually(lambda: desk.states() == ["delivered"])
        assert archive.uids == ["2.25.1"]
    finally:
        desk.stop()
        engine.dispose()
        postgres_server.start()
        postgres_server.execute("DROP DATABASE away WITH (FORCE)")


def test_an_unforeseen_error_does_not_end_the_thread(
    desk: Desk, archive: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DATABASE_RETRY_S", 0.05)
    desk.settle("2.25.1")
    queue = desk.queue(archive, delivery_timeout_s=0.3)
    errors = [RuntimeError("once")]
    send = queue._sender.send

    def fail_once(path: Path) -> Any:
        if errors:
            raise errors.pop()
        return send(path)

    queue._sender.send = fail_once  # type: ignore[method-assign]
    desk.deliver(queue)
    eventually(lambda: desk.states() == ["delivered"])


# What operations see and do


def test_the_metrics_show_what_waits_what_is_dead_and_how_old_the_oldest_is(
    desk: Desk, archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = DeliveryMetrics(CollectorRegistry())
    desk.settle("2.25.1", "2.25.2", "2.25.3")
    with desk.sessions.begin() as session:
        first, second, _ = session.scalars(select(Delivery).order_by(Delivery.id))
        first.state = DeliveryState.DEAD
        second.requested_at = utc_now() - timedelta(minutes=10)
    desk.queue(archive, metrics=metrics)._measure()

    def value(gauge: Any) -> float:
        return gauge.labels(destination="archive")._value.get()

    assert (value(metrics.pending), value(metrics.dead)) == (2, 1)
    assert value(metrics.oldest) == pytest.approx(600, abs=30)


def test_a_dead_letter_that_is_redelivered_arrives_under_the_same_uid(
    desk_on_both: Desk, archive: Any, eventually: Eventually
) -> None:
    desk = desk_on_both
    archive.statuses = [REFUSED] * 3
    desk.settle("2.25.1")
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.states() == ["dead"])
    rows = commands.redeliver(desk.sessions, study=None, instance=None, destination=None, all_dead=True)
    assert rows == [{"output": "2.25.1", "destination": "archive", "now": "pending"}]
    eventually(lambda: desk.states() == ["delivered"])
    assert set(archive.uids) == {"2.25.1"}


def test_giving_up_counts_from_the_redelivery_not_from_the_first_try(
    desk: Desk, new_archive: Any, eventually: Eventually
) -> None:
    archive = new_archive()
    desk.settle("2.25.1")
    with desk.sessions.begin() as session:
        long_ago = utc_now() - timedelta(days=30)
        session.execute(update(Delivery).values(state=DeliveryState.DEAD, requested_at=long_ago))
        session.execute(update(Output).values(created_at=long_ago))
    commands.redeliver(desk.sessions, study=None, instance="2.25.1", destination=None, all_dead=False)
    desk.deliver(desk.queue(archive))
    eventually(lambda: desk.rows()[0].attempts >= 2)
    assert desk.states() == ["pending"]
