"""What a Redis that is killed comes back with, by what it was told to keep, and what the sweep makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kept_redis import APPENDS, KEEPS_NOTHING, SAVES, KeptRedis
from prometheus_client import CollectorRegistry, Gauge
from redis.exceptions import OutOfMemoryError
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended, suspend
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason
from models.queues import Queues
from models.requests import InferenceRequest, Lane
from models.spool import Spool
from scp import sweeper as sweeper_module
from scp.registrar import Dependency, Registrar
from scp.scoreboard import Scoreboard
from scp.sweeper import Sweeper

Arrange = Callable[..., "tuple[KeptRedis, Entry]"]
CR = "1.2.840.10008.5.1.4.1.1.1"


class Entry:
    """The half of the SCP that fills the queues, without processes; its spool is all that it remembers."""

    def __init__(self, root: Path, sessions: sessionmaker[Session], redis: KeptRedis) -> None:
        self.spool = Spool(root)
        self.spool.prepare()
        registry = CollectorRegistry()
        self.redis_up = Gauge("redis", "-", registry=registry)
        up = Dependency(self.redis_up, Reason.REDIS_UNAVAILABLE)
        database = Dependency(Gauge("database", "-", registry=registry), Reason.DATABASE_UNAVAILABLE)
        self.queues = Queues(redis.url)
        self.registrar = Registrar(self.spool, sessions, self.queues, "keep_first", up, database, lambda seconds: None)
        self.sweeper = Sweeper(self.spool, self.queues, self.registrar, Scoreboard(1), up, 15.0, 1000)
        self._redis = redis

    def accept(self, number: int, lane: Lane = Lane.ROUTINE) -> InferenceRequest:
        """Store an instance, as a receiver does before it says Success."""
        with self.spool.begin(
            sop_class_uid=CR,
            sop_instance_uid=f"1.2.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title="CR1",
            called_ae_title="RADSTREAM",
            lane=lane,
        ) as writer:
            writer.write(b"dataset")
            key = writer.commit()
        return self.spool.request_for(key)

    def queued(self, lane: Lane = Lane.ROUTINE) -> list[str]:
        """UIDs in a queue, the next one first."""
        jobs = Queue(lane.value, connection=self._redis.client, serializer=JSONSerializer).get_jobs()
        return [InferenceRequest.from_payload(job.args[0]).sop_instance_uid for job in jobs]


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "GRACE_S", -1.0)


@pytest.fixture
def arrange(tmp_path: Path, sqlite_sessions: sessionmaker[Session]) -> Iterator[Arrange]:
    """Start a Redis with options, and an SCP's half beside it."""
    made: list[tuple[KeptRedis, Entry]] = []

    def start(*options: str) -> tuple[KeptRedis, Entry]:
        redis = KeptRedis(*options)
        redis.start()
        made.append((redis, Entry(tmp_path / "spool", sqlite_sessions, redis)))
        return made[-1]

    yield start
    for redis, entry in made:
        entry.queues.close()
        redis.remove()


def _fill(redis: KeptRedis, entry: Entry) -> None:
    """Two urgent and four routine ones, of which one was put back to the front and one failed; workers suspended."""
    requests = [entry.accept(number, Lane.STAT) for number in (1, 2)] + [entry.accept(number) for number in (3, 4, 5)]
    failing = entry.accept(6)
    entry.registrar.register_and_queue([*requests, failing])
    queue = Queue(Lane.ROUTINE.value, connection=redis.client, serializer=JSONSerializer)
    queue.remove(requests[4].job_id)
    queue.push_job_id(requests[4].job_id, at_front=True)
    entry.queues.discard(failing.job_id)
    job = Job.create("x", id=failing.job_id, connection=redis.client, serializer=JSONSerializer)
    job.save()
    queue.failed_job_registry.add(job, 3600, "worker_died")
    entry.spool.set_aside(failing.spool_key)
    suspend(redis.client)


