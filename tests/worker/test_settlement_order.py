"""Workers that settle at once the first instances of the same studies, series or versions never wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Skipped
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.inference import ModelVersion
from models.records.ledger import mark_queued, register
from models.requests import InferenceRequest
from models.tasks import Task
from worker.settlement import Outcome, Settlement

Sessions = sessionmaker[Session]
MakeRequest = Callable[..., InferenceRequest]

MEET_WITHIN_S = 0.5
"""Where the order is one for all, the second worker waits for the first, which then meets nobody."""


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres_server: Any, postgres_database: str) -> str:
    """PostgreSQL only: SQLite has one writer at a time."""
    postgres_server.start()
    postgres_server.empty(postgres_database)
    return str(postgres_server.url(postgres_database).render_as_string(hide_password=False))


@contextmanager
def meeting_after(engine: Engine, start: str) -> Iterator[None]:
    """Let two transactions wait for each other after the first statement of each that starts so."""
    barrier, met = threading.Barrier(2), threading.local()

    def meet(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(start) and not getattr(met, "once", False):
            met.once = True
            with suppress(threading.BrokenBarrierError):
                barrier.wait(MEET_WITHIN_S)

    event.listen(engine, "after_cursor_execute", meet)
    yield
    event.remove(engine, "after_cursor_execute", meet)


def settle_at_once(settlement: Settlement, *batches: list[Outcome]) -> list[list[InstanceState | None]]:
    """Settle each batch in a thread of its own, without a second try."""
    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(settlement.settle, batches))


def _count(sessions: Sessions, table: Any) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _done(outcomes: Any, uid: str, study: str, series: str) -> Outcome:
    facts = replace(outcomes.facts(uid), study_instance_uid=study, series_instance_uid=series)
    return outcomes.done(uid, facts=facts)  # type: ignore[no-any-return]


def test_two_new_studies_in_opposite_order(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    first = [_done(outcomes, "1.1", "1.91", "1.81"), _done(outcomes, "1.3", "1.92", "1.82")]
    second = [_done(outcomes, "1.2", "1.92", "1.82"), _done(outcomes, "1.4", "1.91", "1.81")]
    with meeting_after(sessions.kw["bind"], "INSERT INTO study "):
        states = settle_at_once(settlement, first, second)
    assert states == [[InstanceState.DONE] * 2] * 2
    assert [_count(sessions, table) for table in (Study, Series, Instance)] == [2, 2, 4]


def test_two_new_series_of_a_known_study_in_opposite_order(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    settlement.settle([_done(outcomes, "1.0", "1.91", "1.80")])
    first = [_done(outcomes, "1.1", "1.91", "1.81"), _done(outcomes, "1.3", "1.91", "1.82")]
    second = [_done(outcomes, "1.2", "1.91", "1.82"), _done(outcomes, "1.4", "1.91", "1.81")]
    with meeting_after(sessions.kw["bind"], "INSERT INTO series "):
        states = settle_at_once(settlement, first, second)
    assert states == [[InstanceState.DONE] * 2] * 2
    assert [_count(sessions, table) for table in (Study, Series, Instance)] == [1, 3, 5]


def test_two_new_versions_in_opposite_order(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    settlement.settle([outcomes.refused(Skipped(Reason.EXCLUDED_BY_RULE), "1.2.0", outcomes.facts("1.2.0"))])

    def answered(uid: str, task: str) -> Outcome:
        result = outcomes.result(0.75) if task == "pneumonia" else outcomes.congestion(0, 1, 2, 3, 0, 1)
        return replace(outcomes.done(uid, facts=outcomes.facts("1.2.0")), results=(result,))

    first = [answered("1.2.1", "pneumonia"), answered("1.2.3", "csi")]
    second = [answered("1.2.2", "csi"), answered("1.2.4", "pneumonia")]
    with meeting_after(sessions.kw["bind"], "INSERT INTO model_version "):
        states = settle_at_once(settlement, first, second)
    assert states == [[InstanceState.DONE] * 2] * 2
    with sessions() as session:
        assert set(session.scalars(select(ModelVersion.task))) == {Task.PNEUMONIA, Task.CSI}


def test_two_groups_of_the_same_new_instances_in_opposite_order(sessions: Sessions, make_request: MakeRequest) -> None:
    requests = [make_request("1.1"), make_request("1.2")]

    def work(group: list[InferenceRequest]) -> None:
        with sessions.begin() as session:
            register(session, group, "keep_first")

    with meeting_after(sessions.kw["bind"], "INSERT INTO instance "), ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [requests, requests[::-1]]))
    assert _count(sessions, Instance) == 2


def test_marking_as_queued_leaves_out_what_a_worker_is_settling(sessions: Sessions, make_request: MakeRequest) -> None:
    with sessions.begin() as session:
        register(session, [make_request("1.1"), make_request("1.2")], "keep_first")
    with sessions.begin() as worker:
        settled = worker.scalars(select(Instance).where(Instance.sop_instance_uid == "1.1").with_for_update()).one()
        with sessions.begin() as registrar:
            registrar.execute(text("SET LOCAL lock_timeout = '2s'"))
            mark_queued(registrar, ["1.1", "1.2"])
        settled.state = InstanceState.DONE
    with sessions() as session:
        assert dict(session.execute(select(Instance.sop_instance_uid, Instance.state)).all()) == {
            "1.1": InstanceState.DONE,
            "1.2": InstanceState.QUEUED,
        }
