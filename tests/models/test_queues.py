"""Several processes may fill the queues at one moment: each instance gets one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import WatchError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from models import queues as queues_module
from models.queues import Queues
from models.requests import InferenceRequest, Lane, job_id_for, spool_key_of

MakeRequest = Callable[..., InferenceRequest]


@pytest.fixture
def queues(redis_server: Any) -> Iterator[Queues]:
    queues = Queues(redis_server.url)
    yield queues
    queues.close()


def _job_ids(redis: Redis, lane: Lane = Lane.ROUTINE) -> list[str]:
    return Queue(lane.value, connection=redis, serializer=JSONSerializer).job_ids


def test_what_another_process_queues_at_the_same_moment_is_left_to_it(
    queues: Queues, redis_server: Any, redis: Redis, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = make_request("1.2.1"), make_request("1.2.2")
    states, other = queues.states, Queues(redis_server.url)

    def overtaken(job_ids: Any) -> Any:
        seen = states(job_ids)
        other.enqueue([theirs])
        return seen

    monkeypatch.setattr(queues, "states", overtaken)
    assert queues.enqueue([ours, theirs]) == [ours]
    assert sorted(_job_ids(redis)) == sorted([ours.job_id, theirs.job_id])
    other.close()


def test_jobs_that_change_all_the_time_are_given_up(
    queues: Queues, redis: Redis, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, states = make_request("1.2.1"), queues.states
    tries: list[int] = []

    def changing(job_ids: Any) -> Any:
        seen = states(job_ids)
        redis.hset(Job.key_for(request.job_id), "description", str(len(tries)))
        tries.append(1)
        return seen

    monkeypatch.setattr(queues, "states", changing)
    with pytest.raises(WatchError):
        queues.enqueue([request])
    assert len(tries) == queues_module.ENQUEUE_TRIES
    assert _job_ids(redis) == []


def test_a_job_that_no_worker_has_can_be_discarded(queues: Queues, redis: Redis, make_request: MakeRequest) -> None:
    request = make_request("1.2.1", lane=Lane.STAT)
    queues.enqueue([request])
    assert queues.discard(request.job_id)
    assert _job_ids(redis, Lane.STAT) == []
    assert not Job.exists(request.job_id, connection=redis)
    assert not queues.discard(request.job_id)


def test_a_spool_key_is_read_back_from_a_job_id() -> None:
    key = "1.2.840.10008_00ff00ff00ff00ff"
    assert spool_key_of(job_id_for(key)) == key
    for job_id in ("somebody", "1_2_3", "a_00ff00ff00ff00ff", "_00ff00ff00ff00ff", "1__2_00ff00ff00ff00ff", ""):
        assert spool_key_of(job_id) is None
