"""A running process says in the database that it is there, and leaves when its code is too old for the database."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sqlalchemy import Engine, delete
from sqlalchemy.exc import SQLAlchemyError

from migrations.compatibility import CodeTooOld, SchemaGate, SchemaMismatch
from models.records.base import utc_now
from models.records.processes import Process
from models.records.sessions import session_factory
from models.telemetry import get_logger

BEAT_S: Final = 20.0
"""A process says so often that it is there; see `models.records.processes.GONE_AFTER`."""
_FORGET_AFTER: Final = timedelta(days=1)

log = get_logger("migrations.presence")


def release_of_this_code() -> str:
    """Give the release of radstream that runs; 0 where it is run without being installed."""
    try:
        return version("radstream")
    except PackageNotFoundError:
        return "0"


class Presence:
    """Writes the row of this process, and looks whether its code may still use the database.

    A database that is away is nobody's business here: the next beat comes.

    Args:
        kind: of process, for whoever reads the name.
        leave: is told when this code is too old for the database; None for a process that waits for it.
    """

    def __init__(self, database: Engine, kind: str, leave: Callable[[], None] | None, beat_s: float = BEAT_S) -> None:
        self.name = f"{kind} {socket.gethostname()[:80]} {os.getpid()}"
        self._sessions, self._gate = session_factory(database), SchemaGate(database)
        self._leave, self._beat_s = leave, beat_s
        self._release = release_of_this_code()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="presence", daemon=True)

    def start(self) -> None:
        """Be there from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Be gone."""
        self._stopping.set()
        self._thread.join(self._beat_s)
        try:
            with self._sessions.begin() as session:
                session.execute(delete(Process).where(Process.name == self.name))
        except SQLAlchemyError as error:
            log.debug("presence_stays", exc_info=error)

    def _work(self) -> None:
        while True:
            self._beat()
            if self._stopping.wait(self._beat_s):
                return

    def _beat(self) -> None:
        try:
            # Written first: a migration that looked before this write is seen by the check of this or the next beat.
            with self._sessions.begin() as session:
                row = Process(name=self.name, code=self._gate.code, release=self._release, seen_at=utc_now())
                session.merge(row)
                session.execute(delete(Process).where(Process.seen_at < utc_now() - _FORGET_AFTER))
        except SQLAlchemyError as error:
            log.debug("presence_not_told", exc_info=error)
        try:
            self._gate.check()
        except SQLAlchemyError:
            return
        except SchemaMismatch as error:
            log.error("database_not_for_this_code", what_to_do=str(error))
            if self._leave is not None and isinstance(error, CodeTooOld):
                self._leave()
