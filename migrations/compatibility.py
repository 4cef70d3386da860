"""Whether this code may use the database that it meets: the same, older, newer and made so that we may, or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, delete, insert, inspect, select

from migrations.schema import Declaration, Kind, declarations, known_revisions, revision_at
from models.errors import ConfigurationError
from models.records.processes import SchemaCompatibility
from models.telemetry import get_logger

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

RECHECK_S: Final = 10.0
"""How old an answer may be, where each use of the database asks."""

log = get_logger("migrations.compatibility")


class SchemaMismatch(ConfigurationError):
    """This code must not use the database as it is; the text says what to type."""


class CodeTooOld(SchemaMismatch):
    """The database was made for newer code."""


class SchemaGate:
    """Answers for one process and one database; what it says of a newer database is logged once."""

    def __init__(self, database: Engine) -> None:
        self._database = database
        self._known = known_revisions()
        self._good_until = 0.0
        self._told: str | None = None

    @property
    def code(self) -> str:
        """The newest revision that this code knows."""
        return self._known[-1]

    def check(self) -> None:
        """See that this code may use the database.

        Raises:
            SchemaMismatch: it may not, and what to type; `CodeTooOld` where migrating does not help.
            SQLAlchemyError: the database does not answer.
        """
        with self._database.connect().execution_options(read_only=True) as connection:
            at = revision_at(connection)
            if at == self.code:
                return
            if at is None or at in self._known:
                raise SchemaMismatch(
                    f"the results database is at migration {at or 'none'}, this version needs {self.code}: "
                    "run `python -m worker migrate`"
                )
            oldest = _read(connection)
        if oldest is None or oldest.oldest_code not in self._known:
            release = "a newer release" if oldest is None else f"at least {oldest.oldest_release}"
            raise CodeTooOld(
                f"the results database is at migration {at}, and this code (migration {self.code}) is too old for it: "
                f"update radstream to {release}"
            )
        if at != self._told:
            log.warning("database_newer", database=at, code=self.code, oldest_code=oldest.oldest_code)
            self._told = at

    def check_now_and_then(self) -> None:
        """Do the same, at most every `RECHECK_S` while all is well."""
        if time.monotonic() < self._good_until:
            return
        self.check()
        self._good_until = time.monotonic() + RECHECK_S


def _read(connection: Connection) -> SchemaCompatibility | None:
    columns = SchemaCompatibility.id, SchemaCompatibility.oldest_code, SchemaCompatibility.oldest_release
    if not inspect(connection).has_table(SchemaCompatibility.__tablename__):
        return None
    row = connection.execute(select(*columns)).one_or_none()
    return None if row is None else SchemaCompatibility(id=row[0], oldest_code=row[1], oldest_release=row[2])


def last_contract(known: list[Declaration], at: str | None) -> Declaration | None:
    """Give the last contract up to a revision; what it demands holds for the database."""
    names = [each.revision for each in known]
    passed = known[: names.index(at) + 1] if at in names else []
    return next((each for each in reversed(passed) if each.kind is Kind.CONTRACT), None)


def record(connection: Connection, script: ScriptDirectory, heads: set[str]) -> None:
    """Write which code may use the database, in the transaction of the migration that brought it to `heads`."""
    if not inspect(connection).has_table(SchemaCompatibility.__tablename__):
        return  # before 0009, or below it again
    contract = last_contract(declarations(script), next(iter(heads), None))
    connection.execute(delete(SchemaCompatibility))
    if contract is not None:
        connection.execute(
            insert(SchemaCompatibility).values(
                id=1, oldest_code=contract.oldest_code, oldest_release=contract.oldest_release
            )
        )
