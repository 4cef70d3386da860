"""Registrar and sweeper with a real Redis and a real database: each accepted instance gets one job, whatever fails."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Gauge
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy import select, text, update

from migrations.schema import migrate
from models.errors import Reason
from models.queues import Queues
from models.records.dicom import Instance, InstanceState
from models.records.sessions import open_database, session_factory
from models.requests import JOB_NAME, InferenceRequest, Lane
from models.settings import Settings
from models.spool import Spool
from scp import sweeper as sweeper_module
from scp.registrar import Dependency, Registrar
from scp.scoreboard import Scoreboard
from scp.sweeper import Sweeper

CR = "1.2.840.10008.5.1.4.1.1.1"
_numbers = itertools.count(1)


class Feed:
    """The parent's half of the SCP, without processes."""

    def __init__(self, root, redis_url: str, sessions, policy: str = "keep_first") -> None:
        registry = CollectorRegistry()
        self.spool = Spool(root)
        self.spool.prepare()
        self.sessions = sessions
        self.redis_gauge = Gauge("redis", "-", registry=registry)
        self.database_gauge = Gauge("database", "-", registry=registry)
        redis = Dependency(self.redis_gauge, Reason.REDIS_UNAVAILABLE)
        database = Dependency(self.database_gauge, Reason.DATABASE_UNAVAILABLE)
        self.queues = Queues(redis_url)
        self.lags: list[float] = []
        self.registrar = Registrar(self.spool, sessions, self.queues, policy, redis, database, self.lags.append)
        self.scoreboard = Scoreboard(1)
        self.sweeper = Sweeper(self.spool, self.queues, self.registrar, self.scoreboard, redis, 15.0, 1000)

    def accept(
        self, content: bytes = b"dataset", uid: str | None = None, lane: Lane = Lane.ROUTINE
    ) -> InferenceRequest:
        """Store an instance as a receiver does."""
        uid = uid or f"1.2.3.{next(_numbers)}"
        with self.spool.begin(
            sop_class_uid=CR,
            sop_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title="CR1",
            called_ae_title="RADSTREAM",
            lane=lane,
        ) as writer:
            writer.write(content)
            key = writer.commit()
        return self.spool.request_for(key)

    def states(self) -> dict[str, InstanceState]:
        with self.sessions() as session:
            return {row.sop_instance_uid: row.state for row in session.scalars(select(Instance))}

    def set_state(self, state: InstanceState) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Instance).values(state=state))


@pytest.fixture(autouse=True)
def no_grace(monkeypatch) -> None:
    monkeypatch.setattr(sweeper_module, "GRACE_S", -1.0)


@pytest.fixture
def feed(tmp_path, redis_server, sqlite_sessions) -> Feed:
    return Feed(tmp_path / "spool", redis_server.url, sqlite_sessions)


@pytest.fixture
def queued(redis: Redis) -> Callable[[Lane], list[str]]:
    """Job ids in a queue, in the order in which a worker gets them."""

    def ids(lane: Lane = Lane.ROUTINE) -> list[str]:
        return Queue(lane.value, connection=redis, serializer=JSONSerializer).job_ids

    return ids


def fetch(redis: Redis, request: InferenceRequest) -> Job:
    return Job.fetch(request.job_id, connection=redis, serializer=JSONSerializer)


# Registrar


def test_an_instance_is_registered_and_queued(feed, redis, queued):
    request = feed.accept()
    assert feed.registrar.register_and_queue([request]) == 1
    assert queued() == [request.job_id]
    job = fetch(redis, request)
    assert job.func_name == JOB_NAME
    assert InferenceRequest.from_payload(job.args[0]) == request
    assert feed.states() == {request.sop_instance_uid: InstanceState.QUEUED}


def test_urgent_instances_have_a_queue_of_their_own(feed, queued):
    routine, stat = feed.accept(), feed.accept(lane=Lane.STAT)
    feed.registrar.register_and_queue([routine, stat])
    assert queued(Lane.STAT) == [stat.job_id]
    assert queued(Lane.ROUTINE) == [routine.job_id]


