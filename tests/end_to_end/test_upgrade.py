"""An upgrade under a running feed: older code goes on with a newer database, until a contract that is not for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from further_migrations import FurtherMigrations
from instances import Sender, chest
from reconciliation import Ledger, reconcile, spool_leftovers, tails, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from migrations import schema
from models.records.sessions import open_database
from models.settings import Settings
from worker.__main__ import main

BETWEEN_INSTANCES_S = 0.4
Newer = Callable[..., tuple[int, str]]


@pytest.fixture
def migrations(tmp_path: Path) -> FurtherMigrations:
    """Two expands: a column that older code does not fill, and an index."""
    newer = FurtherMigrations(tmp_path)
    newer.expand(
        'op.add_column("instance", sa.Column("weight", sa.Integer(), nullable=False, server_default="0"))',
        'op.drop_column("instance", "weight")',
    )
    newer.expand('add_index("ix_calling", "instance", ["calling_ae_title"])', 'op.drop_index("ix_calling")')
    return newer


@pytest.fixture
def newer(migrations: FurtherMigrations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Newer:
    """Run `python -m worker` of a newer radstream, as far as migrations go, for a feed."""

    def run(feed: Feed, *arguments: str) -> tuple[int, str]:
        with monkeypatch.context() as patched:
            for name, value in feed.environment.items():
                patched.setenv(name, value)
            patched.setattr("worker.__main__.configure_logging", lambda settings, process: None)
            patched.setattr(schema, "SCRIPTS", migrations.scripts)
            if arguments[0] == "back":
                _step_back(arguments[1])
                return 0, ""
            capsys.readouterr()
            status = main(list(arguments))
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def _step_back(revision: str) -> None:
    config, engine = schema.alembic_config(), open_database(Settings())
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    engine.dispose()


def _events(log: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def _migrated_under_load(feed: Feed, newer: Newer, ledger: Ledger) -> Sender:
    """Migrate while instances arrive, are inferred, and are delivered; give who sent them."""
    sender, enough = Sender(feed.port), threading.Event()

    def send() -> None:
        while not enough.wait(BETWEEN_INSTANCES_S):
            sender.send([chest(64)])

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert wait_until(lambda: "done" in ledger.states().values(), 120, 0.05), tails(feed)
        done, before = newer(feed, "migrate"), len(sender.accepted)
        assert done == (0, "the results database is at migration 0011\n")
        assert wait_until(lambda: len(sender.accepted) >= before + 3, 60, 0.05)
    finally:
        enough.set()
        thread.join()
    assert (sender.refused, sender.unanswered) == ([], [])
    return sender


@pytest.mark.timeout(400)  # several starts of a feed on a machine that may be busy
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_running_feed_settles_everything_while_and_after_an_expand_runs(
    backend: str, feeds: Callable[..., Feed], archive: Receiver, newer: Newer, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres").url if backend == "postgresql" else None
    feed = feeds(database_url=url)
    feed.start()
    ledger = Ledger(feed)
    sender = _migrated_under_load(feed, newer, ledger)
    reconcile(feed, archive, sender.accepted)
    weights = ledger.rows("SELECT weight FROM instance")
    assert [row["weight"] for row in weights] == [0] * len(sender.accepted)
    for log in (feed.worker.log, feed.scp.log):
        assert not _events(log, "database_not_for_this_code")
    if backend == "postgresql":
        _contract(feed, archive, newer, ledger, sender, request.getfixturevalue("migrations"))
    ledger.close()


def _contract(
    feed: Feed, archive: Receiver, newer: Newer, ledger: Ledger, sender: Sender, migrations: FurtherMigrations
) -> None:
    """A contract waits for older processes; by force, they refuse, or wait, and nothing is lost."""
    migrations.contract()
    status, told = newer(feed, "migrate")
    assert (status, "migration 0012 is a contract, and older processes run: " in told) == (2, True)
    assert all(f"{kind} " in told.partition("run: ")[2] for kind in ("delivery", "scp", "worker"))

    feed.worker.stop()
    feed.scp.stop()
    registered = len(ledger.states())
    assert newer(feed, "migrate") == (0, "the results database is at migration 0012\n")
    feed.scp.start()
    feed.worker.start()
    feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
    sender.send([chest(64) for _ in range(3)])
    assert len(sender.accepted) == registered + 3, "Success needs no database"
    assert wait_until(lambda: not feed.worker.running, 90)
    assert feed.worker.process is not None
    assert feed.worker.process.returncode == 2
    sentence = "is too old for it: update radstream to at least 9.12"
    assert feed.worker.log.read_text().splitlines()[-1].endswith(sentence)
    assert wait_until(lambda: bool(_events(feed.scp.log, "database_not_for_this_code")), 60), tails(feed)
    assert _events(feed.scp.log, "database_not_for_this_code")[0]["what_to_do"].endswith(sentence)
    assert wait_until(lambda: bool(_events(feed.scp.log, "unavailable")), 60), tails(feed)
    assert len(spool_leftovers(feed)) == 3
    assert len(ledger.states()) == registered, "an SCP that is too old must not write"

    # Taken back here; an operator updates the processes. They go on where they were.
    newer(feed, "back", "0011")
    feed.worker.start()
    wait_settled(feed, sender.accepted)
    reconcile(feed, archive, sender.accepted)
    told_newer = _events(feed.worker.log, "database_newer")[0]
    assert (told_newer["database"], told_newer["oldest_code"]) == ("0011", "0009")
