"""`python -m worker migrate`: what it shows, what it refuses, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from further_migrations import NEWEST, FurtherMigrations
from redis import Redis
from rq import worker_registration
from rq.worker import BaseWorker
from sqlalchemy.orm import Session

from migrations import schema
from models.records.base import utc_now
from models.records.processes import Process
from models.records.sessions import open_database
from models.settings import Settings
from worker.__main__ import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    redis_server: Any,
    bare_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run `python -m worker migrate` on a bare database; give the exit status and all that it says."""
    monkeypatch.setenv("RADSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", bare_database_url)
    monkeypatch.setenv("RADSTREAM_REDIS_URL", redis_server.url)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)

    def command(*arguments: str) -> tuple[int, str]:
        status = main(["migrate", *arguments])
        told = capsys.readouterr()
        return status, told.out + told.err

    return command


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FurtherMigrations:
    """Migrations after ours, which this code knows as if it were newer."""
    migrations = FurtherMigrations(tmp_path)
    monkeypatch.setattr(schema, "SCRIPTS", migrations.scripts)
    return migrations


def _say_that_runs(url: str, code: str) -> None:
    engine = open_database(Settings(database_url=url))  # type: ignore[arg-type]  # pydantic makes it secret
    with Session(engine) as session, session.begin():
        session.add(Process(name=f"worker there {code}", code=code, release="0.1.0", seen_at=utc_now()))
    engine.dispose()


def test_the_plan_shows_what_is_pending_and_changes_nothing(run: Run, newer: FurtherMigrations) -> None:
    schema_before = run("--plan")
    assert schema_before[0] == 0
    assert "pending, from migration none on" in schema_before[1]
    assert run() == (0, f"the results database is at migration {NEWEST}\n")
    newer.expand()
    newer.contract()
    for _ in range(2):
        status, told = run("--plan")
        assert status == 0
        rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in told.splitlines() if "Synthetic" in line]
        assert rows == [["0010", "expand", ""], ["0011", "contract", "0011"]]
    assert run() == (0, "the results database is at migration 0011\n")
    assert run("--plan") == (0, "the results database is at migration 0011; nothing is pending\n")


def test_a_contract_waits_for_older_processes_and_an_expand_does_not(
    run: Run, newer: FurtherMigrations, bare_database_url: str
) -> None:
    run()
    newer.expand()
    _say_that_runs(bare_database_url, NEWEST)
    assert run()[0] == 0
    newer.contract(oldest_code="0010")
    _say_that_runs(bare_database_url, "0010")
    status, told = run()
    assert status == 2
    assert told.startswith(
        "radstream: migration 0011 is a contract, and older processes run: "
        f"worker there {NEWEST} (radstream 0.1.0, migration {NEWEST}); update them to radstream 9.11 or stop them"
    )
    assert f"in the way of the contract: worker there {NEWEST}" in run("--plan")[1]
    assert run("--force") == (0, "the results database is at migration 0011\n")


def test_workers_from_before_processes_were_recorded_are_found_in_the_registry_of_rq(
    run: Run, bare_database_url: str, redis: Redis, redis_server: Any
) -> None:
    engine = open_database(Settings(database_url=bare_database_url))  # type: ignore[arg-type]
    schema.migrate(engine, "0008")
    engine.dispose()
    old = BaseWorker(["routine"], name="old-worker", connection=redis)
    with redis.pipeline() as pipeline:
        pipeline.hset(old.key, "birth", "now")
        worker_registration.register(old, pipeline)
        pipeline.execute()
    status, told = run()
    assert (status, "older processes run: old-worker; " in told) == (2, True)
    redis_server.stop()
    status, told = run()
    assert (status, "redis_unavailable: so it is not known whether older workers run" in told) == (1, True)
    redis_server.start()
    assert run() == (0, f"the results database is at migration {NEWEST}\n")


def test_older_code_says_that_the_database_is_newer_and_whether_that_is_well(
    run: Run, newer: FurtherMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(schema.__file__).parent
    newer.expand()
    run()
    with monkeypatch.context() as older:
        older.setattr(schema, "SCRIPTS", ours)
        status, told = run()
        assert status == 0
        assert told.endswith(f"the results database is at migration 0010, newer than this code ({NEWEST})\n")
    newer.contract()
    run()
    monkeypatch.setattr(schema, "SCRIPTS", ours)
    status, told = run()
    assert status == 2
    assert told.startswith(
        f"radstream: the results database is at migration 0011, and this code (migration {NEWEST}) is"
    )
    assert told.endswith("update radstream to at least 9.11\n")
