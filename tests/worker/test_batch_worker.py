"""The batch worker on a real Redis: what it takes, how it ends jobs, and what survives deaths and outages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.command import send_kill_horse_command, send_stop_job_command
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from models.errors import Reason
from models.records.dicom import InstanceState
from models.requests import JOB_NAME, QUEUE_NAMES, InferenceRequest, Lane

Eventually = Callable[..., None]
MakeRequest = Callable[..., InferenceRequest]


def _job(redis: Redis, request: InferenceRequest) -> Job:
    return Job.fetch(request.job_id, connection=redis, serializer=JSONSerializer)


def _started(redis: Redis) -> int:
    return sum(redis.zcard(f"rq:wip:{name}") for name in QUEUE_NAMES)


# Taking and ending


def test_stat_is_taken_before_routine_and_each_in_its_order(enqueue: Any, hire: Any, eventually: Eventually) -> None:
    enqueue("1.1", "1.2")
    enqueue("2.1", "2.2", lane=Lane.STAT)
    hand = hire(prefetch=3)
    eventually(lambda: len(hand.submitted) == 3)
    assert hand.uids == ["2.1", "2.2", "1.1"]
    enqueue("2.3", lane=Lane.STAT)
    hand.end("1.1")
    eventually(lambda: len(hand.submitted) == 4)
    assert hand.uids[3] == "2.3", "what is urgent overtakes what waits"


def test_no_more_than_prefetch_are_in_hand(enqueue: Any, hire: Any, eventually: Eventually, redis: Redis) -> None:
    enqueue(*(f"1.{number}" for number in range(10)))
    hand = hire(prefetch=4)
    eventually(lambda: len(hand.submitted) == 4)
    time.sleep(0.1)
    assert len(hand.submitted) == _started(redis) == 4
    hand.end("1.0", "1.1")
    eventually(lambda: len(hand.submitted) == 6)


def test_each_job_is_ended_on_its_own_with_its_outcome(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis, make_request: MakeRequest
) -> None:
    done, skipped, failed, settled = enqueue("1.1", "1.2", "1.3", "1.4")
    hand = hire()
    eventually(lambda: len(hand.submitted) == 4)
    assert all(job.get_status() is JobStatus.STARTED for job in (done, skipped, failed, settled))
    hand.end("1.3", state=InstanceState.FAILED, reason=Reason.UNDECODABLE_PIXELS)
    hand.end("1.1")
    hand.end("1.2", state=InstanceState.SKIPPED, reason=Reason.NO_RULE_MATCHED)
    hand.end("1.4", state=None)
    eventually(lambda: _started(redis) == 0)
    assert [job.get_status() for job in (done, skipped, failed, settled)] == [
        JobStatus.FINISHED,
        JobStatus.FINISHED,
        JobStatus.FAILED,
        JobStatus.FINISHED,
    ]
    results = [_job(redis, make_request(uid)).latest_result() for uid in ("1.1", "1.2", "1.4")]
    assert [result and result.return_value for result in results] == ["done", "skipped", "already_settled"]
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    assert queue.failed_job_registry.get_job_ids() == [failed.id]
    failure = failed.latest_result()
    assert failure is not None
    assert failure.exc_string == "undecodable_pixels"
    assert redis.keys("rq:execution*") == [], "nothing of an ended job stays behind"
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_a_payload_that_is_none_of_ours_fails_alone(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis, make_request: MakeRequest
) -> None:
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    good = make_request("1.1").to_payload()
    hostile = [
        queue.enqueue(JOB_NAME, {**good, "spool_key": "../../etc/passwd"}),
        queue.enqueue(JOB_NAME, {**good, "version": 99}),
        queue.enqueue(JOB_NAME, "text"),
        queue.enqueue(JOB_NAME),
        queue.enqueue(JOB_NAME, good, good),
        Queue("routine", connection=redis).enqueue(JOB_NAME, good),  # pickled
    ]
    enqueue("1.9")
    hand = hire()
    eventually(lambda: hand.uids == ["1.9"])
    eventually(lambda: _started(redis) == 1)
    for job in hostile:
        assert job.get_status() is JobStatus.FAILED
    (result,) = Job.fetch(hostile[0].id, connection=redis, serializer=JSONSerializer).results()
    assert result.exc_string == "malformed_dataset"


def test_job_ids_without_a_readable_job_are_dropped(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    redis.rpush(queue.key, "deleted_meanwhile")
    redis.rpush(queue.key, "garbage")
    redis.hset("rq:job:garbage", mapping={"data": "x", "created_at": "yesterday", "timeout": "soon"})
    redis.rpush(queue.key, "no:valid/id")
    enqueue("1.1")
    hand = hire()
    eventually(lambda: hand.uids == ["1.1"])
    assert redis.llen(queue.intermediate_queue_key) == 0


# What RQ's tools see


def test_rq_sees_the_worker_while_it_works_and_not_after(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    hand = hire("batch-1")
    eventually(lambda: [worker.name for worker in Worker.all(connection=redis)] == ["batch-1"])
    (seen,) = Worker.all(connection=redis)
    assert seen.get_state() == "idle"
    assert seen.queue_names() == ["stat", "routine"]
    assert seen.pid == os.getpid()
    enqueue("1.1")
    eventually(lambda: Worker.all(connection=redis)[0].get_state() == "busy")
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    assert queue.started_job_registry.get_job_ids() == [hand.submitted[0].job_id]
    hand.end("1.1")
    eventually(lambda: Worker.all(connection=redis)[0].get_state() == "idle")
    assert hand.stop() is True
    assert Worker.all(connection=redis) == []


def test_a_suspended_worker_takes_nothing_and_finishes_what_it_has(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    (held,) = enqueue("1.1")
    hand = hire()
    eventually(lambda: hand.uids == ["1.1"])
    suspend(redis)
    eventually(lambda: hand.worker._suspended)
    enqueue("1.2")
    hand.end("1.1")
    eventually(lambda: held.get_status() is JobStatus.FINISHED)
    time.sleep(0.1)
    assert hand.uids == ["1.1"]
    resume(redis)
    eventually(lambda: hand.uids == ["1.1", "1.2"])


def test_commands_to_stop_one_job_are_ignored(enqueue: Any, hire: Any, eventually: Eventually, redis: Redis) -> None:
    (job,) = enqueue("1.1")
    hand = hire("batch-1")
    eventually(lambda: hand.uids == ["1.1"])
    send_stop_job_command(redis, job.id, serializer=JSONSerializer)
    send_kill_horse_command(redis, "batch-1")
    time.sleep(0.2)
    hand.end("1.1")
    eventually(lambda: job.get_status() is JobStatus.FINISHED)


def test_the_metrics_show_the_queues(enqueue: Any, hire: Any, eventually: Eventually) -> None:
    enqueue("1.1", "1.2", "1.3")
    enqueue("2.1", lane=Lane.STAT)
    hand = hire(prefetch=2)
    eventually(lambda: len(hand.submitted) == 2)

    def depth(queue: str, state: str) -> float:
        return hand.metrics.queue_depth.labels(queue=queue, state=state)._value.get()

    eventually(lambda: (depth("routine", "queued"), depth("routine", "started"), depth("stat", "started")) == (2, 1, 1))
    assert hand.metrics.in_hand._value.get() == 2
    assert hand.metrics.redis_up._value.get() == 1


# Stopping


def test_a_warm_stop_finishes_the_jobs_in_hand_and_takes_no_other(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    first, second = enqueue("1.1", "1.2")
    hand = hire(prefetch=1)
    eventually(lambda: hand.uids == ["1.1"])
    threading.Timer(0.3, hand.end, ["1.1"]).start()
    assert hand.stop() is True
    assert first.get_status() is JobStatus.FINISHED
    assert second.get_status() is JobStatus.QUEUED
    assert hand.uids == ["1.1"]


def test_a_stop_that_takes_too_long_leaves_the_jobs_to_others(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    (job,) = enqueue("1.1")
    slow = hire("slow", stop_grace_s=0.2, job_heartbeat_ttl_s=1)
    eventually(lambda: slow.uids == ["1.1"])
    assert slow.stop() is False
    assert job.get_status() is JobStatus.STARTED
    other = hire("other")
    eventually(lambda: other.uids == ["1.1"])


def test_a_worker_whose_pipeline_died_ends(enqueue: Any, hire: Any, eventually: Eventually) -> None:
    hand = hire()
    hand.pipeline_alive = False
    eventually(lambda: hand.returned is False)


WORKER_PROCESS = """
import sys, threading
from prometheus_client import CollectorRegistry
from redis import Redis
from models.records.dicom import InstanceState
from models.settings import Settings
from models.telemetry import configure_logging
from worker.batch_worker import BatchWorker, WorkerTimes
from worker.maintenance import Maintenance
from worker.metrics import WorkerMetrics
from worker.settling import Done