def test_with_an_append_only_file_everything_is_there_after_a_kill(
    arrange: Arrange,
) -> None:
    redis, entry = arrange(*APPENDS)
    _fill(redis, entry)
    before = redis.contents()
    redis.kill()
    redis.start()
    assert redis.contents() == before
    assert (entry.queued(Lane.STAT), entry.queued()) == (["1.2.1", "1.2.2"], ["1.2.5", "1.2.3", "1.2.4"])
    assert entry.sweeper.sweep().queued == 0, "nothing was missing"


def test_a_redis_that_keeps_nothing_is_filled_again_from_the_spool_each_lane_its_own(
    arrange: Arrange,
) -> None:
    redis, entry = arrange(*KEEPS_NOTHING)
    _fill(redis, entry)
    redis.kill()
    redis.start()
    assert redis.contents() == {}
    assert entry.sweeper.sweep().queued == 5
    assert entry.sweeper.sweep().queued == 0, "once"
    assert (entry.queued(Lane.STAT), sorted(entry.queued())) == (["1.2.1", "1.2.2"], ["1.2.3", "1.2.4", "1.2.5"])
    # What is lost: the place at the front, RQ's list of failed jobs (the records and the spool have them), suspension.
    assert entry.queued() == ["1.2.3", "1.2.4", "1.2.5"]
    assert Queue("routine", connection=redis.client).failed_job_registry.count == 0
    assert not is_suspended(redis.client)


def test_a_redis_that_saves_now_and_then_comes_back_with_the_past_and_the_sweep_adds_what_came_since(
    arrange: Arrange,
) -> None:
    redis, entry = arrange(*SAVES)
    early = [entry.accept(1), entry.accept(2)]
    entry.registrar.register_and_queue(early)
    redis.client.save()
    entry.queues.discard(early[0].job_id)
    entry.spool.finish(early[0].spool_key)
    entry.registrar.register_and_queue([entry.accept(3)])
    redis.kill()
    redis.start()
    assert entry.queued() == ["1.2.1", "1.2.2"], "one that is settled is queued again; its worker finds it settled"
    assert entry.sweeper.sweep().queued == 1
    assert entry.queued() == ["1.2.1", "1.2.2", "1.2.3"]


def test_a_full_redis_that_evicts_nothing_refuses_and_keeps_what_it_has(
    arrange: Arrange,
) -> None:
    redis, entry = arrange(*KEEPS_NOTHING, "--maxmemory-policy", "noeviction")
    first = [entry.accept(number) for number in range(1, 4)]
    entry.registrar.register_and_queue(first)
    redis.client.config_set("maxmemory", "100kb")
    assert entry.registrar.register_and_queue([entry.accept(4)]) is None
    with pytest.raises(OutOfMemoryError):
        redis.client.set("anything", "x")
    assert entry.queued() == ["1.2.1", "1.2.2", "1.2.3"]
    redis.client.config_set("maxmemory", "0")
    assert entry.sweeper.sweep().queued == 1
    assert entry.queued() == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]


def test_a_full_redis_that_evicts_forgets_jobs_without_a_word_until_the_sweep(
    arrange: Arrange,
) -> None:
    redis, entry = arrange(*KEEPS_NOTHING, "--maxmemory-policy", "allkeys-lru")
    requests = [entry.accept(number) for number in range(1, 201)]
    assert entry.registrar.register_and_queue(requests) == 200
    used = int(redis.client.info("memory")["used_memory"])
    redis.client.config_set("maxmemory", str(used - 50_000))
    redis.client.set("room", "x")
    # As a worker does, RQ drops the ids whose jobs are gone when it looks at them.
    assert len(entry.queued()) < 200, "nothing was evicted, and this test means nothing"
    redis.client.config_set("maxmemory", "0")
    entry.sweeper.sweep()
    entry.sweeper.sweep()  # jobs that say they are queued, and are in no list, are believed once
    assert sorted(entry.queued()) == sorted(request.sop_instance_uid for request in requests)
