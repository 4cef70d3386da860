"""What is asked of Redis, database and clocks, each with a planted fault on a real server."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, make_url, text

from migrations.compatibility import SchemaGate
from migrations.schema import current_revision, newest_revision
from models.diagnosis.bucket import check_object_store
from models.diagnosis.checks import Finding, Severity
from models.diagnosis.clock import check_clock
from models.diagnosis.database import Schema, check_database
from models.diagnosis.redis_server import check_redis
from models.diagnosis.services import database_directory
from models.settings import Settings

SECRET = "hunter2-planted"
SCHEMA = Schema(newest_revision(), current_revision, lambda engine: SchemaGate(engine).check())


def _settings(**values: Any) -> Settings:
    return Settings(**values)


def _told(findings: Iterable[Finding]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {each.value: [] for each in Severity}
    for found in findings:
        assert SECRET not in found.text + found.remedy
        assert bool(found.remedy) == (found.severity in {Severity.WARNING, Severity.FAILURE})
        told[found.severity].append(f"{found.text} -> {found.remedy}")
    return told


# Redis


@pytest.fixture
def configure(redis: Redis) -> Iterator[Callable[[str, str], None]]:
    """Change a setting of the shared Redis until the test ends."""
    before: dict[str, str] = {}

    def change(name: str, value: str) -> None:
        before.setdefault(name, redis.config_get(name)[name])
        redis.config_set(name, value)

    yield change
    for name, value in before.items():
        redis.config_set(name, value)


def _redis(url: str) -> dict[str, list[str]]:
    return _told(check_redis(_settings(redis_url=url), 2))


def test_redis_without_persistence_and_without_worker_is_two_warnings(redis_server: Any) -> None:
    told = _redis(redis_server.url)
    assert told["failure"] == []
    assert [each.partition(" -> ")[0] for each in told["warning"]] == [
        "Redis keeps nothing on disk: a restart empties the queues",
        "no worker is registered",
    ]
    assert "CONFIG SET appendonly yes" in told["warning"][0]


def test_jobs_that_wait_for_no_worker_are_a_failure(redis_server: Any, redis: Redis) -> None:
    redis.rpush("rq:queue:routine", "a", "b")
    assert _redis(redis_server.url)["failure"] == [
        "no worker is registered while jobs wait (0 in stat, 2 in routine) -> "
        "python -m worker run (systemctl start radstream-worker)"
    ]
    redis.sadd("rq:workers", "rq:worker:one", "rq:worker:dead")
    redis.hset("rq:worker:one", "birth", "now")
    assert "1 worker registered; jobs waiting: 0 in stat, 2 in routine -> " in _redis(redis_server.url)["ok"]


def test_redis_that_throws_jobs_away_is_a_failure(redis_server: Any, configure: Callable[[str, str], None]) -> None:
    configure("maxmemory-policy", "allkeys-lru")
    assert "would throw jobs away if maxmemory were set" in _redis(redis_server.url)["warning"][1]
    configure("maxmemory", str(1 << 30))
    (failed,) = _redis(redis_server.url)["failure"]
    assert failed == (
        "Redis throws jobs away when it is full (maxmemory-policy allkeys-lru) -> "
        "redis-cli CONFIG SET maxmemory-policy noeviction && redis-cli CONFIG REWRITE"
    )


def test_redis_that_only_saves_now_and_then_is_a_warning(
    redis_server: Any, configure: Callable[[str, str], None]
) -> None:
    configure("save", "3600 1")
    assert "without an append-only file" in _redis(redis_server.url)["warning"][0]


def test_a_replica_of_redis_is_a_failure(redis_server: Any, redis: Redis) -> None:
    redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert "takes no writes" in _redis(redis_server.url)["failure"][0]
    finally:
        redis.execute_command("REPLICAOF", "NO", "ONE")


def test_a_wrong_password_of_redis_is_told_without_it(redis_server: Any, redis: Redis) -> None:
    path = redis_server.url.removeprefix("unix://")
    redis.config_set("requirepass", "right")
    try:
        assert "refuses our user or password" in _redis(f"unix://:{SECRET}@{path}")["failure"][0]
        assert "password" in _redis(redis_server.url)["failure"][0]
    finally:
        redis.execute_command("AUTH", "right")
        redis.config_set("requirepass", "")


def test_redis_that_is_not_there_or_hangs_is_a_failure_without_its_password() -> None:
    (failed,) = _redis(f"redis://:{SECRET}@127.0.0.1:1/0")["failure"]
    assert failed.startswith("Redis at 127.0.0.1:1 cannot be reached -> set RADSTREAM_REDIS_URL, or start Redis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/0"
        (failed,) = _told(check_redis(_settings(redis_url=url), 0.2))["failure"]
    assert "gives no answer within 0.2 s" in failed


# The database


def _database(url: str) -> dict[str, list[str]]:
    return _told(check_database(_settings(database_url=url), SCHEMA))


def _without_fsync(told: list[str]) -> list[str]:
    """The PostgreSQL of the tests runs without fsync, and the doctor says so."""
    return [each for each in told if "fsync" not in each]


@pytest.fixture
def at_revision(database: Engine) -> Iterator[Callable[[str], None]]:
    """Say that the database is at a migration, until the test ends."""

    def write(revision: str) -> None:
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})

    yield write
    write(str(newest_revision()))


def test_a_migrated_database_takes_a_write_and_keeps_nothing_of_it(database_url: str, database: Engine) -> None:
    told = _database(database_url)
    assert (told["failure"], _without_fsync(told["warning"])) == ([], [])
    assert any("is written and taken back" in each for each in told["ok"])
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM study")).scalar_one() == 0


def test_a_database_without_tables_is_to_be_migrated(bare_database_url: str) -> None:
    if bare_database_url.startswith("sqlite"):
        sqlite3.connect(str(make_url(bare_database_url).database)).close()
    (failed,) = _database(bare_database_url)["failure"]
    assert "migration none" in failed
    assert failed.endswith("-> run `python -m worker migrate`")


def test_an_older_schema_is_to_be_migrated(database_url: str, at_revision: Callable[[str], None]) -> None:
    at_revision("0007")
    (failed,) = _database(database_url)["failure"]
    assert "at migration 0007" in failed
    assert failed.endswith("-> run `python -m worker migrate`")


def test_a_newer_schema_wants_newer_code_or_lets_this_go_on(
    database_url: str, database: Engine, at_revision: Callable[[str], None]
) -> None:
    at_revision("9999")
    insert = "INSERT INTO schema_compatibility (id, oldest_code, oldest_release) VALUES (1, '%s', '%s')"
    with database.begin() as connection:
        kept = connection.execute(text("SELECT oldest_code, oldest_release FROM schema_compatibility")).one_or_none()
        connection.execute(text("DELETE FROM schema_compatibility"))
        connection.execute(text(insert % (newest_revision(), "9.0.0")))
    told = _database(database_url)
    (warned,) = _without_fsync(told["warning"])
    assert (told["failure"], "newer than this code" in warned) == ([], True)

    with database.begin() as connection:
        connection.execute(text("UPDATE schema_compatibility SET oldest_code = '9998'"))
    (failed,) = _database(database_url)["failure"]
    with database.begin() as connection:
        connection.execute(text("DELETE FROM schema_compatibility"))
        if kept is not None:
            connection.execute(text(insert % tuple(kept)))
    assert "is too old for it -> update radstream to at least 9.0.0" in failed


def test_an_absent_sqlite_file_is_told_and_not_made(tmp_path: Path) -> None:
    (failed,) = _database(f"sqlite:///{tmp_path}/data/none.db")["failure"]
    assert failed.endswith("-> python -m worker migrate")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_sqlite_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database, " * 1000)
    assert "is damaged" in _database(f"sqlite:///{tmp_path}/damaged.db")["failure"][0]


def test_sqlite_on_a_network_file_system_is_a_failure(sqlite_sessions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.diagnosis.database.file_system_of", lambda path: "nfs4")
    url = sqlite_sessions.kw["bind"].url.render_as_string()
    assert "locks cannot be trusted" in _database(url)["failure"][0]


def test_a_database_that_is_not_there_is_told_without_its_password(postgres_url: str) -> None:
    url = f"postgresql+psycopg://radstream:{SECRET}@127.0.0.1:1/radstream"
    assert _database(url)["failure"] == [
        "the database at 127.0.0.1:1/radstream cannot be reached -> "
        "set RADSTREAM_DATABASE_URL, or start PostgreSQL there (systemctl start postgresql)"
    ]
    absent = make_url(postgres_url).set(database="no_such_database").render_as_string(hide_password=False)
    assert "there is no such database or user" in _database(absent)["failure"][0]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgres_that_is_set_against_us_is_told(database_url: str) -> None:
    def with_options(options: str) -> dict[str, list[str]]:
        url = make_url(database_url)
        options = f"{url.query.get('options', '')} {options}".strip()
        return _database(url.update_query_dict({"options": options}).render_as_string(hide_password=False))

    serializable = with_options("-c default_transaction_isolation=serializable -c synchronous_commit=off")
    assert serializable["failure"] == []
    assert "transactions are serializable by default" in serializable["warning"][0]
    assert "a crash of PostgreSQL can lose" in serializable["warning"][1]
    assert "takes no writes" in with_options("-c default_transaction_read_only=on")["failure"][0]


@pytest.mark.parametrize(
    ("url", "directory"),
    [("sqlite:////data/x.db", Path("/data")), ("postgresql+psycopg://h/d", None), ("nonsense", None)],
)
def test_only_sqlite_has_a_directory(url: str, directory: Path | None) -> None:
    assert database_directory(_settings(database_url=url)) == directory


# Clocks


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("off_s", "said"),
    [(0, None), (1.5, None), (-30, "30 s ahead of ours"), (7200, "7200 s behind ours, as if one was")],
)
def test_clocks_that_differ_are_told(
    off_s: float, said: str | None, database_url: str, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    settings = _settings(redis_url=redis_server.url, database_url=database_url)
    monkeypatch.setattr("models.diagnosis.clock.time", SimpleNamespace(time=lambda: time.time() + off_s))
    clocks = [each for each in _told(check_clock(settings, 2))["warning"] if each.startswith("the clock of")]
    assert [each.partition(" is ")[0] for each in clocks] == (
        [] if said is None else ["the clock of Redis", "the clock of PostgreSQL"]
    )
    assert all(said is not None and said in each and "timedatectl" in each for each in clocks)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_in_another_time_zone_is_a_warning(database_url: str) -> None:
    url = make_url(database_url)
    options = f"{url.query.get('options', '')} -c timezone=Asia/Kathmandu".strip()
    named = url.update_query_dict({"options": options}).render_as_string(hide_password=False)
    settings = _settings(redis_url="redis://127.0.0.1:1/0", database_url=named)
    told = _told(check_clock(settings, 1))
    assert told["skipped"] == ["the clock of Redis: it does not answer -> "]
    assert any(each.startswith("PostgreSQL shows times +5.75 h from") for each in told["warning"]) or told["ok"][
        0
    ].endswith("UTC+0545) -> ")


# The object store


def _bucket(s3: Any, bucket: str | None = None) -> dict[str, list[str]]:
    return _told(
        check_object_store(
            _settings(
                object_store=f"s3://{bucket or s3.bucket}/doctor-test",
                object_store_endpoint=s3.endpoint,
                object_store_access_key_id="stand-in",
                object_store_secret_access_key=SECRET,
            )
        )
    )


def test_an_object_is_written_read_and_removed_again(s3: Any) -> None:
    told = _bucket(s3)
    assert (told["failure"], told["ok"] + told["warning"] != []) == ([], True)
    assert s3.keys("doctor-test") == []


def test_a_bucket_that_is_not_there_is_a_failure_without_its_key(s3: Any) -> None:
    (failed,) = _bucket(s3, "no-such-bucket")["failure"]
    assert failed.startswith("no object can be written to s3://no-such-bucket/doctor-test at http://")
    assert "our keys may put, get, list and delete" in failed


def test_without_an_object_store_there_is_nothing_to_ask() -> None:
    assert len(_told(check_object_store(_settings()))["skipped"]) == 1
