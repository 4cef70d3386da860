"""Storage commitment asked by us, and the HTTP status of deliveries by STOW-RS.

What others ask us for is not here: those transactions lie beside the spool, so that they need no database.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0006"
oldest_release = "0.1.0"


def upgrade() -> None:
    # Columns without constraints of their own: SQLite adds and drops them without copying the table.
    op.add_column("delivery", sa.Column("last_http_status", sa.Integer(), nullable=True))
    op.add_column("delivery", sa.Column("commitment_due_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("delivery", sa.Column("commitment_uid", sa.String(length=64), nullable=True))
    op.add_column("delivery", sa.Column("commitment_attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("delivery", sa.Column("commitment_failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("delivery", sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_delivery_commitment_due", "delivery", ["destination", "commitment_due_at"])
    op.create_table(
        "commitment_request",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_request")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitment_request_transaction_uid")),
    )


def downgrade() -> None:
    op.drop_table("commitment_request")
    op.drop_index("ix_delivery_commitment_due", "delivery")
    for name in ("committed_at", "commitment_failures", "commitment_attempts"):
        op.drop_column("delivery", name)
    for name in ("commitment_uid", "commitment_due_at", "last_http_status"):
        op.drop_column("delivery", name)
