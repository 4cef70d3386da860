"""The level of the database's schema: bring it to the newest, or say what is missing.

Each migration declares its kind. An *expand* only adds, so that code before it goes on beside it; after a *contract*,
code older than `oldest_code` must not. `migrations.compatibility` is what processes ask.

Alembic is imported where migrations are read or run: processes that only ask for a level start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

SCRIPTS: Final = Path(__file__).parent


class Kind(StrEnum):
    """What a migration means to code that is older than it."""

    EXPAND = "expand"
    CONTRACT = "contract"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a migration says of itself.

    Attributes:
        oldest_code: the oldest revision whose code may use the database afterwards; None for an expand.
        oldest_release: the first release that has it.
        title: the first line of its docstring.
    """

    revision: str
    kind: Kind
    oldest_code: str | None
    oldest_release: str | None
    title: str


def alembic_config(scripts: Path | None = None) -> Config:
    """Alembic's configuration, the same from a checkout and from an installed package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts or SCRIPTS))
    return config


def declarations(script: ScriptDirectory) -> list[Declaration]:
    """Give what all migrations declare, the first one first.

    Raises:
        ValueError: one declares no kind, or a contract does not say whose code may go on.
    """
    return [_declaration(each) for each in reversed(list(script.walk_revisions()))]


def _declaration(script: Script) -> Declaration:
    declared, oldest, release = (
        getattr(script.module, name, None) for name in ("kind", "oldest_code", "oldest_release")
    )
    if declared not in set(Kind):
        raise ValueError(f"migration {script.revision}: declares no kind, expand or contract")
    if (declared == Kind.CONTRACT) != (oldest is not None and release is not None):
        raise ValueError(f"migration {script.revision}: oldest_code and oldest_release belong to a contract, and only")
    title = (script.doc or "").splitlines()[0] if script.doc else ""
    return Declaration(script.revision, Kind(declared), oldest, release, title)


def known_revisions() -> list[str]:
    """The revisions that this code knows, the first one first: files are named after them."""
    return sorted(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*_*.py"))


def newest_revision() -> str:
    """The revision that this code was written for."""
    return known_revisions()[-1]


def current_revision(engine: Engine) -> str | None:
    """The revision of the database; None when it is empty."""
    with engine.connect().execution_options(read_only=True) as connection:
        return revision_at(connection)


def revision_at(connection: Connection) -> str | None:
    """The same, on a connection."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return revision


def pending(engine: Engine) -> list[Declaration]:
    """What `migrate` would run, in its order; nothing for a database that is newer than this code."""
    from alembic.script import ScriptDirectory

    known, at = declarations(ScriptDirectory.from_config(alembic_config())), current_revision(engine)
    names = [each.revision for each in known]
    if at is not None and at not in names:
        return []
    return known[names.index(at) + 1 if at is not None else 0 :]


def migrate(engine: Engine, revision: str = "head") -> None:
    """Upgrade the database; a newest one is left alone.

    Raises:
        Transient: another one is at it, or a table is in use for longer than a feed should wait.
    """
    from alembic import command

    config = alembic_config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
