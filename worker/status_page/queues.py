"""What the status page reads in Redis: lengths of lists and heartbeats of workers, never a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from redis import Redis
from rq import Queue, worker_registration
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import as_text, str_to_date

from models.requests import QUEUE_NAMES
from worker.status_page.facts import LaneFacts, QueueFacts, WorkerFacts

MOST_WORKERS: Final = 100
_FIELDS: Final = ("state", "birth", "last_heartbeat", "successful_job_count", "failed_job_count")
# `current_job` is left out: a job id holds a UID.


def read_queues(redis: Redis) -> QueueFacts:
    """Read lanes and workers.

    Raises:
        RedisError: Redis is away.
    """
    lanes = []
    for name in QUEUE_NAMES:
        queue = Queue(name, connection=redis, serializer=JSONSerializer)
        waiting: Any = redis.llen(queue.key)
        in_hand: Any = redis.zcard(queue.started_job_registry.key)
        lanes.append(LaneFacts(name, int(waiting), int(in_hand)))
    return QueueFacts(tuple(lanes), _workers(redis), bool(is_suspended(redis)))


def _workers(redis: Redis) -> tuple[WorkerFacts, ...]:
    keys = sorted(as_text(key) for key in worker_registration.get_keys(connection=redis))[:MOST_WORKERS]
    with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hmget(key, *_FIELDS)
        answers = pipeline.execute()
    found = []
    for key, values in zip(keys, answers, strict=True):
        told = {name: as_text(value) for name, value in zip(_FIELDS, values, strict=True) if value is not None}
        if not told:
            continue  # it died; RQ takes its name off the list later
        ended = sum(_number(told.get(name)) for name in ("successful_job_count", "failed_job_count"))
        name = key.rpartition("rq:worker:")[2]
        found.append(
            WorkerFacts(name, told.get("state", ""), _time(told.get("birth")), _time(told.get("last_heartbeat")), ended)
        )
    return tuple(found)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _time(text: str | None) -> datetime | None:
    try:
        return str_to_date(text) if text else None
    except ValueError:
        return None
