"""What the feed survives. Real processes are killed, stopped and started; afterwards everything must add up.

One feed lives through all of it but the loss of PostgreSQL: each test leaves it running, with nothing under way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from instances import Sender, chest
from postgres import PostgresControl
from reconciliation import Ledger, reconcile, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for the file, as the feed is."""
    with Receiver(tmp_path_factory.mktemp("archive")) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def long_lived(
    lasting_feeds: Any, tmp_path_factory: pytest.TempPathFactory, stand_in_store: Path, archive: Receiver
) -> Iterator[Feed]:
    with lasting_feeds(tmp_path_factory.mktemp("durable"), stand_in_store, archive) as feeds:
        feed = feeds(processes=2, RADSTREAM_WORKER_DECODERS="2")
        feed.start()
        yield feed


@pytest.fixture
def feed(long_lived: Feed) -> Feed:
    """The feed, with every process of it running, also after a test that failed."""
    if not long_lived.redis.running:
        long_lived.start_redis()
    for service in (long_lived.scp, long_lived.worker):
        if not service.running:
            service.start()
    long_lived.wait_ready(long_lived.scp, long_lived.scp_telemetry_port, 60)
    long_lived.wait_ready(long_lived.worker, long_lived.worker_telemetry_port, 60)
    return long_lived


def test_scp_killed_during_c_store_loses_nothing_that_got_success(feed: Feed, archive: Receiver) -> None:
    sender = Sender(feed.port)
    threads = [sender.send_in_background([chest(1024, seed) for seed in range(start, start + 10)]) for start in (0, 10)]
    wait_until(lambda: len(sender.accepted) >= 6, 60, 0.005)
    feed.scp.kill()
    for thread in threads:
        thread.join()
    assert sender.unanswered, "the SCP was killed too late for this test to mean anything"
    feed.scp.start()
    feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
    reconcile(feed, archive, sender.accepted)


def test_worker_killed_during_a_batch_settles_every_instance_once(feed: Feed, archive: Receiver) -> None:
    sender = Sender(feed.port)
    ledger = Ledger(feed)
    before = _count(ledger, "done")
    thread = sender.send_in_background([chest(768, seed) for seed in range(30)])
    for round_number in range(2):
        wait_until(lambda wanted=before + 3 + 8 * round_number: _count(ledger, "done") >= wanted, 60, 0.02)
        feed.worker.kill()
        feed.worker.start()
    thread.join()
    ledger.close()
    assert len(sender.accepted) == 30
    reconcile(feed, archive, sender.accepted)


def test_redis_flushed_stopped_and_started_delays_and_loses_nothing(feed: Feed, archive: Receiver) -> None:
    feed.worker.stop()
    sender = Sender(feed.port)
    sender.send([chest(seed=seed) for seed in range(6)])
    client = redis.Redis(port=feed.redis_port)
    wait_until(lambda: client.llen("rq:queue:routine") == 6, 20)
    client.flushall()
    feed.worker.start()
    wait_settled(feed, sender.accepted)

    feed.redis.kill()
    sender.send([chest(seed=seed) for seed in range(6, 12)])
    assert len(sender.accepted) == 12, "success must not need Redis"
    feed.start_redis()
    client.close()
    reconcile(feed, archive, sender.accepted)


def test_database_stopped_and_started_delays_and_loses_nothing(
    lasting_feeds: Any, tmp_path: Path, stand_in_store: Path, postgres: PostgresControl
) -> None:
    with (
        Receiver(tmp_path / "archive") as archive,
        lasting_feeds(tmp_path, stand_in_store, archive) as feeds,
    ):
        _stop_and_start_the_database(feeds(database_url=postgres.url), archive, postgres)


def _stop_and_start_the_database(feed: Feed, archive: Receiver, postgres: PostgresControl) -> None:
    feed.start()
    sender = Sender(feed.port)
    sender.send([chest(seed=seed) for seed in range(4)])
    wait_settled(feed, sender.accepted)
    thread = sender.send_in_background([chest(512, seed) for seed in range(4, 20)])
    time.sleep(0.3)
    postgres.stop()
    thread.join()
    assert len(sender.accepted) == 20, "success must not need the database"
    time.sleep(2)
    postgres.start()
    reconcile(feed, archive, sender.accepted)


def test_a_dead_destination_never_slows_inference_and_gets_everything_later(feed: Feed, archive: Receiver) -> None:
    archive.stop()
    before = dict(archive.counts)
    sender = Sender(feed.port)
    sender.send([chest(seed=seed) for seed in range(8)])
    wait_settled(feed, sender.accepted, 30)
    assert archive.counts == before
    archive.start()
    reconcile(feed, archive, sender.accepted)
    assert _arrivals(archive, before) == {1}


def test_the_same_study_twice_and_at_the_same_time_gives_one_result(feed: Feed, archive: Receiver) -> None:
    before = dict(archive.counts)
    study = [chest(512, seed) for seed in range(5)]
    sender = Sender(feed.port)
    threads = [sender.send_in_background(study) for _ in range(4)]
    for thread in threads:
        thread.join()
    reconcile(feed, archive, sender.accepted)
    sender.send(study)
    assert len(sender.accepted) == 25
    assert sorted(sender.accepted) == sorted(str(item.SOPInstanceUID) for item in study for _ in range(5))
    reconcile(feed, archive, sender.accepted)
    assert _arrivals(archive, before) == {1}


def test_stopping_in_good_order_finishes_what_is_in_hand(feed: Feed, archive: Receiver) -> None:
    sender = Sender(feed.port)
    thread = sender.send_in_background([chest(768, seed) for seed in range(12)])
    wait_until(lambda: len(sender.accepted) >= 4, 60, 0.01)
    feed.worker.stop()
    assert feed.worker.process is not None
    assert feed.worker.process.returncode == 0
    thread.join()
    feed.scp.stop()
    assert feed.scp.process is not None
    assert feed.scp.process.returncode == 0
    feed.scp.start()
    feed.worker.start()
    reconcile(feed, archive, sender.accepted)


def test_a_feed_whose_redis_kept_nothing_loses_and_doubles_nothing(feed: Feed, archive: Receiver) -> None:
    before, ledger = dict(archive.counts), Ledger(feed)
    done = _count(ledger, "done")
    feed.redis.stop()
    feed.redis.command = [word if word != "yes" else "no" for word in feed.redis.command]
    feed.start_redis()
    sender = Sender(feed.port)
    thread = sender.send_in_background([chest(512, seed) for seed in range(24)])
    assert wait_until(lambda: _count(ledger, "done") > done, 60, 0.02)
    ledger.close()
    feed.redis.kill()
    feed.start_redis()
    thread.join()
    assert len(sender.accepted) == 24, "success must not need Redis"
    reconcile(feed, archive, sender.accepted)
    assert _arrivals(archive, before) == {1}


def _arrivals(archive: Receiver, before: dict[str, int]) -> set[int]:
    """How often each output arrived that was not there before."""
    return {count for uid, count in archive.counts.items() if uid not in before}


def _count(ledger: Ledger, state: str) -> int:
    return sum(1 for value in ledger.states().values() if value == state)
