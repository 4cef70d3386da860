"""Reads the analysts' views as a stream: however many rows, only some of them are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnClause,
    Date,
    Float,
    Integer,
    Select,
    String,
    TableClause,
    column,
    func,
    select,
    table,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.types import TypeEngine

from models.errors import ConfigurationError
from models.records.base import UtcDateTime
from models.records.dictionary import DICTIONARY, Column, ValueType, View

ROWS_AT_ONCE: Final = 2000
"""That the database hands over together."""

VIEWS: Final = {
    "instance": DICTIONARY["instance_findings"],
    "study": DICTIONARY["study_findings"],
    "daily": DICTIONARY["daily_volume"],
    "performance": DICTIONARY["model_performance"],
}
"""By their names on the command line."""

Batch = Sequence[Sequence[Any]]

# SQLite knows no times, dates and booleans; without the types it would give text and numbers.
_SQL_TYPES: Final[dict[ValueType, TypeEngine[Any]]] = {
    ValueType.TEXT: String(),
    ValueType.INTEGER: Integer(),
    ValueType.NUMBER: Float(),
    ValueType.BOOLEAN: Boolean(),
    ValueType.DATE: Date(),
    ValueType.TIME: UtcDateTime(),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows and columns.

    Attributes:
        view: that is read.
        identity: whether columns that tell or link a patient are among them.
        study: this Study Instance UID alone; None for all.
        state: instances in this state alone; None for all.
        since: received at or after, of days and months this one and later ones by UTC; None for all.
        limit: at most so many; 0 for all.
    """

    view: View
    identity: bool = False
    study: str | None = None
    state: str | None = None
    since: datetime | None = None
    limit: int = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in the order of the view."""
        return tuple(column for column in self.view.columns if self.identity or not column.identifying)


def read(sessions: sessionmaker[Session], choice: Choice, *, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Batch]:
    """Give the rows, newest first, in batches, by a cursor that stays in the database.

    Values are of the types that the dictionary says, times aware.

    Raises:
        ConfigurationError: the view has no column for what is asked.
    """
    statement = _statement(choice)
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        # yield_per means a server-side cursor where there is one, and fetches of so many rows.
        found = session.execute(statement, execution_options={"yield_per": rows_at_once})
        yield from found.partitions()


def count(sessions: sessionmaker[Session], choice: Choice) -> int:
    """Count the rows that `read` gives."""
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        chosen = _chosen(choice, select(func.count()).select_from(_table(choice.view))).order_by(None)
        rows = int(session.scalars(chosen).one())
    return min(rows, choice.limit) if choice.limit else rows


def _statement(choice: Choice) -> Select[Any]:
    view = _table(choice.view)
    statement = _chosen(choice, select(*(view.c[column.name] for column in choice.columns)))
    statement = statement.order_by(view.c[choice.view.moment].desc())
    return statement.limit(choice.limit) if choice.limit else statement


def _chosen(choice: Choice, statement: Select[Any]) -> Select[Any]:
    if choice.study is not None:
        statement = statement.where(_column(choice.view, "study_instance_uid", "--study") == choice.study)
    if choice.state is not None:
        statement = statement.where(_column(choice.view, "state", "--state") == choice.state)
    if choice.since is not None:
        moment = _column(choice.view, choice.view.moment, "--since")
        statement = statement.where(moment >= _as_moment(choice.view, choice.since))
    return statement


def _as_moment(view: View, since: datetime) -> datetime | date:
    day = since.astimezone(UTC).date()
    if view.moment == "month":
        return day.replace(day=1)
    return day if view.moment == "day" else since


def _column(view: View, name: str, option: str) -> ColumnClause[Any]:
    described = view.column(name)
    if described is None:
        raise ConfigurationError(f"{option}: the view {view.name} has no column {name}")
    return column(name, _SQL_TYPES[described.type])


def _table(view: View) -> TableClause:
    return table(view.name, *(column(described.name, _SQL_TYPES[described.type]) for described in view.columns))
