"""What code can rely on in a database, and what a migration took away of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, event, inspect
from sqlalchemy.engine.reflection import ObjectKind


@dataclass(frozen=True, slots=True)
class Shape:
    """Tables and views.

    Attributes:
        columns: by table or view and name: type, and whether a row without a value is taken.
        rules: by table: what rows must keep: checks, foreign keys, uniqueness.
    """

    columns: dict[tuple[str, str], tuple[str, bool]]
    rules: dict[str, set[str]]


def shape_of(engine: Engine) -> Shape:
    """Read it from the database."""
    found = inspect(engine)
    columns = {
        (table, column["name"]): (str(column["type"]), column["nullable"] or column["default"] is not None)
        for (_, table), each in found.get_multi_columns(kind=ObjectKind.ANY).items()
        for column in each
    }
    rules: dict[str, set[str]] = {name: set() for name in found.get_table_names()}
    for (_, table), checks in found.get_multi_check_constraints().items():
        rules[table] |= {f"check {check['sqltext']}" for check in checks}
    for (_, table), keys in found.get_multi_foreign_keys().items():
        rules[table] |= {f"foreign key {key['constrained_columns']}" for key in keys}
    for (_, table), unique in found.get_multi_unique_constraints().items():
        rules[table] |= {f"unique {each['column_names']}" for each in unique}
    for (_, table), indexes in found.get_multi_indexes().items():
        rules[table] |= {f"unique {each['column_names']}" for each in indexes if each["unique"]}
    return Shape(columns, rules)


def taken_away(before: Shape, after: Shape) -> list[str]:
    """Say what older code, which reads and writes as `before` was, does not find, or is refused."""
    told = []
    for (table, column), (kind, optional) in sorted(before.columns.items()):
        now = after.columns.get((table, column))
        if now is None:
            told.append(f"{table}.{column} is gone")
        elif now[0] != kind:
            told.append(f"{table}.{column} is {now[0]}, and was {kind}")
        elif optional and not now[1]:
            told.append(f"{table}.{column} must be given")
    for (table, column), (_, optional) in sorted(after.columns.items()):
        if table in before.rules and (table, column) not in before.columns and not optional:
            told.append(f"{table}.{column} must be given")
    for table, rules in sorted(before.rules.items()):
        told += [f"{table} has a new rule: {rule}" for rule in sorted(after.rules.get(table, set()) - rules)]
    return told


@contextmanager
def blocking_indexes(engine: Engine, tables: set[str]) -> Iterator[list[str]]:
    """Collect statements that keep writers of existing tables out while an index is made (PostgreSQL)."""
    found: list[str] = []

    def look(connection: object, cursor: object, statement: str, *_: object) -> None:
        index = re.match(r"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?P<concurrently>CONCURRENTLY\s+)?.*?\sON\s+"
                         r'"?(?P<table>\w+)', statement, re.IGNORECASE | re.DOTALL)  # fmt: skip
        if index and not index["concurrently"] and index["table"] in tables and engine.dialect.name == "postgresql":
            found.append(statement)

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", look)