def test_a_job_is_json_and_names_no_patient(feed, redis):
    request = feed.accept(b"Planted^Name")
    feed.registrar.register_and_queue([request])
    everything = b"".join(
        key + b"".join(itertools.chain.from_iterable(redis.hgetall(key).items())) if redis.type(key) == b"hash" else key
        for key in redis.scan_iter()
    )
    assert b"Planted" not in everything
    assert json.loads(fetch(redis, request).data)[0] == JOB_NAME


def test_the_same_instance_twice_is_one_job(feed, queued):
    request = feed.accept()
    assert feed.registrar.register_and_queue([request, request]) == 1
    assert feed.registrar.register_and_queue([feed.accept(uid=request.sop_instance_uid)]) == 0
    assert queued() == [request.job_id]
    assert len(feed.states()) == 1


def test_a_settled_instance_that_comes_again_is_finished_at_once(feed, queued, redis):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.flushall()
    feed.set_state(InstanceState.DONE)
    again = feed.accept(uid=request.sop_instance_uid)
    assert again.spool_key == request.spool_key
    assert feed.registrar.register_and_queue([again]) == 0
    assert again.spool_key not in feed.spool
    assert queued() == []


def test_other_bytes_under_a_known_uid_are_dropped_or_replace(tmp_path, redis_server, sqlite_sessions, queued):
    keeping = Feed(tmp_path / "spool", redis_server.url, sqlite_sessions)
    first, other = keeping.accept(b"first"), None
    keeping.registrar.register_and_queue([first])
    other = keeping.accept(b"other", uid=first.sop_instance_uid)
    assert keeping.registrar.register_and_queue([other]) == 0
    assert other.spool_key not in keeping.spool
    assert first.spool_key in keeping.spool
    replacing = Feed(tmp_path / "spool", redis_server.url, sqlite_sessions, "replace")
    other = replacing.accept(b"other", uid=first.sop_instance_uid)
    assert replacing.registrar.register_and_queue([other]) == 1
    assert queued() == [first.job_id, other.job_id]


def test_without_redis_the_instance_is_registered_and_left_to_the_sweeper(feed, redis_server, queued):
    request = feed.accept()
    redis_server.stop()
    assert feed.registrar.register_and_queue([request]) is None
    assert feed.states() == {request.sop_instance_uid: InstanceState.RECEIVED}
    assert feed.sweeper.sweep().queued == 0
    redis_server.start()
    assert feed.sweeper.sweep().queued == 1
    assert queued() == [request.job_id]
    assert feed.redis_gauge._value.get() == 1


def test_without_a_database_nothing_is_queued_until_it_is_there(tmp_path, redis_server, queued):
    engine = open_database(Settings(database_url=f"sqlite:///{tmp_path}/not-migrated.db"))
    feed = Feed(tmp_path / "spool", redis_server.url, session_factory(engine))
    request = feed.accept()
    assert feed.registrar.register_and_queue([request]) is None
    assert feed.sweeper.sweep().queued == 0
    assert queued() == []
    assert feed.database_gauge._value.get() == 0
    migrate(engine)
    assert feed.sweeper.sweep().queued == 1
    assert queued() == [request.job_id]
    engine.dispose()


def test_an_instance_that_the_database_refuses_holds_up_no_other(feed, queued, monkeypatch):
    # SQLite takes any text; a trigger refuses as PostgreSQL refuses a value that is too long.
    with feed.sessions.begin() as session:
        session.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON instance WHEN NEW.sop_instance_uid = '1.2.666' "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )
    requests = [feed.accept(), feed.accept(uid="1.2.666"), feed.accept()]
    assert feed.registrar.register_and_queue(requests) == 2
    assert sorted(queued()) == sorted([requests[0].job_id, requests[2].job_id])
    assert requests[1].spool_key in feed.spool
    assert feed.database_gauge._value.get() == 1


def test_notices_are_registered_by_a_thread_and_their_lag_is_observed(feed, queued, eventually):
    feed.registrar.start()
    requests = [feed.accept() for _ in range(30)]
    for request in requests:
        feed.registrar.submit(request)
    eventually(lambda: len(feed.lags) == 30)
    feed.registrar.stop(5)
    assert sorted(queued()) == sorted(request.job_id for request in requests)


# Sweeper


def test_a_queued_instance_is_left_alone(feed, queued):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    assert [feed.sweeper.sweep().queued for _ in range(3)] == [0, 0, 0]
    assert queued() == [request.job_id]


