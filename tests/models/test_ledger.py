"""The ledger: what registering an instance tells, on both databases and from several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import from_posix, utc_now
from models.records.dicom import Instance, InstanceState
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.ledger import DuplicatePolicy, Registration, mark_queued, register
from models.records.sessions import is_outage, open_database, session_factory
from models.requests import InferenceRequest, Lane
from models.settings import Settings
from models.tasks import Task
from models.zones import ZONES, HeartFailureClass

MakeRequest = Callable[..., InferenceRequest]
Sessions = sessionmaker[Session]


def _register(
    sessions: Sessions, *requests: InferenceRequest, policy: DuplicatePolicy = "keep_first"
) -> list[Registration]:
    with sessions.begin() as session:
        known = register(session, requests, policy)
    return [known[request.spool_key] for request in requests]


def _row(sessions: Sessions, uid: str = "1.2.3") -> Instance:
    with sessions() as session:
        return session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()


def _settle(sessions: Sessions, state: InstanceState = InstanceState.DONE, uid: str = "1.2.3") -> None:
    """Give an instance a result, as a worker would."""
    with sessions.begin() as session:
        row = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()
        row.state, row.settled_at = state, utc_now()
        first, second = (_inference(session, row, task) for task in (Task.PNEUMONIA, Task.CSI))
        session.add(
            ClassificationFinding(inference_id=first.id, label="x", positive=True, probability=0.75, threshold=0.5)
        )
        session.add_all(
            ZoneFinding(inference_id=second.id, zone=zone, score=2, probability=0.75, expected_score=1.5)
            for zone in ZONES
        )
        frame = dict.fromkeys(("frame_left", "frame_top", "frame_right", "frame_bottom"), 0)
        session.add(
            ZoneSummary(
                inference_id=second.id,
                mean_csi=2.0,
                gradable_zones=6,
                heart_failure_class=HeartFailureClass.MEDIUM,
                lungs_found=True,
                **frame,
            )
        )


def _inference(session: Session, row: Instance, task: Task) -> Inference:
    version = ModelVersion(task=task, version="1.0", network="n", network_sha256="0" * 64, first_served_at=utc_now())
    session.add(version)
    session.flush()
    inference = Inference(
        instance_id=row.id, model_version_id=version.id, provider="p", precision="fp32", inferred_at=utc_now()
    )
    session.add(inference)
    session.flush()
    return inference


def test_an_instance_first_seen_is_new_and_recorded_as_received(sessions: Sessions, make_request: MakeRequest) -> None:
    request = make_request(lane=Lane.STAT, received_at=1_700_000_000.123456)
    assert _register(sessions, request) == [Registration.NEW]
    row = _row(sessions)
    assert row.state is InstanceState.RECEIVED
    assert row.lane is Lane.STAT
    assert row.received_at == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert row.content_sha256 == request.content_sha256
    assert row.calling_ae_title == "MODALITY"
    assert (row.revision, row.duplicates, row.conflicts, row.attempts) == (0, 0, 0, 0)
    assert row.settled_at is None
    assert row.series_id is None


def test_the_same_arrival_told_again_is_pending_and_no_duplicate(sessions: Sessions, make_request: MakeRequest) -> None:
    request = make_request()
    _register(sessions, request)
    assert _register(sessions, request) == [Registration.PENDING]
    assert _row(sessions).duplicates == 0


def test_the_same_bytes_arriving_again_are_counted(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    assert _register(sessions, make_request(received_at=1.7e9 + 1)) == [Registration.PENDING]
    assert _row(sessions).duplicates == 1
    assert _row(sessions).received_at == from_posix(1.7e9), "the first arrival counts for the latency"


@pytest.mark.parametrize("state", [InstanceState.DONE, InstanceState.SKIPPED, InstanceState.FAILED])
def test_the_same_bytes_with_a_result_are_already_settled(
    sessions: Sessions, make_request: MakeRequest, state: InstanceState
) -> None:
    _register(sessions, make_request())
    _settle(sessions, state)
    again = make_request(received_at=1.7e9 + 60)
    for policy in ("keep_first", "replace"):
        assert _register(sessions, again, policy=policy) == [Registration.ALREADY_SETTLED]
    assert not Registration.ALREADY_SETTLED.to_be_queued
    assert _row(sessions).state is state


def test_other_bytes_are_kept_out_by_default(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    _settle(sessions)
    other = make_request(content=b"other pixels", received_at=1.7e9 + 60)
    assert _register(sessions, other) == [Registration.CONFLICT_KEPT]
    assert not Registration.CONFLICT_KEPT.to_be_queued
    row = _row(sessions)
    assert row.content_sha256 == make_request().content_sha256
    assert (row.state, row.conflicts, row.revision) == (InstanceState.DONE, 1, 0)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(ClassificationFinding)) == 1


def test_other_bytes_replace_the_result_where_that_is_the_policy(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    _settle(sessions, InstanceState.FAILED)
    other = make_request(content=b"other pixels", lane=Lane.STAT, received_at=1.7e9 + 60)
    assert _register(sessions, other, policy="replace") == [Registration.REPLACED]
    assert Registration.REPLACED.to_be_queued
    row = _row(sessions)
    assert row.content_sha256 == other.content_sha256
    assert (row.state, row.conflicts, row.revision, row.lane) == (InstanceState.RECEIVED, 1, 1, Lane.STAT)
    assert row.settled_at is None
    assert row.received_at == from_posix(1.7e9 + 60)
    with sessions() as session:
        for table in (Inference, ClassificationFinding, ZoneFinding, ZoneSummary):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert _register(sessions, other, policy="replace") == [Registration.PENDING]


def test_old_bytes_that_a_worker_still_had_in_hand_never_replace_the_new_ones(
    sessions: Sessions, make_request: MakeRequest
) -> None:
    old, new = make_request(), make_request(content=b"other pixels", received_at=1.7e9 + 60)
    _register(sessions, old)
    _register(sessions, new, policy="replace")
    assert _register(sessions, old, policy="replace") == [Registration.CONFLICT_KEPT]
    row = _row(sessions)
    assert (row.content_sha256, row.revision, row.conflicts) == (new.content_sha256, 1, 1)


def test_one_instance_twice_in_a_group_is_still_new(sessions: Sessions, make_request: MakeRequest) -> None:
    first, again, other = make_request(), make_request(received_at=1.7e9 + 1), make_request("1.2.4")
    assert _register(sessions, first, again, other) == [Registration.NEW] * 3
    assert _row(sessions).duplicates == 1


def test_nothing_stays_of_a_group_whose_transaction_is_rolled_back(
    sessions: Sessions, make_request: MakeRequest
) -> None:
    with sessions() as session:
        register(session, [make_request()], "keep_first")
        session.rollback()
    assert _register(sessions, make_request()) == [Registration.NEW]


def test_many_threads_registering_the_same_instances_make_one_row_each(
    sessions: Sessions, make_request: MakeRequest
) -> None:
    requests = [make_request(f"1.2.{number}") for number in range(10)]
    threads = 6
    barrier = Barrier(threads)

    def work(number: int) -> list[list[Registration]]:
        barrier.wait()
        order = requests if number % 2 else list(reversed(requests))
        return [[request.sop_instance_uid, *_register(sessions, request)] for request in order]

    with ThreadPoolExecutor(threads) as pool:
        told = [entry for entries in pool.map(work, range(threads)) for entry in entries]
    for request in requests:
        mine = [registration for uid, registration in told if uid == request.sop_instance_uid]
        assert mine.count(Registration.NEW) == 1
        assert mine.count(Registration.PENDING) == threads - 1
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == len(requests)


def test_different_bytes_of_one_uid_at_once_leave_exactly_one_of_them(
    sessions: Sessions, make_request: MakeRequest
) -> None:
    requests = [make_request(content=f"pixels {number}".encode()) for number in range(6)]
    barrier = Barrier(len(requests))

    def work(request: InferenceRequest) -> Registration:
        barrier.wait()
        return _register(sessions, request)[0]

    with ThreadPoolExecutor(len(requests)) as pool:
        told = list(pool.map(work, requests))
    assert sorted(registration.name for registration in told) == ["CONFLICT_KEPT"] * 5 + ["NEW"]
    winner = requests[told.index(Registration.NEW)]
    row = _row(sessions)
    assert row.content_sha256 == winner.content_sha256
    assert row.conflicts == 5


def test_only_received_instances_become_queued(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request("1.2.3"), make_request("1.2.4"))
    _settle(sessions)
    mark_queued(session := sessions(), ["1.2.3", "1.2.4", "1.2.5"])
    session.commit()
    session.close()
    assert _row(sessions, "1.2.3").state is InstanceState.DONE
    queued = _row(sessions, "1.2.4")
    assert queued.state is InstanceState.QUEUED
    assert queued.queued_at is not None


def test_times_come_back_aware_and_in_utc(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    in_delhi = datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with sessions.begin() as session:
        session.scalars(select(Instance)).one().queued_at = in_delhi
    queued_at = _row(sessions).queued_at
    assert queued_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert queued_at is not None
    assert queued_at.utcoffset() == timedelta(0)


def test_a_time_without_zone_is_refused(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    with pytest.raises(StatementError), sessions.begin() as session:
        session.scalars(select(Instance)).one().queued_at = datetime(2026, 1, 1)


def test_the_database_refuses_probabilities_outside_their_range(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    _settle(sessions)
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.scalars(select(ClassificationFinding)).one().probability = 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"score": 4},
        {"score": -1},
        {"score": None},
        {"expected_score": None},
        {"expected_score": 3.5},
        {"probability": 1.5},
    ],
    ids=str,
)
def test_the_database_refuses_zones_that_cannot_be(
    sessions: Sessions, make_request: MakeRequest, change: dict[str, Any]
) -> None:
    _register(sessions, make_request())
    _settle(sessions)
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(update(ZoneFinding).values(**change))


@pytest.mark.parametrize(
    "change", [{"mean_csi": 3.5}, {"mean_csi": None}, {"gradable_zones": 0}, {"gradable_zones": 7}]
)
def test_the_database_refuses_summaries_that_cannot_be(
    sessions: Sessions, make_request: MakeRequest, change: dict[str, Any]
) -> None:
    _register(sessions, make_request())
    _settle(sessions)
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(update(ZoneSummary).values(**change))


def test_rows_that_others_refer_to_cannot_be_deleted(sessions: Sessions, make_request: MakeRequest) -> None:
    _register(sessions, make_request())
    _settle(sessions)
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.delete(session.scalars(select(Instance)).one())


def test_the_text_of_a_refused_statement_hides_its_parameters(sessions: Sessions) -> None:
    insert_one = Instance(sop_instance_uid="1", sop_class_uid="1", transfer_syntax_uid="1", calling_ae_title="PLANTED")
    with pytest.raises(IntegrityError) as caught, sessions.begin() as session:
        session.add(insert_one)
    # PostgreSQL adds the row as DETAIL, which is why no message of another library is ever logged.
    assert "PLANTED" not in str(caught.value).split("DETAIL")[0]


def test_a_database_that_is_not_there_or_not_migrated_is_an_outage(
    bare_database_url: str, make_request: MakeRequest
) -> None:
    engine = open_database(Settings(database_url=bare_database_url))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the classes differ between the databases
        _register(session_factory(engine), make_request())
    engine.dispose()
    assert is_outage(caught.value)


def test_a_dropped_connection_is_an_outage_and_the_next_attempt_works(
    database: Engine, make_request: MakeRequest
) -> None:
    if database.dialect.name != "postgresql":
        pytest.skip("SQLite has no connection to lose")
    sessions = session_factory(database)
    with pytest.raises(OperationalError) as caught, sessions.begin() as session:
        session.connection().exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    assert is_outage(caught.value)
    assert _register(sessions, make_request()) == [Registration.NEW]


def test_a_refused_statement_is_no_outage(sessions: Sessions, make_request: MakeRequest) -> None:
    with pytest.raises(IntegrityError) as caught, sessions.begin() as session:
        session.add(Inference(instance_id=1, model_version_id=1, provider="p", precision="x", inferred_at=utc_now()))
    assert not is_outage(caught.value)
