"""Upkeep of the queues: jobs of dead workers, jobs popped and never started, depth of the queues.

RQ moves jobs of a killed worker to the failed registry (rq#1461, rq#2015) and cleans every ten minutes. Here any
worker puts them back at the front of their queue within a minute; an instance that killed `max_attempts` workers has
failed, and is recorded so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, worker_registration
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text, parse_composite_key
from rq.worker import BaseWorker

from models.errors import Reason, Unprocessable
from models.requests import InferenceRequest
from models.telemetry import get_logger
from worker.metrics import WorkerMetrics

log = get_logger("worker.maintenance")

ABANDONED_META_KEY: Final = "abandoned"
"""Key of the job's meta that counts the workers which died with it in hand."""

LOCK_KEY: Final = "radstream:maintenance"
LOCK_TTL_S: Final = 30
"""RQ's own maintenance lock lives 15 minutes, for so long a worker killed in maintenance would stop all upkeep."""

STUCK_AFTER_S: Final = 20.0
"""A job popped and not started for this long has lost its worker in between (rq#580)."""

# Pops up to ARGV[1] job ids, first queue first, leaving each in its intermediate list, so that a worker that dies
# between pop and start loses nothing. KEYS: queue 1, intermediate 1, queue 2, intermediate 2, ...
_TAKE_SCRIPT: Final = """
local taken = {}
for index = 1, #KEYS, 2 do
    while #taken < 2 * tonumber(ARGV[1]) do
        local id = redis.call('LMOVE', KEYS[index], KEYS[index + 1], 'LEFT', 'RIGHT')
        if not id then break end
        taken[#taken + 1] = (index + 1) / 2
        taken[#taken + 1] = id
    end
end
return taken
"""


def take_jobs(connection: Redis, queues: Sequence[Queue], most: int) -> list[tuple[Job, Queue]]:
    """Pop up to `most` jobs, earlier queues first, without blocking.

    A job id without a job (deleted, or flushed by an operator) or with one that RQ cannot read is dropped; the sweeper
    makes a new job if there is an instance behind it.
    """
    keys = [key for queue in queues for key in (queue.key, queue.intermediate_queue_key)]
    flat = connection.eval(_TAKE_SCRIPT, len(keys), *keys, most)
    if not flat:
        return []
    origins = [queues[int(place) - 1] for place in flat[0::2]]
    ids = [as_text(job_id) for job_id in flat[1::2]]
    taken = []
    for job, origin, job_id in zip(_fetch(connection, ids), origins, ids, strict=True):
        if job is None:
            connection.lrem(origin.intermediate_queue_key, 1, job_id)
        else:
            taken.append((job, origin))
    return taken


def _fetch(connection: Redis, ids: Sequence[str]) -> list[Job | None]:
    try:
        return Job.fetch_many(ids, connection=connection, serializer=JSONSerializer)
    except RedisError:
        raise
    except Exception as error:
        # RQ raises whatever its parsers raise; one bad job must not stop every worker that meets it.
        if len(ids) > 1:
            return [job for job_id in ids for job in _fetch(connection, [job_id])]
        log.error("job_unreadable", exc_info=error)
        return [None]


def put_back(jobs: Sequence[tuple[Job, Queue]]) -> None:
    """Return popped jobs that were not started to the front of their queues, in their order."""
    for job, queue in reversed(jobs):
        with queue.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.execute()


class Maintenance:
    """Upkeep that every worker offers and one at a time does."""

    def __init__(
        self,
        *,
        max_attempts: int,
        give_up: Callable[[InferenceRequest, int], None],
        metrics: WorkerMetrics,
    ) -> None:
        """`give_up` records an instance as failed; it may raise, then it is tried again next time."""
        self._max_attempts = max_attempts
        self._give_up = give_up
        self._metrics = metrics
        self._first_seen: dict[str, dict[str, float]] = {}

    def run(self, worker: BaseWorker) -> None:
        """Do the upkeep of all queues of a worker, unless another worker is at it.

        Raises:
            RedisError: Redis is away.
        """
        self._measure(worker.queues)
        connection = worker.connection
        if not connection.set(LOCK_KEY, worker.name, nx=True, ex=LOCK_TTL_S):
            return
        try:
            for queue in worker.queues:
                self._requeue_abandoned(queue)
                self._requeue_stuck(queue)
                # Not the started registry: RQ would fail what is requeued above.
                queue.finished_job_registry.cleanup()
                queue.failed_job_registry.cleanup()
                worker_registration.clean_worker_registry(queue)
        finally:
            connection.delete(LOCK_KEY)

    def _measure(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            depth = self._metrics.queue_depth
            depth.labels(queue=queue.name, state="queued").set(queue.count)
            depth.labels(queue=queue.name, state="started").set(queue.connection.zcard(queue.started_job_registry.key))
            depth.labels(queue=queue.name, state="failed").set(queue.connection.zcard(queue.failed_job_registry.key))

    def _requeue_abandoned(self, queue: Queue) -> None:
        registry = queue.started_job_registry
        expired: Any = queue.connection.zrangebyscore(registry.key, 0, time.time())
        for entry in map(as_text, expired):
            # Whoever removes the entry owns the job; a worker that was only slow finds its job settled twice, once.
            if queue.connection.zrem(registry.key, entry):
                job_id, _ = parse_composite_key(entry)
                self._requeue(queue, job_id)

    def _requeue(self, queue: Queue, job_id: str) -> None:
        (job,) = _fetch(queue.connection, [job_id])
        if job is None:
            return
        attempts = int(job.meta.get(ABANDONED_META_KEY, 0)) + 1
        if attempts >= self._max_attempts and self._gave_up(job, attempts):
            with queue.connection.pipeline() as pipeline:
                job.set_status(JobStatus.FAILED, pipeline=pipeline)
                job._handle_failure(Reason.WORKER_DIED.value, pipeline=pipeline)
                pipeline.execute()
            return
        job.meta[ABANDONED_META_KEY] = attempts
        with queue.connection.pipeline() as pipeline:
            job.set_status(JobStatus.QUEUED, pipeline=pipeline)
            pipeline.hset(job.key, "meta", JSONSerializer.dumps(job.meta))
            queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.execute()
        self._metrics.requeued.inc()
        log.warning("job_requeued", job_id=job.id, attempts=attempts, reason=Reason.WORKER_DIED.value)

    def _gave_up(self, job: Job, attempts: int) -> bool:
        try:
            (payload,) = job.args
            self._give_up(InferenceRequest.from_payload(payload), attempts)
        except RedisError:
            raise
        except Unprocessable:
            return True
        except Exception as error:
            log.warning("failure_not_recorded", job_id=job.id, exc_info=error)
            return False
        log.error("instance_given_up", job_id=job.id, attempts=attempts, reason=Reason.WORKER_DIED.value)
        return True

    def _requeue_stuck(self, queue: Queue) -> None:
        waiting = {as_text(job_id) for job_id in queue.connection.lrange(queue.intermediate_queue_key, 0, -1)}
        clock = time.monotonic()
        before = self._first_seen.get(queue.name, {})
        seen_at = {job_id: before.get(job_id, clock) for job_id in waiting}
        self._first_seen[queue.name] = seen_at
        for job_id, seen in seen_at.items():
            # Removing the entry decides who puts the job back.
            if clock - seen >= STUCK_AFTER_S and queue.connection.lrem(queue.intermediate_queue_key, 1, job_id):
                queue.push_job_id(job_id, at_front=True)
                self._metrics.requeued.inc()
                log.warning("job_requeued", job_id=job_id, reason=Reason.WORKER_DIED.value)
