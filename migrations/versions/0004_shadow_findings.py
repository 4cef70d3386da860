"""What versions in the shadow found, apart from the findings; no view changes.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0004"
oldest_release = "0.1.0"


def upgrade() -> None:
    op.create_table(
        "shadow_finding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column(
            "task",
            sa.Enum(
                "pneumonia",
                "normality",
                "csi",
                "landmarks",
                name="task",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("live_version", sa.String(length=64), nullable=False),
        sa.Column("shadow_version", sa.String(length=64), nullable=False),
        sa.Column("live_score", sa.Double(), nullable=True),
        sa.Column("shadow_score", sa.Double(), nullable=True),
        sa.Column("agrees", sa.Boolean(), nullable=False),
        sa.Column("difference", sa.Double(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=16), nullable=False),
        sa.Column("inferred_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("difference >= 0", name=op.f("ck_shadow_finding_difference_range")),
        sa.CheckConstraint("live_score >= 0 AND live_score <= 1", name=op.f("ck_shadow_finding_live_score_range")),
        sa.CheckConstraint(
            "shadow_score >= 0 AND shadow_score <= 1", name=op.f("ck_shadow_finding_shadow_score_range")
        ),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_shadow_finding_instance_id_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_finding")),
        sa.UniqueConstraint(
            "instance_id", "task", "shadow_version", name=op.f("uq_shadow_finding_instance_id_task_shadow_version")
        ),
    )
    op.create_index("ix_shadow_finding_task_inferred_at", "shadow_finding", ["task", "inferred_at"])


def downgrade() -> None:
    op.drop_index("ix_shadow_finding_task_inferred_at", "shadow_finding")
    op.drop_table("shadow_finding")
