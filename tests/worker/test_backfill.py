"""Backfill: the right instances are chosen, seen once by the other version, and recorded beside what was there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from redis import Redis
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ConfigurationError
from models.pixels.limits import PixelLimits
from models.records.dicom import Instance, InstanceState
from models.records.findings import ClassificationFinding
from models.records.inference import Inference, ModelVersion
from models.records.outputs import Delivery, OutputKind
from models.settings import PatientIdentity, Settings
from models.spool import Spool
from models.spool_archive import SpoolArchive
from models.store.manifest import Manifest
from models.tasks import Task
from worker.backfill import CHANGED, KNOWN, NOT_HAD, NOT_ROUTED, RECORDED, Backfill, BackfillOptions, queues_are_empty
from worker.backfill_command import make_plan, preview
from worker.backfill_selection import Candidate, read_condition, select_candidates
from worker.metrics import WorkerMetrics
from worker.outbox import Outbox
from worker.pipeline import PipelineLimits
from worker.routing import Routing
from worker.settings import Recipient, WorkerSettings
from worker.settlement import Settlement
from worker.source import IdentityPolicy
from worker.stages import StageContext

Sessions = sessionmaker[Session]


@pytest.fixture
def newer(mean_engine: Any, manifest: Manifest) -> Any:
    """The same engine as another version."""
    return type(mean_engine)(manifest.model_copy(update={"version": "2.0.0"}), mean_engine.info)


def _found(sessions: Sessions, *conditions: str, version: str = "2.0.0") -> list[str]:
    asked = [read_condition(text, Task.PNEUMONIA) for text in conditions]
    chosen = select_candidates(sessions, Task.PNEUMONIA, version, asked)
    return sorted(each.request.sop_instance_uid for each in chosen)


# Choosing


def test_only_what_another_version_answered_is_taken(
    settlement: Settlement, sessions: Sessions, outcomes: Any, manifest: Manifest
) -> None:
    from models.errors import Reason, Skipped

    settlement.settle(
        [
            outcomes.done("1.2.1"),
            outcomes.done("1.2.2"),
            outcomes.refused(Skipped(Reason.NO_RULE_MATCHED), "1.2.3", outcomes.facts("1.2.3")),
        ]
    )
    assert _found(sessions) == ["1.2.1", "1.2.2"]
    assert _found(sessions, version="1.0.0") == []
    result = replace(outcomes.result(0.1), manifest=manifest.model_copy(update={"version": "2.0.0"}))
    request = outcomes.make_request("1.2.1")
    told = (request.sop_instance_uid, request.content_sha256, result, outcomes.done().inferred_at)
    assert settlement.supplement(*told)
    assert not settlement.supplement(*told), "once"
    assert _found(sessions) == ["1.2.2"]
    with sessions() as session:
        assert len(session.scalars(select(Inference)).all()) == 3
        assert session.scalars(text("SELECT state FROM instance_findings WHERE sop_instance_uid = '1.2.1'")).all() == [
            "done"
        ]


def test_an_instance_that_was_replaced_or_taken_back_meanwhile_is_left_alone(
    settlement: Settlement, sessions: Sessions, outcomes: Any
) -> None:
    settlement.settle([outcomes.done("1.2.1")])
    result = replace(outcomes.result(0.1), manifest=outcomes.manifest.model_copy(update={"version": "2.0.0"}))
    now = outcomes.done().inferred_at
    assert not settlement.supplement("1.2.1", "00" * 32, result, now)
    with sessions.begin() as session:
        session.scalars(select(Instance)).one().state = InstanceState.RECEIVED
    assert not settlement.supplement("1.2.1", outcomes.make_request("1.2.1").content_sha256, result, now)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("study_date >= 2026-01-31", ["1.2.1", "1.3.2"]),
        ("study_date>2026-01-31", []),
        ("modality = DX", ["1.3.2"]),
        ("modality != DX", ["1.2.1"]),
        ("view_position != AP", ["1.2.1", "1.3.2"]),
        ("probability < 0.5", ["1.3.2"]),
        ("version = 1.0.0", ["1.2.1", "1.3.2"]),
        ("version != 1.0.0", []),
        ("received_at < 2020-01-01", []),
        ("received_at <= 2030-01-01T00:00+00:00", ["1.2.1", "1.3.2"]),
        ("study_instance_uid = 1.3.1000", ["1.3.2"]),
        ("modality = DX' OR '1'='1", []),
    ],
)
def test_conditions_choose_by_what_the_records_say(
    settlement: Settlement, sessions: Sessions, outcomes: Any, condition: str, expected: list[str]
) -> None:
    other = outcomes.facts("1.3.2", Modality="DX", ViewPosition=None)
    settlement.settle([outcomes.done("1.2.1", 0.75), outcomes.done("1.3.2", 0.25, facts=other)])
    assert _found(sessions, condition) == expected


def test_all_conditions_must_hold(settlement: Settlement, sessions: Sessions, outcomes: Any) -> None:
    settlement.settle([outcomes.done("1.2.1", 0.75), outcomes.done("1.3.2", 0.25)])
    assert _found(sessions, "modality = CR", "probability >= 0.5") == ["1.2.1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modality", "not a condition"),
        ("patient_name = X", "no such key"),
        ("mean_csi > 1", "no such key for pneumonia"),
        ("study_date > yesterday", "must be a date"),
        ("probability > high", "must be a number"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_would_be_one(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_condition(text, Task.PNEUMONIA)


def test_each_task_has_its_own_score() -> None:
    assert read_condition("mean_csi > 1.5", Task.CSI).value == 1.5
    assert read_condition("confidence < 0.5", Task.LANDMARKS).value == 0.5
    assert read_condition("study_date = 2026-01-31", Task.CSI).value == date(2026, 1, 31)


def test_the_plan_counts_where_pixels_are_and_the_limit_only_what_can_be_had(
    sqlite_sessions: Sessions, outcomes: Any, spool: Spool, tmp_path: Any
) -> None:
    Settlement(sqlite_sessions, "keep_first", []).settle([outcomes.done(f"1.2.{number}") for number in (1, 2, 3)])
    found = select_candidates(sqlite_sessions, Task.PNEUMONIA, "2.0.0", [])
    last = spool.root / "archive" / "20260101" / f"{found[-1].request.spool_key}.dcm"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"kept")
    settings = Settings(spool_dir=spool.root)
    plan = make_plan(found, settings, WorkerSettings(), 1)
    assert (plan.archived, plan.asked, plan.nowhere, plan.taken) == (1, 0, 2, [found[-1]])
    assert [row["count"] for row in preview(plan)] == [3, 1, 0, 2, 1]
    source: Any = {"host": "pacs", "port": 104, "ae_title": "PACS"}
    plan = make_plan(found, settings, WorkerSettings(backfill_source=source), 0)
    assert (plan.archived, plan.asked, plan.nowhere, len(plan.taken)) == (1, 2, 0, 3)


# Running


@pytest.fixture
def build(spool: Spool, outbox: Outbox, sqlite_sessions: Sessions, newer: Any) -> Callable[..., Backfill]:
    def make(
        idle: Callable[[], bool] = lambda: True,
        rate: float = 0,
        stop: threading.Event | None = None,
        routing: Routing | None = None,
        deliver: bool = False,
    ) -> Backfill:
        return Backfill(
            spool=spool,
            outbox=outbox,
            engine=newer,
            context=StageContext(
                routing=routing or Routing.read(None),
                identity=IdentityPolicy(PatientIdentity.FULL),
                limits=PixelLimits(),
                own_ae_titles=frozenset(),
                overlay_max_side=256 if deliver else 0,
                kinds=frozenset({OutputKind.SECONDARY_CAPTURE}) if deliver else frozenset(),
            ),
            settlement=Settlement(sqlite_sessions, "keep_first", [Recipient(name="archive")] if deliver else []),
            retriever=None,
            limits=PipelineLimits(4, 0.01, 1, 30),
            metrics=WorkerMetrics(CollectorRegistry()),
            options=BackfillOptions(rate, accept_changed=False, deliver=deliver),
            is_idle=idle,
            poll_s=0.01,
            stop=stop or threading.Event(),
        )

    return make


@pytest.fixture
def stored(
    spool: Spool, sqlite_sessions: Sessions, lay: Any, make_source: Any, eventually: Any
) -> Callable[..., list[Candidate]]:
    """Let the older version answer for instances and keep them; give what is to be done."""

    def do(*greys: int) -> list[Candidate]:
        spool._archive = SpoolArchive(spool.root)
        line = lay(outputs=False)
        for number, grey in enumerate(greys):
            line.pipeline.submit(line.accept(make_source(f"1.2.{number}", np.full((32, 32), grey, np.uint8))))
        eventually(lambda: len(line.done) == len(greys))
        return select_candidates(sqlite_sessions, Task.PNEUMONIA, "2.0.0", [])

    return do


def _answers(sessions: Sessions) -> dict[tuple[str, str], float]:
    with sessions() as session:
        rows = session.execute(
            select(Instance.sop_instance_uid, ModelVersion.version, ClassificationFinding.probability)
            .join(Inference, Inference.instance_id == Instance.id)
            .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
            .join(ClassificationFinding, ClassificationFinding.inference_id == Inference.id)
        )
        return {(uid, version): round(probability, 2) for uid, version, probability in rows}


def test_another_version_answers_once_for_each_and_the_views_show_its_answer(
    stored: Any, build: Any, sqlite_sessions: Sessions, spool: Spool
) -> None:
    candidates, steps = stored(0, 255, 51), []
    assert len(candidates) == 3
    work = build()
    assert work.run(candidates, steps.append)
    assert work.tally == {(RECORDED, ""): 3}
    assert sum(steps) == 3
    expected = {"1.2.0": 0.0, "1.2.1": 1.0, "1.2.2": 0.2}
    both = {(uid, version): value for uid, value in expected.items() for version in ("1.0.0", "2.0.0")}
    assert _answers(sqlite_sessions) == both
    with sqlite_sessions() as session:
        assert set(session.scalars(text("SELECT pneumonia_version FROM instance_findings"))) == {"2.0.0"}
    again = build()
    assert again.run(candidates, steps.append)
    assert again.tally == {(KNOWN, ""): 3}
    assert list(spool.entries()) == []


def test_what_was_skipped_is_not_kept(spool: Spool, lay: Any, make_source: Any, eventually: Any) -> None:
    spool._archive = SpoolArchive(spool.root)
    line = lay(outputs=False)
    line.pipeline.submit(line.accept(make_source("1.2.1")))
    line.pipeline.submit(line.accept(make_source("1.2.2", Modality="MR")))
    eventually(lambda: len(line.done) == 2)
    assert {done.request.sop_instance_uid: done.state for done in line.done} == {
        "1.2.1": InstanceState.DONE,
        "1.2.2": InstanceState.SKIPPED,
    }
    assert [file.key.partition("_")[0] for file in SpoolArchive(spool.root).files()] == ["1.2.1"]
    assert list(spool.entries()) == []


def test_one_bad_instance_stops_nothing_and_says_why(
    stored: Any, build: Any, sqlite_sessions: Sessions, spool: Spool
) -> None:
    candidates = stored(0, 255, 51)
    archive = SpoolArchive(spool.root)
    gone, changed = (archive.find(each.request.spool_key) for each in candidates[:2])
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-2] + b"\x07\x07")
    work = build()
    assert work.run(candidates, lambda count: None)
    assert {what: count for (what, _), count in work.tally.items()} == {NOT_HAD: 1, CHANGED: 1, RECORDED: 1}


def test_what_the_rules_no_longer_route_is_left_alone(stored: Any, build: Any, sqlite_sessions: Sessions) -> None:
    candidates = stored(0)
    work = build(routing=Routing(()))
    assert work.run(candidates, lambda count: None)
    assert work.tally == {(NOT_ROUTED, "no_rule_matched"): 1}
    assert set(_answers(sqlite_sessions)) == {("1.2.0", "1.0.0")}


def test_outputs_are_made_and_queued_when_asked_for(
    stored: Any, build: Any, sqlite_sessions: Sessions, outbox: Outbox
) -> None:
    candidates = stored(0)
    assert build(deliver=True).run(candidates, lambda count: None)
    with sqlite_sessions() as session:
        assert [each.destination for each in session.scalars(select(Delivery))] == ["archive"]
    assert len(list(outbox.root.glob("*.dcm"))) == 1


def test_it_waits_while_the_queues_are_not_empty(stored: Any, build: Any) -> None:
    candidates, looks = stored(0), []
    work = build(idle=lambda: looks.append(1) or len(looks) > 3)
    assert work.run(candidates, lambda count: None)
    assert len(looks) == 4
    assert work.tally == {(RECORDED, ""): 1}


def test_it_stops_when_told_and_goes_on_when_run_again(stored: Any, build: Any, sqlite_sessions: Sessions) -> None:
    candidates, stop = stored(0, 255, 51), threading.Event()
    work = build(rate=6000, stop=stop)
    work._limits = PipelineLimits(1, 0.01, 1, 30)
    assert not work.run(candidates, lambda count: stop.set())
    assert work.tally == {(RECORDED, ""): 1}
    rest = select_candidates(sqlite_sessions, Task.PNEUMONIA, "2.0.0", [])
    assert len(rest) == 2
    assert build().run(rest, lambda count: None)
    assert select_candidates(sqlite_sessions, Task.PNEUMONIA, "2.0.0", []) == []


def test_the_rate_is_kept(stored: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, stop = stored(0, 255, 51), threading.Event()
    waits: list[float] = []
    monkeypatch.setattr(stop, "wait", lambda timeout: waits.append(timeout) or False)
    assert build(rate=6, stop=stop).run(candidates, lambda count: None)
    # Six a minute are one every ten seconds; the clock runs on a little meanwhile.
    assert [round(wait / 10) for wait in waits] == [0, 1, 2]


def test_queues_are_empty_only_when_nothing_waits_or_is_in_hand(redis: Redis, enqueue: Any, redis_server: Any) -> None:
    assert queues_are_empty(redis)
    enqueue("1.2.3")
    assert not queues_are_empty(redis)
    redis_server.stop()
    assert not queues_are_empty(redis)
    redis_server.start()
