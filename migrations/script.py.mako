"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
# "expand": only adds, so that code before it goes on. Else "contract", with the oldest revision whose code goes on
# and the first release that has that revision: oldest_code = "...", oldest_release = "...".
# Indexes of tables that exist: migrations.indexes.add_index.
kind = "expand"


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
