"""Fixtures of the end-to-end tests: real processes, real sockets, a stand-in network with a known answer."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from postgres import PostgresControl
from stand_in_store import make_store

from deploy.launcher import Feed, FeedOptions
from deploy.receiver import Receiver

QUICK = {
    "RADSTREAM_SCP_SWEEP_INTERVAL_S": "2",
    "RADSTREAM_WORKER_HEARTBEAT_INTERVAL_S": "1",
    "RADSTREAM_WORKER_JOB_HEARTBEAT_TTL_S": "5",
    "RADSTREAM_WORKER_MAINTENANCE_INTERVAL_S": "1",
    "RADSTREAM_WORKER_DELIVERY_FIRST_RETRY_S": "1",
    "RADSTREAM_WORKER_DELIVERY_LONGEST_RETRY_S": "2",
    "RADSTREAM_WORKER_DELIVERY_TIMEOUT_S": "5",  # a claim that an outage caught is held for thrice as long
    "RADSTREAM_WORKER_DECODERS": "1",
}
"""Shorter intervals, so that recovery can be watched, and no more processes than it takes."""

FeedFactory = Callable[..., Feed]


class PreparedFeed(Feed):
    """A feed whose SQLite database is a copy of a migrated one, which is quicker than to migrate another."""

    def __init__(self, options: FeedOptions, migrated: Path) -> None:
        super().__init__(options)
        if options.database_url is None:
            shutil.copy(migrated, options.directory / "radstream.db")

    def migrate(self) -> None:
        if "RADSTREAM_DATABASE_URL" in self.environment:
            super().migrate()


@pytest.fixture(scope="session")
def stand_in_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store")).root


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "archive") as receiver:
        yield receiver


@contextmanager
def feeds_in(directory: Path, store: Path, archive: Receiver, migrated: Path) -> Iterator[FeedFactory]:
    """Make feeds that deliver to `archive`, and stop them at the end."""
    made: list[Feed] = []

    def make(database_url: str | None = None, processes: int = 1, **environment: str) -> Feed:
        destination: dict[str, object] = {
            "name": "archive",
            "host": "127.0.0.1",
            "port": archive.port,
            "ae_title": archive.ae_title,
        }
        feed = PreparedFeed(
            FeedOptions(
                directory / f"feed{len(made)}",
                processes=processes,
                destinations=[destination],
                database_url=database_url,
                environment={**QUICK, "RADSTREAM_MODEL_STORE": str(store), **environment},
            ),
            migrated,
        )
        made.append(feed)
        return feed

    try:
        yield make
    finally:
        for feed in made:
            for service in (feed.scp, feed.worker, feed.redis):
                service.kill()


@pytest.fixture
def feeds(tmp_path: Path, stand_in_store: Path, archive: Receiver, sqlite_template: Path) -> Iterator[FeedFactory]:
    """Make feeds that deliver to `archive` and are stopped when the test ends."""
    with feeds_in(tmp_path, stand_in_store, archive, sqlite_template) as make:
        yield make


@pytest.fixture(scope="session")
def lasting_feeds(sqlite_template: Path) -> Callable[[Path, Path, Receiver], AbstractContextManager[FeedFactory]]:
    """Make feeds for a file of tests that share one: see `feeds_in`."""
    return partial(feeds_in, migrated=sqlite_template)


@pytest.fixture
def postgres() -> Iterator[PostgresControl]:
    # Not under pytest's directory: the server runs as another user, and pytest closes its root to others.
    directory = Path(tempfile.mkdtemp(prefix="radstream-postgres-"))
    control = PostgresControl(directory)
    yield control
    control.stop()
    shutil.rmtree(directory, ignore_errors=True)


def executable(name: str) -> str:
    """Find a program from Debian; missing is a failure in CI and a skip elsewhere."""
    # The virtual environment has programs of the same names, pynetdicom's.
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; .ci/run installs it")
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def peer_program() -> Callable[[str], str]:
    return executable
