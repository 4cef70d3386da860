"""What the feed survives. Real processes are killed, stopped and started; afterwards everything must add up."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from instances import Sender, chest
from postgres import PostgresControl
from reconciliation import Ledger, reconcile, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver

Feeds = Callable[..., Feed]


def test_scp_killed_during_c_store_loses_nothing_that_got_success(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    feed.start()
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


def test_worker_killed_during_a_batch_settles_every_instance_once(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    feed.start()
    sender = Sender(feed.port)
    thread = sender.send_in_background([chest(768, seed) for seed in range(30)])
    ledger = Ledger(feed)
    for round_number in range(2):
        wait_until(lambda wanted=3 + 8 * round_number: _count(ledger, "done") >= wanted, 60, 0.02)
        feed.worker.kill()
        feed.worker.start()
    thread.join()
    ledger.close()
    assert len(sender.accepted) == 30
    reconcile(feed, archive, sender.accepted)


def test_redis_flushed_stopped_and_started_delays_and_loses_nothing(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    feed.start()
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
    feeds: Feeds, archive: Receiver, postgres: PostgresControl
) -> None:
    feed = feeds(database_url=postgres.url)
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


def test_a_dead_destination_never_slows_inference_and_gets_everything_later(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    archive.stop()
    feed.start()
    sender = Sender(feed.port)
    sender.send([chest(seed=seed) for seed in range(8)])
    wait_settled(feed, sender.accepted, 30)
    assert not archive.counts
    archive.start()
    reconcile(feed, archive, sender.accepted)
    assert set(archive.counts.values()) == {1}


def test_the_same_study_twice_and_at_the_same_time_gives_one_result(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    feed.start()
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
    assert set(archive.counts.values()) == {1}


def test_stopping_in_good_order_finishes_what_is_in_hand(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds()
    feed.start()
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


def _count(ledger: Ledger, state: str) -> int:
    return sum(1 for value in ledger.states().values() if value == state)
