"""Outputs are claimed: several deliverers at once, those that die, and the database away. What operations do then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from models.records.base import utc_now
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.sessions import open_database, session_factory
from models.settings import Settings
from worker import commands, delivery
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics

Eventually = Callable[..., None]
REFUSED = 0xC000


# Several deliverers, and dead ones


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
