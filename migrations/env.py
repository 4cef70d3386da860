"""Alembic environment: the database is the one that the processes use, from ``RADSTREAM_DATABASE_URL``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

import models.records.findings
import models.records.inference
import models.records.outputs
import models.records.summaries  # noqa: F401 - fills the metadata
from models.records.base import Base
from models.records.sessions import open_database
from models.settings import Settings, load


def run(connection: Connection) -> None:
    """Run migrations on an open connection."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
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