def submit(request):
    print(request.sop_instance_uid, flush=True)
    threading.Timer(float(sys.argv[2]), lambda: worker.on_done(Done(request, InstanceState.DONE, None))).start()

configure_logging(Settings(), "worker")
metrics = WorkerMetrics(CollectorRegistry())
worker = BatchWorker(
    Redis.from_url(sys.argv[1]), name="process", prefetch=4, times=WorkerTimes(0.01, 0.2, 2, 0.2, 10), submit=submit,
    pipeline_alive=lambda: True, metrics=metrics,
    maintenance=Maintenance(max_attempts=3, give_up=lambda request, attempts: None, metrics=metrics),
)
sys.exit(0 if worker.run() else 1)
"""


@pytest.fixture
def worker_process(redis_server: Any, project_root: Path) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Start a process whose pipeline takes so many seconds per instance."""
    processes: list[subprocess.Popen[str]] = []

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER_PROCESS, redis_server.url, str(seconds)]
        processes.append(subprocess.Popen(command, cwd=project_root, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_after_its_jobs(
    enqueue: Any, worker_process: Any, redis: Redis, number: signal.Signals
) -> None:
    jobs = enqueue("1.1", "1.2")
    process = worker_process(0.5)
    assert process.stdout.readline() == "1.1\n"
    process.send_signal(number)
    assert process.wait(15) == 0
    assert [job.get_status() for job in jobs] == [JobStatus.FINISHED] * 2


def test_jobs_of_a_killed_process_are_done_by_another_worker(
    enqueue: Any, worker_process: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    jobs = enqueue("1.1", "1.2")
    process = worker_process(600)
    assert [process.stdout.readline() for _ in jobs] == ["1.1\n", "1.2\n"]
    process.kill()
    process.wait()
    killed_at = time.monotonic()
    hand = hire("other")
    eventually(lambda: _end_all(hand) and all(job.get_status() is JobStatus.FINISHED for job in jobs))
    assert sorted(hand.uids) == ["1.1", "1.2"]
    assert time.monotonic() - killed_at < 10
    queue = Queue("routine", connection=redis, serializer=JSONSerializer)
    assert queue.failed_job_registry.get_job_ids() == []


def _end_all(hand: Any) -> bool:
    hand.end(*hand.uids)
    return True


# Redis away


def test_a_flush_of_redis_loses_no_work_in_hand_and_no_later_job(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis
) -> None:
    enqueue("1.1", "1.2")
    hand = hire("batch-1")
    eventually(lambda: len(hand.submitted) == 2)
    redis.flushall()
    hand.end("1.1")
    (again,) = enqueue("1.2")  # the sweeper finds it in the spool and in no queue
    eventually(lambda: hand.uids == ["1.1", "1.2", "1.2"])
    hand.end("1.2")
    eventually(lambda: again.get_status() is JobStatus.FINISHED)
    enqueue("1.3")
    eventually(lambda: hand.uids[-1] == "1.3")
    eventually(lambda: [worker.name for worker in Worker.all(connection=redis)] == ["batch-1"])
    hand.end("1.3")
    assert hand.stop() is True


def test_a_worker_outlives_redis_and_goes_on_when_it_is_back(
    enqueue: Any, hire: Any, eventually: Eventually, redis: Redis, redis_server: Any
) -> None:
    enqueue("1.1", "1.2")
    hand = hire("batch-1")
    eventually(lambda: len(hand.submitted) == 2)
    redis_server.stop()
    eventually(lambda: not hand.worker.redis_up)
    assert hand.metrics.redis_up._value.get() == 0
    hand.end("1.1")
    eventually(lambda: len(hand.worker._held) == 1, why="settled in the database, so Redis has nothing to add")
    redis_server.start()
    eventually(lambda: hand.worker.redis_up)
    enqueue("1.3")
    eventually(lambda: hand.uids == ["1.1", "1.2", "1.3"])
    eventually(lambda: [worker.name for worker in Worker.all(connection=redis)] == ["batch-1"])
    hand.end("1.2", "1.3")
    assert hand.stop() is True


def test_a_worker_can_be_stopped_while_redis_is_away(
    enqueue: Any, hire: Any, eventually: Eventually, redis_server: Any
) -> None:
    enqueue("1.1")
    hand = hire()
    eventually(lambda: hand.uids == ["1.1"])
    redis_server.stop()
    eventually(lambda: not hand.worker.redis_up)
    hand.end("1.1")
    assert hand.stop() is True
