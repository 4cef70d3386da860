"""Indexes of tables that a running feed writes to."""

from __future__ import annotations

from alembic import op

from migrations.locking import LOCK_TIMEOUT_S


def add_index(name: str, table: str, columns: list[str]) -> None:
    """Create an index without keeping writers out; for migrations.

    PostgreSQL does that outside a transaction, so what the migration did before is committed: let it be the only thing
    that a migration does. What a broken attempt left, an index that is invalid, goes first. SQLite has only the other
    way, which takes moments at the sizes that it is for.
    """
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, table, columns)
        return
    with op.get_context().autocommit_block():
        # Long readers of any table are waited for, and nobody waits for us meanwhile.
        op.execute("SET lock_timeout = 0")
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True)
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S:g}s'")
