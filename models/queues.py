"""The RQ queues as whoever fills them uses them: enqueue each instance once, and see what is in no queue.

The SCP's registrar and sweeper fill them, and `python -m worker reconcile`. Workers take with means of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from itertools import islice
from typing import Any, Final, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import WatchError
from redis.retry import Retry
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import str_to_date

from models.errors import ConfigurationError
from models.requests import JOB_NAME, QUEUE_NAMES, InferenceRequest, Lane

CHUNK: Final = 1000
"""Jobs asked about in one round trip."""
JOB_TIMEOUT_S: Final = 600
"""After so long RQ takes a job for stuck."""
RESULT_TTL_S: Final = 60
"""Results are in the database; RQ's own are only for looking on."""
FAILURE_TTL_S: Final = 7 * 24 * 3600
HEARTBEAT_EXPIRY: Final = timedelta(minutes=5)
"""Workers requeue the jobs of dead ones within a minute or two; the sweeper only steps in long after."""
ENQUEUE_TRIES: Final = 10

REDIS_TIMEOUT_S: Final = 5.0
"""Longest wait for an answer: a Redis that is cut off says nothing, and whoever waits for it must go on."""
REDIS_CONNECT_TIMEOUT_S: Final = 2.0
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3}
"""A connection on which one only listens (RQ's commands) asks after its peer after 5 s, and ends 9 s later."""

T = TypeVar("T")

RESTING: Final = frozenset({JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED})


class JobState(Enum):
    """What RQ knows of an instance, as far as it matters to whoever fills the queues."""

    GONE = auto()
    """No job, or one that is over: with a file pending, the instance is in no queue."""
    WAITING = auto()
    """Said to be queued."""
    IN_HAND = auto()
    """A worker has it, or RQ will give it to one."""


class Queues:
    """The `stat` and `routine` queues.

    Every method raises `redis.exceptions.RedisError` when Redis is away, and works again when it is back.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = open_redis(redis_url)
        self._queues = {
            lane: Queue(lane.value, connection=self._redis, serializer=JSONSerializer, default_timeout=JOB_TIMEOUT_S)
            for lane in Lane
        }

    def ping(self) -> None:
        """Ask whether Redis is there."""
        self._redis.ping()

    def enqueue(
        self, requests: Sequence[InferenceRequest], orphans: frozenset[str] = frozenset()
    ) -> list[InferenceRequest]:
        """Queue what is in no queue, and give what was queued.

        Another process may fill the queues at the same moment: what it queues first is seen, and left to it.

        Args:
            requests: instances to be processed.
            orphans: job ids that are said to be queued but are known to be in no list.
        """
        unique = {request.job_id: request for request in requests}
        for left in reversed(range(ENQUEUE_TRIES)):
            try:
                return self._enqueue_once(unique, orphans)
            except WatchError:
                if not left:
                    raise
        return []

    def _enqueue_once(self, requests: dict[str, InferenceRequest], orphans: frozenset[str]) -> list[InferenceRequest]:
        if not requests:
            return []
        with self._redis.pipeline() as pipeline:
            # From here on, a change of any of these jobs makes `execute` fail; then all is looked at again.
            pipeline.watch(*map(Job.key_for, requests))  # type: ignore[no-untyped-call]  # redis is typed in part
            states = self.states(list(requests))
            new = [
                request
                for job_id, request in requests.items()
                if states[job_id] is JobState.GONE or (states[job_id] is JobState.WAITING and job_id in orphans)
            ]
            pipeline.multi()
            for lane in Lane:
                self._push(pipeline, lane, [request for request in new if request.lane is lane])
            pipeline.execute()
        return new

    def _push(self, pipeline: Pipeline, lane: Lane, requests: list[InferenceRequest]) -> None:
        if not requests:
            return
        queue = self._queues[lane]
        for request in requests:
            # What an earlier job of this id left (its result, its place among the failed) must not mix in.
            pipeline.delete(Job.key_for(request.job_id))
            pipeline.zrem(queue.failed_job_registry.key, request.job_id)
        queue.enqueue_many([_job_data(request) for request in requests], pipeline=pipeline)

    def states(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """Ask RQ about many jobs."""
        found: dict[str, JobState] = {}
        now = datetime.now(UTC)
        for chunk in chunks(job_ids, CHUNK):
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in chunk:
                    pipeline.hmget(Job.key_for(job_id), "status", "last_heartbeat")
                answers: list[list[bytes | None]] = pipeline.execute()
            for job_id, (status, heartbeat) in zip(chunk, answers, strict=True):
                found[job_id] = _state(status, heartbeat, now)
        return found

    def listed(self) -> set[str]:
        """Give the ids of all jobs that lie in a queue, or are just being taken from one."""
        ids: set[str] = set()
        for name in QUEUE_NAMES:
            queue = self._queues[Lane(name)]
            for key in (queue.key, queue.intermediate_queue_key):
                items: Any = self._redis.lrange(key, 0, -1)
                ids.update(item.decode() for item in items)
        return ids

    def discard(self, job_id: str) -> bool:
        """Take a job that no worker has yet out of its queue, and forget it; False when it is in none (any more)."""
        with self._redis.pipeline() as pipeline:
            for queue in self._queues.values():
                pipeline.lrem(queue.key, 0, job_id)
            removed = sum(pipeline.execute())
        if removed:
            self._redis.delete(Job.key_for(job_id))
        return bool(removed)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def open_redis(redis_url: str) -> Redis:
    """Make a client that fails soon, so that its callers decide how to wait; nothing connects yet.

    Raises:
        ConfigurationError: the URL is not one.
    """
    # A path has no TCP, and its connection refuses what is set for TCP.
    tcp = {} if redis_url.startswith("unix:") else {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    try:
        return Redis.from_url(
            redis_url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_CONNECT_TIMEOUT_S,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),
            **tcp,
        )
    except ValueError as error:
        raise ConfigurationError(
            "RADSTREAM_REDIS_URL: not a Redis URL; use redis://HOST:PORT/DB or unix://PATH"
        ) from error


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Split into lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _job_data(request: InferenceRequest) -> Any:
    return Queue.prepare_data(
        JOB_NAME,
        args=(request.to_payload(),),
        timeout=JOB_TIMEOUT_S,
        result_ttl=RESULT_TTL_S,
        failure_ttl=FAILURE_TTL_S,
        description=f"instance {request.sop_instance_uid}",
        job_id=request.job_id,
    )


def _state(status: bytes | None, heartbeat: bytes | None, now: datetime) -> JobState:
    if status is None:
        return JobState.GONE
    known = status.decode()
    if known == JobStatus.QUEUED:
        return JobState.WAITING
    if known == JobStatus.STARTED:
        last = str_to_date(heartbeat) if heartbeat else None
        return JobState.IN_HAND if last is not None and now - last < HEARTBEAT_EXPIRY else JobState.GONE
    return JobState.IN_HAND if known in RESTING else JobState.GONE
