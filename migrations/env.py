"""Alembic environment: the database is the one that the processes use, from ``RADSTREAM_DATABASE_URL``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection

import models.records.findings
import models.records.inference
import models.records.outputs
import models.records.processes
import models.records.summaries  # noqa: F401 - fills the metadata
from migrations.compatibility import record
from migrations.locking import migration_lock
from models.records.base import Base
from models.records.sessions import open_database
from models.settings import Settings, load


def note_compatibility(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """Keep in the database which code may use it, with each migration."""
    if ctx.connection is not None:  # None: SQL is only printed
        record(ctx.connection, context.script, set(heads))


def run(connection: Connection) -> None:
    """Run migrations on an open connection, one process at a time."""
    with migration_lock(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=connection.dialect.name == "sqlite",
            transaction_per_migration=True,
            on_version_apply=note_compatibility,
        )
        with context.begin_transaction():
            context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = open_database(load(Settings))
    with engine.connect() as connection:
        run(connection)
    engine.dispose()
