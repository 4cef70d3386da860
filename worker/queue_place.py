"""Where one instance is in the RQ queues, as an operator wants to know it; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from redis import Redis
from rq import Queue, worker_registration
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import as_text, str_to_date

from models.requests import QUEUE_NAMES, job_id_for
from worker.maintenance import ABANDONED_META_KEY

_FIELDS: Final = ("status", "origin", "worker_name", "started_at", "meta")


class QueueStatus(StrEnum):
    """What a job waits for."""

    WAITING = "waiting"
    BEING_TAKEN = "being_taken"
    IN_HAND = "in_hand"
    UNLISTED = "unlisted"
    """It says that it is queued, and lies in no list."""
    OVER = "over"


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """The job of an instance.

    Attributes:
        position: 1 is taken next; None where it is in no list.
        length: of that list.
        worker: which has it in hand, since when.
        deaths: workers that died with it in hand.
        rq_status: RQ's own word.
    """

    queue: str | None
    status: QueueStatus
    rq_status: str | None
    position: int | None = None
    length: int | None = None
    worker: str | None = None
    since: datetime | None = None
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Workers:
    """Whether anybody takes from the queues."""

    alive: int
    suspended: bool


def find_place(redis: Redis, spool_key: str) -> QueuePlace | None:
    """Look for the job of a spool file; None when there is none.

    Raises:
        RedisError: Redis is away.
    """
    job_id = job_id_for(spool_key)
    listed = _listed(redis, job_id)
    told: Any = redis.hmget(Job.key_for(job_id), *_FIELDS)
    values = dict(zip(_FIELDS, told, strict=True))
    if values["status"] is None:
        return listed  # in a list and without a job: a worker drops it
    status, origin = as_text(values["status"]), values["origin"] and as_text(values["origin"])
    deaths = _deaths(values["meta"])
    if listed is not None:
        return QueuePlace(listed.queue, listed.status, status, listed.position, listed.length, deaths=deaths)
    if status == "started":
        worker, since = values["worker_name"], values["started_at"]
        return QueuePlace(
            origin,
            QueueStatus.IN_HAND,
            status,
            worker=as_text(worker) if worker else None,
            since=str_to_date(since) if since else None,
            deaths=deaths,
        )
    waits = status in {"queued", "scheduled", "deferred"}
    return QueuePlace(origin, QueueStatus.UNLISTED if waits else QueueStatus.OVER, status, deaths=deaths)


def find_workers(redis: Redis) -> Workers:
    """Count live workers.

    Raises:
        RedisError: Redis is away.
    """
    keys = [as_text(key) for key in worker_registration.get_keys(connection=redis)]
    alive: Any = redis.exists(*keys) if keys else 0
    return Workers(int(alive), bool(is_suspended(redis)))


def keys_of(redis: Redis, sop_instance_uid: str) -> list[str]:
    """Give the spool keys of jobs of an instance that lie in a queue or are in hand.

    Raises:
        RedisError: Redis is away.
    """
    prefix = job_id_for(f"{sop_instance_uid}_")
    found: set[str] = set()
    for queue in _queues(redis):
        started: Any = redis.zrange(queue.started_job_registry.key, 0, -1)
        # An entry of the started registry is `<job id>:<execution id>`.
        ids = [*_ids(redis, queue.key), *_ids(redis, queue.intermediate_queue_key)]
        ids += [as_text(entry).partition(":")[0] for entry in started]
        found.update(job_id for job_id in ids if job_id.startswith(prefix))
    return sorted(f"{sop_instance_uid}_{job_id.removeprefix(prefix)}" for job_id in found)


def _queues(redis: Redis) -> list[Queue]:
    return [Queue(name, connection=redis, serializer=JSONSerializer) for name in QUEUE_NAMES]


def _ids(redis: Redis, key: str) -> list[str]:
    items: Any = redis.lrange(key, 0, -1)
    return [as_text(item) for item in items]


def _listed(redis: Redis, job_id: str) -> QueuePlace | None:
    for queue in _queues(redis):
        position: Any = redis.lpos(queue.key, job_id)
        if position is not None:
            length: Any = redis.llen(queue.key)
            return QueuePlace(queue.name, QueueStatus.WAITING, None, int(position) + 1, int(length))
        if redis.lpos(queue.intermediate_queue_key, job_id) is not None:
            return QueuePlace(queue.name, QueueStatus.BEING_TAKEN, None)
    return None


def _deaths(meta: bytes | None) -> int:
    try:
        return int(JSONSerializer.loads(meta).get(ABANDONED_META_KEY, 0)) if meta else 0
    except (ValueError, TypeError, AttributeError):
        return 0
