"""One migration at a time, and none that keeps the feed waiting.

PostgreSQL: an advisory lock of the session, asked for again and again rather than waited for: a session that waits has
a snapshot, for which CREATE INDEX CONCURRENTLY in the other would wait in turn. And a lock time-out: an ALTER TABLE
that waits behind a long reader makes everybody after it wait as well. SQLite: one transaction that begins with the
write lock, so that the second reads what the first has done; there all migrations are done, or none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from models.errors import Reason, Transient

LOCK_KEY: Final = 0x726164736368656D
"""Of the advisory lock: `radschem`."""
LOCK_TIMEOUT_S: Final = 3.0
"""For which a migration waits for a table, and with it whoever comes after."""
OTHER_TIMEOUT_S: Final = 300.0
"""For which another `migrate` is waited for."""
_LOOK_AGAIN_S: Final = 0.5
_LOCK_NOT_AVAILABLE: Final = "55P03"


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    """Hold the lock.

    Raises:
        Transient: another one has it for too long, or a table could not be had in time; nothing is half done.
    """
    if connection.dialect.name == "sqlite":
        with connection.begin():
            yield
        return
    deadline = time.monotonic() + OTHER_TIMEOUT_S
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        connection.commit()
        if time.monotonic() > deadline:
            raise Transient(Reason.DATABASE_UNAVAILABLE, "another migration is running; wait for it, then try again")
        time.sleep(_LOOK_AGAIN_S)
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_S:g}s'"))
    connection.commit()
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Transient(
            Reason.DATABASE_UNAVAILABLE,
            f"a table was in use for more than {LOCK_TIMEOUT_S:g} s (a long query or report?); what was done stays "
            "done, nothing is half done: end the query or wait for it, then run `migrate` again",
        ) from error
    finally:
        # Where the connection is lost, so is the lock.
        with suppress(DBAPIError):
            connection.rollback()
            connection.execute(text("RESET lock_timeout"))
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK_KEY})
            connection.commit()
