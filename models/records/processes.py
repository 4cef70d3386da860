"""Who uses the database, and who may: what an upgrade under running processes needs to know.

`schema_compatibility` is written by the migrations (see `migrations.compatibility`), `process` by the processes
themselves (see `migrations.presence`), so that no migration takes away what a running one needs.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import CheckConstraint, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.records.base import Base, UtcDateTime, utc_now

GONE_AFTER: Final = timedelta(seconds=90)
"""A process that was not seen for so long is dead."""


class SchemaCompatibility(Base):
    """The one row that says which code may use this database.

    Attributes:
        oldest_code: a revision; code whose newest migration is an older one must not go on.
        oldest_release: the first radstream release that has this revision, for the message.
    """

    __tablename__ = "schema_compatibility"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    oldest_code: Mapped[str] = mapped_column(String(32))
    oldest_release: Mapped[str] = mapped_column(String(32))


class Process(Base):
    """One running process.

    Attributes:
        name: kind, host and process id.
        code: the newest migration that it knows.
        release: of radstream.
    """

    __tablename__ = "process"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    code: Mapped[str] = mapped_column(String(32))
    release: Mapped[str] = mapped_column(String(32))
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


def running_processes(session: Session) -> list[Process]:
    """List the processes that were seen lately."""
    seen = select(Process).where(Process.seen_at > utc_now() - GONE_AFTER).order_by(Process.name)
    return list(session.scalars(seen))