def test_after_a_redis_flush_everything_pending_is_queued_again(feed, redis, queued):
    requests = [feed.accept() for _ in range(5)]
    feed.registrar.register_and_queue(requests)
    redis.flushall()
    assert feed.sweeper.sweep().queued == 5
    assert sorted(queued()) == sorted(request.job_id for request in requests)


def test_what_was_never_told_is_found_oldest_first(feed, queued):
    requests = [feed.accept() for _ in range(3)]
    assert feed.sweeper.sweep() == sweeper_module.Sweep(pending=3, queued=3)
    assert queued() == [request.job_id for request in requests]


def test_young_files_are_the_registrars(feed, monkeypatch):
    monkeypatch.setattr(sweeper_module, "GRACE_S", 60.0)
    feed.accept()
    assert feed.sweeper.sweep() == sweeper_module.Sweep(pending=0, queued=0)


@pytest.mark.parametrize("status", [JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED])
def test_a_job_in_hand_is_left_alone(status, feed, redis, queued):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.delete("rq:queue:routine")
    job = fetch(redis, request)
    job.set_status(status)
    job.heartbeat(job.enqueued_at, 100)
    assert [feed.sweeper.sweep().queued for _ in range(3)] == [0, 0, 0]


def test_a_started_job_without_a_heartbeat_for_long_is_queued_again(feed, redis, queued):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.delete("rq:queue:routine")
    fetch(redis, request).set_status(JobStatus.STARTED)
    redis.hset(Job.key_for(request.job_id), "last_heartbeat", "2020-01-01T00:00:00.000000Z")
    assert feed.sweeper.sweep().queued == 1
    assert queued() == [request.job_id]


@pytest.mark.parametrize("status", [JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED])
def test_a_job_that_is_over_with_its_file_pending_is_queued_again(status, feed, redis, queued):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.delete("rq:queue:routine")
    job = fetch(redis, request)
    job.set_status(status)
    failed = FailedJobRegistry("routine", connection=redis, serializer=JSONSerializer)
    failed.add(job, ttl=1000)
    assert feed.sweeper.sweep().queued == 1
    assert queued() == [request.job_id]
    assert fetch(redis, request).get_status() is JobStatus.QUEUED
    assert failed.count == 0


def test_a_job_just_taken_from_its_list_gets_a_sweep_of_time(feed, redis, queued):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.delete("rq:queue:routine")  # it still says `queued`, as between being taken and being started
    assert feed.sweeper.sweep().queued == 0
    assert feed.sweeper.sweep().queued == 1
    assert queued() == [request.job_id]
    assert feed.sweeper.sweep().queued == 0


def test_a_job_on_its_way_to_a_worker_is_left_alone(feed, redis):
    request = feed.accept()
    feed.registrar.register_and_queue([request])
    redis.lmove("rq:queue:routine", "rq:queue:routine:intermediate")
    assert [feed.sweeper.sweep().queued for _ in range(3)] == [0, 0, 0]


def test_a_file_that_is_not_ours_is_set_aside(feed):
    key = "1.2.3_0123456789abcdef"
    feed.spool.path_of(key).write_bytes(b"not a Part 10 file")
    assert feed.sweeper.sweep().queued == 0
    assert [entry.key for entry in feed.spool.set_aside_entries()] == [key]
    assert list(feed.spool.entries()) == []


def test_the_scoreboard_knows_the_count(feed):
    for _ in range(3):
        feed.accept()
    feed.sweeper.sweep()
    assert feed.scoreboard.pending() == 3


def test_ten_thousand_queued_instances_are_swept_in_little_time(feed, queued):
    requests = [feed.accept() for _ in range(300)]
    feed.registrar.register_and_queue(requests)
    # The rest stands for itself: files whose jobs are listed cost no question to Redis.
    feed.queues._redis.rpush("rq:queue:routine", *(f"1_2_4_{n}_0123456789abcdef" for n in range(9700)))
    for number in range(9700):
        feed.spool.path_of(f"1.2.4.{number}_0123456789abcdef").touch()
    began = time.monotonic()
    sweep = feed.sweeper.sweep()
    assert sweep == sweeper_module.Sweep(pending=10_000, queued=0)
    assert time.monotonic() - began < 5
