"""Old studies go with every row that they have, and nothing else goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from old_studies import CR, NOW, Planter, contents, days_ago
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from models.audit.events import Patient
from models.records.base import Base
from models.records.dicom import InstanceState, Study
from models.records.findings import FINDING_KINDS
from models.records.ledger import Registration, register
from models.records.outputs import DeliveryState
from models.records.summaries import SummaryState
from models.requests import InferenceRequest
from worker.retention.records import KEPT_TABLES, RecordRetention

Sessions = sessionmaker[Session]


def retention(sessions: Sessions, *held: str) -> RecordRetention:
    return RecordRetention(sessions, days_ago(30), frozenset(held))


def test_an_old_study_leaves_no_row_in_any_table_and_a_young_one_keeps_all(sessions: Sessions) -> None:
    with sessions.begin() as session:
        planter = Planter(session)
        planter.study("1.2.1", age_days=29.9)
        planter.loose("1.5.1", age_days=29.9)
    before = contents(sessions)
    with sessions.begin() as session:
        planter.session = planter.records.session = session
        planter.study("1.2.2", age_days=30.1)
        planter.study("1.2.3", age_days=300)
        planter.loose("1.5.2", age_days=30.1)
    planted = contents(sessions)
    untouched = {name for name in planted if planted[name] == before[name]}
    assert untouched == set(KEPT_TABLES), "a new table needs a rule in worker.retention.records, and rows in this test"

    work = retention(sessions)
    found = work.find()
    assert (len(found.due), found.unfinished, found.held, len(found.loose_instances)) == (2, 0, 0, 1)
    deleted = work.delete_studies(found.due) + work.delete_loose(found.loose_instances)
    assert contents(sessions) == before
    assert [(each.told.uid, each.told.sop_classes, each.told.patient) for each in deleted] == [
        ("1.2.2", {CR: 2}, Patient("P1.2.2")),
        ("1.2.3", {CR: 2}, Patient("P1.2.3")),
        (None, {"1.2": 1}, None),
    ]
    assert sorted(deleted[0].file_names) == ["1.2.2.9.1.dcm", "1.2.2.9.2.dcm", "1.2.2.9.3.dcm"]
    assert sorted(deleted[0].spool_keys) == [f"1.2.2.1.{number}_{'0' * 16}" for number in (1, 2)]
    again = work.find()
    assert (again.due, again.loose_instances) == ([], [])
    assert work.delete_studies(found.due) == []


def test_the_views_show_what_is_left(sessions: Sessions) -> None:
    with sessions.begin() as session:
        planter = Planter(session)
        planter.study("1.2.1", age_days=1)
        planter.study("1.2.2", age_days=300)
    work = retention(sessions)
    work.delete_studies(work.find().due)
    with sessions() as session:
        for view, rows in (("study_findings", 1), ("instance_findings", 2)):
            uids = session.scalars(text(f"SELECT study_instance_uid FROM {view}")).all()
            assert uids == ["1.2.1"] * rows
        assert session.scalar(text("SELECT sum(received) FROM daily_volume")) == 2


@pytest.mark.parametrize(
    "unfinished",
    [
        {"state": InstanceState.RECEIVED},
        {"state": InstanceState.QUEUED},
        {"delivery": DeliveryState.PENDING},
        {"commitment_due_at": NOW},
        {"summary": SummaryState.DUE},
    ],
    ids=lambda told: next(iter(told)),
)
def test_a_study_with_unfinished_work_is_left_alone(sqlite_sessions: Sessions, unfinished: dict[str, Any]) -> None:
    with sqlite_sessions.begin() as session:
        Planter(session).study("1.2.1", age_days=300, **unfinished)
    before, work = contents(sqlite_sessions), retention(sqlite_sessions)
    found = work.find()
    assert (found.due, found.unfinished) == ([], 1)
    with sqlite_sessions() as session:
        every = list(session.scalars(select(Study.id)))
    assert work.delete_studies(every) == []  # looked at again in the transaction
    assert contents(sqlite_sessions) == before


def test_failed_instances_and_given_up_deliveries_are_finished(sqlite_sessions: Sessions) -> None:
    with sqlite_sessions.begin() as session:
        Planter(session).study("1.2.1", age_days=300, state=InstanceState.FAILED, delivery=DeliveryState.DEAD)
    assert len(retention(sqlite_sessions).find().due) == 1


def test_a_study_of_which_one_instance_came_lately_is_young(sqlite_sessions: Sessions) -> None:
    with sqlite_sessions.begin() as session:
        planter = Planter(session)
        planter.study("1.2.1", age_days=300)
        session.execute(text("UPDATE instance SET received_at = :at WHERE sop_instance_uid = '1.2.1.1.2'"), {"at": NOW})
    found = retention(sqlite_sessions).find()
    assert (found.due, found.unfinished, found.held) == ([], 0, 0)


def test_a_study_on_hold_is_left_alone(sqlite_sessions: Sessions) -> None:
    with sqlite_sessions.begin() as session:
        planter = Planter(session)
        planter.study("1.2.1", age_days=300)
        planter.study("1.2.2", age_days=300)
    work = retention(sqlite_sessions, "1.2.1")
    found = work.find()
    assert (len(found.due), found.held) == (1, 1)
    with sqlite_sessions() as session:
        every = list(session.scalars(select(Study.id)))
    assert [each.told.uid for each in work.delete_studies(every)] == ["1.2.2"]


def test_an_instance_of_no_study_that_waits_is_left_alone(sqlite_sessions: Sessions) -> None:
    with sqlite_sessions.begin() as session:
        waiting = Planter(session).loose("1.5.1", age_days=300, state=InstanceState.RECEIVED)
    work = retention(sqlite_sessions)
    assert work.find().loose_instances == []
    assert work.delete_loose([waiting.id]) == []


def test_what_another_transaction_has_in_hand_is_left_for_the_next_time(sessions: Sessions, database_url: str) -> None:
    if not database_url.startswith("postgresql"):
        return  # SQLite has one writer: there is nothing in hand beside it
    with sessions.begin() as session:
        Planter(session).study("1.2.1", age_days=300)
    work = retention(sessions)
    due = work.find().due
    with sessions.begin() as other:
        other.execute(select(Study).with_for_update())
        assert work.delete_studies(due) == []
    assert len(work.delete_studies(due)) == 1


def test_an_instance_that_comes_again_is_a_new_one(
    sqlite_sessions: Sessions, make_request: Callable[..., InferenceRequest]
) -> None:
    request = make_request("1.2.1.1.1")
    with sqlite_sessions.begin() as session:
        Planter(session).study("1.2.1", age_days=300)
        session.execute(text("UPDATE instance SET content_sha256 = :sha"), {"sha": request.content_sha256})
    with sqlite_sessions() as session:
        assert register(session, [request], "keep_first") == {request.spool_key: Registration.ALREADY_SETTLED}
        session.rollback()
    work = retention(sqlite_sessions)
    work.delete_studies(work.find().due)
    with sqlite_sessions.begin() as session:
        assert register(session, [request], "keep_first") == {request.spool_key: Registration.NEW}


def test_every_kind_of_finding_has_a_rule() -> None:
    by_inference = {
        table.name
        for table in Base.metadata.tables.values()
        if any(key.column.table.name == "inference" for key in table.foreign_keys)
    }
    assert by_inference == {kind.__tablename__ for kind in FINDING_KINDS}
