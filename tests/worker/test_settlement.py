"""Settlement: one result per instance, whoever settles it and how often, and no instance pays for its neighbour."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Skipped, Transient, Unprocessable
from models.pixels.lung_fields import Frame
from models.records.base import Base
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.ledger import register
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from models.records.sessions import open_database, session_factory
from models.requests import InferenceRequest
from models.settings import Settings
from worker.settings import Recipient
from worker.settlement import Settlement, forget_outcome, is_settled, known_revision

Sessions = sessionmaker[Session]
MakeRequest = Callable[..., InferenceRequest]


def _all(sessions: Sessions, table: type[Base]) -> list[Any]:
    with sessions() as session:
        return list(session.scalars(select(table).order_by(table.__table__.primary_key.columns[0])))


def _row(sessions: Sessions, uid: str) -> Instance:
    with sessions() as session:
        return session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()


def _counts(sessions: Sessions) -> dict[str, int]:
    with sessions() as session:
        return {
            table.__name__.lower(): session.scalar(select(func.count()).select_from(table)) or 0
            for table in (Instance, Inference, ClassificationFinding, Output, Delivery)
        }


def test_done_skipped_and_failed_are_recorded_each_with_its_reason(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    states = settlement.settle(
        [
            outcomes.done("1.2.1"),
            outcomes.refused(Skipped(Reason.EXCLUDED_BY_RULE, "lateral chest"), "1.2.2", outcomes.facts("1.2.2")),
            outcomes.refused(Unprocessable(Reason.UNDECODABLE_PIXELS, "cut off"), "1.2.3", outcomes.facts("1.2.3")),
            outcomes.refused(Unprocessable(Reason.MALFORMED_DATASET), "1.2.4"),
        ]
    )
    assert states == [InstanceState.DONE, InstanceState.SKIPPED, InstanceState.FAILED, InstanceState.FAILED]
    told = [(row.state, row.reason, row.reason_detail) for row in _all(sessions, Instance)]
    assert told == [
        (InstanceState.DONE, None, None),
        (InstanceState.SKIPPED, "excluded_by_rule", "lateral chest"),
        (InstanceState.FAILED, "undecodable_pixels", "cut off"),
        (InstanceState.FAILED, "malformed_dataset", None),
    ]
    assert all(row.settled_at is not None for row in _all(sessions, Instance))
    assert len(_all(sessions, Study)) == len(_all(sessions, Series)) == 1
    assert _row(sessions, "1.2.2").series_id is not None
    assert _row(sessions, "1.2.4").series_id is None, "its header could not be read"


def test_a_finding_is_written_with_its_version_and_engine(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    settlement.settle([outcomes.done(probability=0.75)])
    (finding,) = _all(sessions, ClassificationFinding)
    assert (finding.label, finding.positive, finding.probability, finding.threshold) == ("pneumonia", True, 0.75, 0.5)
    (inference,) = _all(sessions, Inference)
    assert (inference.provider, inference.precision) == ("in_test", "fp32")
    assert inference.inferred_at == datetime(2026, 1, 1, tzinfo=UTC)
    (version,) = _all(sessions, ModelVersion)
    assert (version.task, version.version, version.network) == ("pneumonia", "1.0.0", "mean_of_pixels")
    assert version.network_sha256 == "ab" * 32


def test_the_zones_of_a_finding_are_written_each_on_its_own_row(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    done = outcomes.done()
    congestion = outcomes.congestion(3, 0, 1, None, 2, 0, frame=Frame(-0.1, 0.2, 0.9, 1.1))
    assert settlement.settle([replace(done, results=(*done.results, congestion))]) == [InstanceState.DONE]
    zones = {row.zone.value: row.score for row in _all(sessions, ZoneFinding)}
    assert zones == {
        "right_sup": 3,
        "left_sup": 0,
        "right_mid": 1,
        "left_mid": None,
        "right_inf": 2,
        "left_inf": 0,
    }
    assert [row.probability for row in _all(sessions, ZoneFinding)] == pytest.approx([0.8] * 6)
    assert [row.expected_score for row in _all(sessions, ZoneFinding) if row.score is None] == [None]
    (summary,) = _all(sessions, ZoneSummary)
    assert (summary.mean_csi, summary.gradable_zones) == (pytest.approx(1.2), 5)
    assert (summary.heart_failure_class.value, summary.lungs_found) == ("low", True)
    frame = (summary.frame_left, summary.frame_top, summary.frame_right, summary.frame_bottom)
    assert frame == (-10, 40, 90, 220)
    assert len(_all(sessions, ClassificationFinding)) == 1


def test_a_finding_without_a_gradable_zone_is_nulls_never_zeros(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    done = replace(outcomes.done(), results=(outcomes.congestion(*(None,) * 6, lungs_found=None),))
    assert settlement.settle([done]) == [InstanceState.DONE]
    assert {(row.score, row.expected_score) for row in _all(sessions, ZoneFinding)} == {(None, None)}
    (summary,) = _all(sessions, ZoneSummary)
    assert (summary.mean_csi, summary.gradable_zones, summary.heart_failure_class) == (None, 0, None)
    assert summary.lungs_found is False, "the version does not look for them"


def test_zones_are_forgotten_with_their_instance(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    done, other = outcomes.done("1.2.3"), outcomes.done("1.2.4")
    batch = [replace(one, results=(*one.results, outcomes.congestion(*(1,) * 6))) for one in (done, other)]
    settlement.settle(batch)
    with sessions.begin() as session:
        forget_outcome(session, session.scalars(select(Instance).where(Instance.sop_instance_uid == "1.2.3")).one())
    kept = [len(_all(sessions, table)) for table in (Inference, ClassificationFinding, ZoneFinding, ZoneSummary)]
    assert kept == [2, 1, 6, 1], "those of the other instance"


def test_an_output_is_to_be_delivered_to_every_destination_at_once(sessions: Sessions, outcomes: Any) -> None:
    settlement = Settlement(sessions, "keep_first", [Recipient(name="archive"), Recipient(name="workstation")])
    settlement.settle([outcomes.done(output_uid="2.25.7")])
    (output,) = _all(sessions, Output)
    assert (output.kind, output.sop_instance_uid, output.file_name) == (
        OutputKind.SECONDARY_CAPTURE,
        "2.25.7",
        "2.25.7.dcm",
    )
    deliveries = _all(sessions, Delivery)
    assert [(to.destination, to.state, to.attempts) for to in deliveries] == [
        ("archive", DeliveryState.PENDING, 0),
        ("workstation", DeliveryState.PENDING, 0),
    ]
    assert all(to.next_attempt_at == to.requested_at for to in deliveries)


def test_the_patient_is_stored_as_the_policy_allows(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    settlement.settle([outcomes.done()])
    (study,) = _all(sessions, Study)
    assert (study.patient_name, study.patient_id, study.accession_number) == ("Doe^Jane", "ID7", "ACC1")
    (row,) = _all(sessions, Instance)
    assert (row.instance_number, row.view_position) == (7, "PA")


def test_settling_twice_changes_nothing(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    settlement.settle([outcomes.done(probability=0.75, output_uid="2.25.7")])
    before = _counts(sessions)
    assert settlement.settle([outcomes.done(probability=0.25, output_uid="2.25.7")]) == [None]
    assert settlement.settle([outcomes.refused(Unprocessable(Reason.SPOOL_FILE_MISSING))]) == [None]
    assert _counts(sessions) == before
    (finding,) = _all(sessions, ClassificationFinding)
    assert finding.probability == 0.75, "the first result stands"
    assert _row(sessions, "1.2.3").state is InstanceState.DONE


def test_one_instance_twice_in_a_batch_is_settled_once(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    states = settlement.settle([outcomes.done(output_uid="2.25.7"), outcomes.done(output_uid="2.25.7")])
    assert sorted(states, key=str) == [None, InstanceState.DONE]
    assert _counts(sessions) == dict.fromkeys(_counts(sessions), 1)


def test_two_workers_settling_the_same_batch_make_one_result_each(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    batch = [outcomes.done(f"1.{number}.1", output_uid=f"2.25.{number}") for number in range(1, 9)]
    barrier = threading.Barrier(2)

    def work(outcomes: list[Any]) -> list[InstanceState | None]:
        barrier.wait()
        return settlement.settle(outcomes)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, [batch, list(reversed(batch))])
    together = [sorted([one, other], key=str) for one, other in zip(first, reversed(second), strict=True)]
    assert together == [[None, InstanceState.DONE]] * 8
    assert _counts(sessions) == dict.fromkeys(_counts(sessions), 8)


TOO_LONG = "1.2.3" * 20


@pytest.mark.parametrize(
    "change",
    [
        {"study_description": "nul\x00"},
        {"modality": "MODALITY" * 10},
        {"instance_number": 2**40},
        {"series_instance_uid": TOO_LONG},
        {"patient_name": "\ud800"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_facts_that_the_records_refuse_never_fail_a_neighbour(
    settlement: Settlement, sessions: Sessions, outcomes: Any, change: dict[str, Any]
) -> None:
    bad = replace(outcomes.facts("1.5.1"), **change)
    batch = [outcomes.done("1.4.1"), outcomes.done("1.5.1", facts=bad), outcomes.done("1.6.1")]
    states = settlement.settle(batch)
    assert [states[0], states[2]] == [InstanceState.DONE] * 2
    assert states[1] in {InstanceState.DONE, InstanceState.FAILED}, "SQLite takes some of them"
    row = _row(sessions, "1.5.1")
    assert row.state is states[1]
    if row.state is InstanceState.FAILED:
        assert (row.reason, row.reason_detail) == ("internal_error", "records refused the findings")
    assert _counts(sessions)["classificationfinding"] == sum(state is InstanceState.DONE for state in states)


def test_a_finding_that_the_records_refuse_fails_alone(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    impossible = outcomes.done("1.5.1")
    (result,) = impossible.results
    impossible = replace(impossible, results=(replace(result, finding=replace(result.finding, probability=1.5)),))
    assert settlement.settle([outcomes.done("1.4.1"), impossible]) == [InstanceState.DONE, InstanceState.FAILED]
    assert _row(sessions, "1.5.1").reason == "internal_error"
    assert _counts(sessions)["inference"] == 1


def test_an_instance_that_the_records_refuse_altogether_stays_pending_and_holds_nobody_up(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    if sessions.kw["bind"].dialect.name == "sqlite":
        pytest.skip("SQLite takes it")
    hopeless = outcomes.done("1.5.1")
    hopeless = replace(hopeless, request=replace(hopeless.request, calling_ae_title="A" * 40))
    assert settlement.settle([outcomes.done("1.4.1"), hopeless]) == [InstanceState.DONE, InstanceState.RECEIVED]
    assert _counts(sessions)["instance"] == 1


def test_a_long_detail_is_cut(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    refused = outcomes.refused(Unprocessable(Reason.UNSUPPORTED_PIXELS, "x" * 1000))
    assert settlement.settle([refused]) == [InstanceState.FAILED]
    assert _row(sessions, "1.2.3").reason_detail == "x" * 256
    assert _row(sessions, "1.2.3").reason == "unsupported_pixels"


def test_a_database_that_is_not_migrated_is_an_outage_and_nothing_is_written(
    bare_database_url: str, outcomes: Any
) -> None:
    engine = open_database(Settings(database_url=bare_database_url))
    with pytest.raises(Transient) as caught:
        Settlement(session_factory(engine), "keep_first", []).settle([outcomes.done()])
    engine.dispose()
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE


def test_a_stopped_postgresql_is_an_outage_and_settling_goes_on_when_it_is_back(
    postgres_server: Any, postgres_template: str, outcomes: Any
) -> None:
    postgres_server.execute(f"CREATE DATABASE outage TEMPLATE {postgres_template}")
    engine = open_database(Settings(database_url=postgres_server.url("outage").render_as_string(hide_password=False)))
    sessions = session_factory(engine)
    settlement = Settlement(sessions, "keep_first", [])
    try:
        assert settlement.settle([outcomes.done("1.4.1")]) == [InstanceState.DONE]
        postgres_server.stop()
        with pytest.raises(Transient) as caught:
            settlement.settle([outcomes.done("1.5.1")])
        assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
        postgres_server.start()
        assert settlement.settle([outcomes.done("1.5.1")]) == [InstanceState.DONE]
        assert _counts(sessions)["instance"] == 2
    finally:
        engine.dispose()
        postgres_server.start()
        postgres_server.execute("DROP DATABASE outage WITH (FORCE)")


def test_a_sqlite_file_that_is_locked_for_too_long_is_an_outage(
    sqlite_sessions: Sessions, outcomes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.records.sessions.SQLITE_BUSY_TIMEOUT_MS", 50)
    engine: Engine = sqlite_sessions.kw["bind"]
    settlement = Settlement(sqlite_sessions, "keep_first", [])
    with engine.connect() as holder:
        holder.execute(text("SELECT 1"))  # begins with the write lock
        with pytest.raises(Transient) as caught:
            settlement.settle([outcomes.done()])
        assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
    assert settlement.settle([outcomes.done()]) == [InstanceState.DONE]


def test_bytes_that_were_replaced_meanwhile_are_left_alone(
    sessions: Sessions, outcomes: Any, make_request: MakeRequest
) -> None:
    settlement = Settlement(sessions, "replace", [Recipient(name="archive")])
    old, new = outcomes.done(content=b"old"), outcomes.done(content=b"new", probability=0.25, received_at=1.7e9 + 5)
    with sessions.begin() as session:
        register(session, [old.request], "replace")
        register(session, [new.request], "replace")
    assert settlement.settle([old]) == [None]
    assert settlement.settle([new]) == [InstanceState.DONE]
    assert settlement.settle([old]) == [None]
    (finding,) = _all(sessions, ClassificationFinding)
    assert finding.probability == 0.25
    with sessions() as session:
        assert known_revision(session, "1.2.3") == 1
        assert known_revision(session, "9.9") == 0


def test_replacing_a_result_keeps_the_old_output_and_adds_the_new_one(sessions: Sessions, outcomes: Any) -> None:
    settlement = Settlement(sessions, "replace", [Recipient(name="archive")])
    settlement.settle([outcomes.done(content=b"old", output_uid="2.25.1")])
    new = outcomes.done(content=b"new", output_uid="2.25.2", received_at=1.7e9 + 5)
    # The outputs may have been made before anybody knew that they replace others: not yet, and once more.
    assert settlement.settle([new]) == [InstanceState.RECEIVED]
    with sessions() as session:
        assert known_revision(session, "1.2.3") == 1
    assert settlement.settle([new]) == [InstanceState.DONE]
    assert [output.sop_instance_uid for output in _all(sessions, Output)] == ["2.25.1", "2.25.2"]
    assert _counts(sessions)["classificationfinding"] == 1


def test_what_is_settled_can_be_asked(
    settlement: Settlement, sessions: Sessions, outcomes: Any, make_request: MakeRequest
) -> None:
    with sessions() as session:
        assert not is_settled(session, make_request())
    settlement.settle([outcomes.done()])
    with sessions() as session:
        assert is_settled(session, make_request())
        assert not is_settled(session, make_request(content=b"other bytes"))


def test_a_forgotten_failure_can_be_settled_again(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    refused = outcomes.refused(Unprocessable(Reason.WORKER_DIED))
    settlement.settle([replace(refused, deaths=3)])
    assert _row(sessions, "1.2.3").attempts == 3
    with sessions.begin() as session:
        forget_outcome(session, session.scalars(select(Instance)).one())
    row = _row(sessions, "1.2.3")
    assert (row.state, row.reason, row.settled_at, row.attempts) == (InstanceState.RECEIVED, None, None, 0)
    assert settlement.settle([outcomes.done()]) == [InstanceState.DONE]
