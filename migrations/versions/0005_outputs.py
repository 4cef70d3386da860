"""More kinds of output, outputs of a whole study, and outputs of no model version.

Going back deletes what the older schema cannot say: outputs of the newer kinds, of studies and of no version, with
their deliveries. The files and what was delivered stay where they are.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0005"
oldest_release = "0.1.0"

_FIRST = ("secondary_capture",)
_NOW = (*_FIRST, "structured_report", "parametric_map", "presentation_state", "study_summary")

_OF_INSTANCE_OR_STUDY = "(instance_id IS NULL) <> (study_id IS NULL)"
_CHECK = "ck_output_of_instance_or_study"
_STUDY = "fk_output_study_id_study"


def _kinds(*names: str) -> sa.Enum:
    return sa.Enum(*names, name="output_kind", native_enum=False, create_constraint=False, length=32)


def _allowed(names: tuple[str, ...]) -> str:
    return "kind IN ({})".format(", ".join(f"'{name}'" for name in names))


@contextmanager
def _deliveries_aside() -> Iterator[None]:
    """Let SQLite replace the table `output`: it does not drop one that rows of another refer to."""
    if op.get_bind().dialect.name != "sqlite":
        yield
        return
    op.execute("CREATE TEMPORARY TABLE kept_delivery AS SELECT * FROM delivery")
    op.execute("DELETE FROM delivery")
    yield
    op.execute("INSERT INTO delivery SELECT * FROM kept_delivery")
    op.execute("DROP TABLE kept_delivery")


def upgrade() -> None:
    with _deliveries_aside(), op.batch_alter_table("output") as batch:
        batch.drop_constraint(op.f("ck_output_output_kind"), type_="check")
        batch.alter_column("kind", existing_type=_kinds(*_FIRST), type_=_kinds(*_NOW), existing_nullable=False)
        batch.create_check_constraint(op.f("ck_output_output_kind"), _allowed(_NOW))
        batch.alter_column("instance_id", existing_type=sa.Integer(), nullable=True)
        batch.alter_column("model_version_id", existing_type=sa.Integer(), nullable=True)
        batch.add_column(sa.Column("study_id", sa.Integer(), nullable=True))
        batch.create_foreign_key(op.f(_STUDY), "study", ["study_id"], ["id"])
        batch.create_check_constraint(op.f(_CHECK), _OF_INSTANCE_OR_STUDY)
        batch.create_index(op.f("ix_output_study_id"), ["study_id"])


def downgrade() -> None:
    newer = "kind <> 'secondary_capture' OR instance_id IS NULL OR model_version_id IS NULL"
    op.execute(f"DELETE FROM delivery WHERE output_id IN (SELECT id FROM output WHERE {newer})")
    op.execute(f"DELETE FROM output WHERE {newer}")
    with _deliveries_aside(), op.batch_alter_table("output") as batch:
        batch.drop_index(op.f("ix_output_study_id"))
        batch.drop_constraint(op.f(_CHECK), type_="check")
        batch.drop_constraint(op.f(_STUDY), type_="foreignkey")
        batch.drop_column("study_id")
        batch.alter_column("model_version_id", existing_type=sa.Integer(), nullable=False)
        batch.alter_column("instance_id", existing_type=sa.Integer(), nullable=False)
        batch.drop_constraint(op.f("ck_output_output_kind"), type_="check")
        batch.alter_column("kind", existing_type=_kinds(*_NOW), type_=_kinds(*_FIRST), existing_nullable=False)
        batch.create_check_constraint(op.f("ck_output_output_kind"), _allowed(_FIRST))
