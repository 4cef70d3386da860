"""Which studies are to be summarised.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0008"
oldest_release = "0.1.0"

_STATES = ("due", "made", "skipped")


def upgrade() -> None:
    op.create_table(
        "study_summary",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_STATES, name="summary_state", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_summary_study_id_study")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study_summary")),
    )
    op.create_index("ix_study_summary_state_next_attempt_at", "study_summary", ["state", "next_attempt_at"])


def downgrade() -> None:
    op.drop_table("study_summary")
