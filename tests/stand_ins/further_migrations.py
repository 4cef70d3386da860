"""Migrations of a radstream that is newer than this one: the real ones, and some more that a test adds."""

from __future__ import annotations

import shutil
from pathlib import Path

from migrations import schema

EXPAND = "expand"
NEWEST = schema.newest_revision()

MIGRATION = '''"""{title}"""

import sqlalchemy as sa
from alembic import op

from migrations.indexes import add_index

revision = "{revision}"
down_revision = "{before}"
{declared}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''

ADDS_A_COLUMN = 'op.add_column("instance", sa.Column("weight_kg", sa.Double(), nullable=True))'
DROPS_THE_COLUMN = 'op.drop_column("instance", "weight_kg")'


class FurtherMigrations:
    """A copy of the directory `migrations`; `migrations.schema.SCRIPTS` is to be set to `scripts`."""

    def __init__(self, directory: Path) -> None:
        self.scripts = directory / "newer"
        shutil.copytree(schema.SCRIPTS, self.scripts, ignore=shutil.ignore_patterns("__pycache__"))
        self._last = str(NEWEST)

    def expand(self, upgrade: str = ADDS_A_COLUMN, downgrade: str = DROPS_THE_COLUMN) -> str:
        """Add an expand, and give its revision."""
        return self.add('kind = "expand"', upgrade, downgrade)

    def contract(self, oldest_code: str | None = None, upgrade: str = "pass") -> str:
        """Add a contract for code from `oldest_code` on; None means from itself on. Releases are 9.0 and so on."""
        own = f"{int(self._last) + 1:04d}"
        declared = f'kind = "contract"\noldest_code = "{oldest_code or own}"\noldest_release = "9.{int(own)}"'
        return self.add(declared, upgrade, "pass")

    def add(self, declared: str, upgrade: str = "pass", downgrade: str = "pass") -> str:
        """Add a migration after the last one, and give its revision."""
        before, self._last = self._last, f"{int(self._last) + 1:04d}"
        text = MIGRATION.format(
            title=f"Synthetic {self._last}",
            revision=self._last,
            before=before,
            declared=declared,
            upgrade=upgrade,
            downgrade=downgrade,
        )
        (self.scripts / "versions" / f"{self._last}_synthetic.py").write_text(text)
        return self._last
