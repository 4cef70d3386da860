"""Desks that settle instances and deliver their outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parent))

from desk import Desk

from worker.outbox import Outbox


@pytest.fixture
def make_desk(outbox: Outbox, outcomes: Any, put_output: Any) -> Iterator[Callable[[sessionmaker[Session]], Desk]]:
    desks: list[Desk] = []

    def make(sessions: sessionmaker[Session]) -> Desk:
        desks.append(Desk(sessions, outbox, outcomes, put_output))
        return desks[-1]

    yield make
    for desk in desks:
        desk.stop()


@pytest.fixture
def desk(sqlite_sessions: sessionmaker[Session], make_desk: Callable[[sessionmaker[Session]], Desk]) -> Desk:
    """A desk on SQLite, for what does not depend on the database."""
    return make_desk(sqlite_sessions)


@pytest.fixture
def desk_on_both(sessions: sessionmaker[Session], make_desk: Callable[[sessionmaker[Session]], Desk]) -> Desk:
    """A desk on SQLite and on PostgreSQL."""
    return make_desk(sessions)
