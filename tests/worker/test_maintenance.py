"""Upkeep of the queues on a real Redis: others do what dead workers held, and what kills workers is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from models.errors import Reason, Transient
from models.requests import QUEUE_NAMES, InferenceRequest, Lane
from worker import maintenance
from worker.maintenance import ABANDONED_META_KEY, LOCK_KEY, put_back, take_jobs

Eventually = Callable[..., None]
MakeRequest = Callable[..., InferenceRequest]


def _job(redis: Redis, request: InferenceRequest) -> Job:
    return Job.fetch(request.job_id, connection=redis, serializer=JSONSerializer)


def _started(redis: Redis) -> int:
    return sum(redis.zcard(f"rq:wip:{name}") for name in QUEUE_NAMES)


def test_a_job_that_outlasts_its_time_to_live_is_kept_by_heartbeats(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis, make_request: MakeRequest
) -> None:
    enqueue("1.1")
    slow = hire("slow", job_heartbeat_ttl_s=2, heartbeat_interval_s=0.2)
    eventually(lambda: slow.uids == ["1.1"])
    other = hire("other")
    started = _job(redis, make_request("1.1")).last_heartbeat
    time.sleep(3.2)
    assert other.uids == []
    beaten = _job(redis, make_request("1.1")).last_heartbeat
    assert beaten is not None
    assert started is not None
    assert (beaten - started).total_seconds() > 2, "the sweeper of the SCP looks at the job's own heartbeat"


def test_instances_that_were_in_a_dead_hand_are_run_one_by_one_and_first(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    jobs = enqueue("1.1", "1.2")
    dead = hire("dead", job_heartbeat_ttl_s=1)
    eventually(lambda: dead.uids == ["1.1", "1.2"])
    suspend(redis)
    dead.die()
    enqueue("1.3", "1.4")
    hand = hire("other")
    eventually(lambda: all(job.get_status() is JobStatus.QUEUED for job in jobs))
    assert all(job.get_meta() == {ABANDONED_META_KEY: 1} for job in jobs)
    resume(redis)
    for count in (1, 2):
        eventually(lambda: len(hand.uids) == count)  # noqa: B023 - called before the next turn
        time.sleep(0.1)
        assert len(hand.uids) == count, "nothing is taken beside a suspect"
        assert hand.uids[-1] in {"1.1", "1.2"}
        hand.end(hand.uids[-1])
    eventually(lambda: hand.uids[2:] == ["1.3", "1.4"])
    assert sorted(hand.uids[:2]) == ["1.1", "1.2"]


def test_a_suspect_waits_until_nothing_else_is_in_hand(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    enqueue("1.1")
    hand = hire()
    eventually(lambda: hand.uids == ["1.1"])
    suspend(redis)
    eventually(lambda: hand.worker._suspended)
    (suspect,) = enqueue("1.2")
    redis.hset(suspect.key, "meta", JSONSerializer.dumps({ABANDONED_META_KEY: 1}))
    enqueue("1.3")
    resume(redis)
    eventually(lambda: suspect.get_status() is JobStatus.STARTED)
    time.sleep(0.1)
    assert hand.uids == ["1.1"]
    hand.end("1.1")
    eventually(lambda: hand.uids == ["1.1", "1.2"])
    time.sleep(0.1)
    assert hand.uids == ["1.1", "1.2"], "its neighbour in the queue waits, too"
    hand.end("1.2")
    eventually(lambda: hand.uids == ["1.1", "1.2", "1.3"])


def test_a_worker_that_dies_again_and_again_over_an_instance_gives_it_up(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    (job,) = enqueue("1.1")
    for number in (1, 2, 3):
        hand = hire(f"dead-{number}", job_heartbeat_ttl_s=1)
        eventually(lambda: hand.uids == ["1.1"])  # noqa: B023 - called before the next turn
        assert job.get_meta().get(ABANDONED_META_KEY, 0) == number - 1
        hand.die()
    last = hire("last")
    eventually(lambda: last.given_up == [("1.1", 3)])
    eventually(lambda: job.get_status() is JobStatus.FAILED)
    result = job.latest_result()
    assert result is not None
    assert result.exc_string == "worker_died"
    assert last.uids == []
    assert _started(redis) == 0


def test_a_failure_that_cannot_be_recorded_is_tried_again_instead_of_lost(
    enqueue: Any, hire: Any, eventually: Eventually
) -> None:
    (job,) = enqueue("1.1")
    dead = hire("dead", job_heartbeat_ttl_s=1)
    eventually(lambda: dead.uids == ["1.1"])
    dead.die()
    hand = hire("other", max_attempts=1, start=False)
    hand.give_up_errors = [Transient(Reason.DATABASE_UNAVAILABLE)]
    hand.start()
    eventually(lambda: hand.uids == ["1.1"])
    assert hand.given_up == []
    hand.end("1.1")
    eventually(lambda: job.get_status() is JobStatus.FINISHED)


def test_a_job_popped_and_never_started_is_put_back(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "STUCK_AFTER_S", 0.3)
    enqueue("1.1", "1.2")
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    assert redis.lmove(queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT") is not None
    hand = hire()
    eventually(lambda: hand.uids == ["1.2", "1.1"])
    assert hand.metrics.requeued._value.get() == 1
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_one_worker_at_a_time_does_the_upkeep(enqueue: Any, hire: Any, eventually: Eventually, redis: Redis) -> None:
    redis.set(LOCK_KEY, "somebody else", ex=1)
    enqueue("1.1")
    dead = hire("dead", job_heartbeat_ttl_s=1)
    eventually(lambda: dead.uids == ["1.1"])
    dead.die()
    redis.set(LOCK_KEY, "somebody else", ex=3)
    other = hire("other")
    time.sleep(2)
    assert other.uids == []
    eventually(lambda: other.uids == ["1.1"], why="a lock whose holder died runs out")


# The parts of the upkeep


def _queues(redis: Redis) -> list[Queue]:
    return [Queue(name, connection=redis, serializer=JSONSerializer) for name in QUEUE_NAMES]


def test_taken_jobs_lie_in_the_intermediate_list_until_they_are_started(enqueue: Any, redis: Redis) -> None:
    enqueue("1.1", "1.2")
    enqueue("2.1", lane=Lane.STAT)
    stat, routine = _queues(redis)
    taken = take_jobs(redis, [stat, routine], 2)
    assert [(job.args[0]["sop_instance_uid"], origin.name) for job, origin in taken] == [
        ("2.1", "stat"),
        ("1.1", "routine"),
    ]
    assert redis.llen(stat.intermediate_queue_key) == redis.llen(routine.intermediate_queue_key) == 1
    assert routine.count == 1
    assert take_jobs(redis, [stat, routine], 5)[0][0].args[0]["sop_instance_uid"] == "1.2"
    assert take_jobs(redis, [stat, routine], 5) == []


def test_what_is_put_back_is_taken_again_in_its_order(enqueue: Any, redis: Redis) -> None:
    enqueue("1.1", "1.2", "1.3", "1.4")
    queues = _queues(redis)
    taken = take_jobs(redis, queues, 3)
    put_back(taken[1:])
    assert redis.llen(queues[1].intermediate_queue_key) == 1
    again = take_jobs(redis, queues, 9)
    assert [job.args[0]["sop_instance_uid"] for job, _ in again] == ["1.2", "1.3", "1.4"]
