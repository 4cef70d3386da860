"""Versions in the shadow: how their answers are compared, recorded apart, dropped, and never felt."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import stand_in_spine
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Transient
from models.pixels.spec import InputSpec
from models.records.dicom import Instance
from models.records.inference import Inference
from models.records.shadow import ShadowFinding
from models.requests import InferenceRequest
from models.spine.schemas import landmark_schema
from models.tasks import Task
from worker.findings import Classification
from worker.item import Answer
from worker.metrics import WorkerMetrics
from worker.settlement import Settlement, forget_outcome
from worker.shadow import ShadowCase, ShadowRunner, load_with_low_priority
from worker.shadow_comparison import compare
from worker.source_image import SourceImage
from worker.stages import OtherInput

Sessions = sessionmaker[Session]


# Comparisons


def _classification(probability: float, threshold: float = 0.5) -> Classification:
    positive = probability >= threshold
    return Classification("sick" if positive else "well", "sick", positive, probability, threshold, None)


def test_classifications_agree_by_their_labels_and_differ_by_their_probabilities() -> None:
    close = compare(_classification(0.45), _classification(0.55))
    assert (close.agrees, close.difference) == (False, pytest.approx(0.1))
    far = compare(_classification(0.95), _classification(0.55))
    assert (far.agrees, far.difference) == (True, pytest.approx(0.4))
    assert far.detail == {
        "live": {"label": "sick", "probability": 0.95},
        "shadow": {"label": "sick", "probability": 0.55},
    }


def test_zones_differ_by_the_mean_of_their_scores_and_an_ungradable_one_by_the_largest(make_congestion: Any) -> None:
    live = make_congestion((0, 1, 2, 3, None, None))
    shadow = make_congestion((0, 3, 1, 3, None, 1))
    found = compare(live, shadow)
    # 0 + 2 + 1 + 0 + 0 + 3 of six zones.
    assert (found.agrees, found.difference) == (False, 1.0)
    assert list(found.detail["live"].values()) == [0, 1, 2, 3, None, None]
    assert found.detail["shadow"]["left_inf"] == 1
    same = compare(live, live)
    assert (same.agrees, same.difference) == (True, 0.0)


def test_landmarks_differ_by_their_mean_distance_in_pixels_of_the_original(make_landmarks: Any) -> None:
    places = stand_in_spine.corners(80, 128, 2.0)
    live = make_landmarks(places)
    found = compare(live, make_landmarks(places + np.array([3.0, 4.0])))
    assert found.difference == pytest.approx(5.0, abs=1e-3)
    assert found.agrees
    angles = {curve: degrees for curve, (degrees, _, _) in stand_in_spine.ANGLES.items()}
    assert found.detail["live"] == pytest.approx(angles, abs=0.5)
    assert found.detail["shadow"] == pytest.approx(angles, abs=0.5), "moved as a whole"


def test_landmarks_agree_when_both_or_none_are_to_be_reviewed(make_landmarks: Any) -> None:
    sure, unsure = make_landmarks(confidence=0.9), make_landmarks(confidence=0.1, review_confidence=0.5)
    assert not compare(sure, unsure).agrees
    assert compare(unsure, unsure).agrees


def test_landmarks_that_only_one_version_has_are_left_out_and_without_any_in_common_the_diagonal_counts(
    make_landmarks: Any,
) -> None:
    labels = landmark_schema("aasce68").labels
    live = make_landmarks()
    confidence = np.full(len(labels), 0.9)
    confidence[1:] = 0.1
    one_left = make_landmarks(
        stand_in_spine.corners(80, 128, 2.0) + np.array([0.0, 2.0]),
        confidence=confidence,
        thresholds=dict.fromkeys(labels, 0.5),
    )
    assert compare(live, one_left).difference == pytest.approx(2.0, abs=1e-3)
    none_left = make_landmarks(confidence=0.1, thresholds=dict.fromkeys(labels, 0.5))
    # 256 rows and 160 columns.
    assert compare(live, none_left).difference == pytest.approx(301.888, abs=1e-3)


def test_answers_of_different_tasks_are_not_compared(make_congestion: Any, make_landmarks: Any) -> None:
    answers = (_classification(0.5), make_congestion(), make_landmarks())
    for one in answers:
        for other in answers:
            if one is not other:
                with pytest.raises(TypeError, match="different tasks"):
                    compare(one, other)


# Running


class Dim:
    """An engine in the shadow that sees three quarters of what the live one saw; it may be held back or fail."""

    def __init__(self, manifest: Any, info: Any) -> None:
        self.manifest = manifest.model_copy(update={"version": "2.0.0"})
        self.info = info
        self.closed = False
        self.fault: Exception | None = None
        self.batches: list[int] = []
        self.priorities: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, image: Any) -> Any:
        self.batches.append(len(image))
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert self.go.wait(20)
        if self.fault is not None:
            raise self.fault
        positive = image.mean(axis=(1, 2, 3)) * 0.75
        return {"probability": np.stack([1 - positive, positive], axis=1)}

    def close(self) -> None:
        self.closed = True


class Bench:
    """A runner with one version in the shadow, and settled instances to offer."""

    def __init__(self, sessions: Sessions, manifest: Any, info: Any, outcomes: Any) -> None:
        self.sessions, self.outcomes = sessions, outcomes
        self.registry = CollectorRegistry()
        self.engine = Dim(manifest, info)
        self.runner = ShadowRunner(sessions, WorkerMetrics(self.registry), max_batch=4, max_waiting=4)
        self.runner.serve({Task.PNEUMONIA: self.engine})

    def settle(self, uid: str, probability: float) -> InferenceRequest:
        outcome = self.outcomes.done(uid, probability)
        Settlement(self.sessions, "keep_first", []).settle([outcome])
        request: InferenceRequest = outcome.request
        return request

    def case(self, request: InferenceRequest, probability: float, spec: InputSpec | None = None) -> ShadowCase:
        """A case whose image has the grey that the live version saw."""
        manifest = self.outcomes.manifest
        wanted = spec or manifest.input_spec
        array = np.full((wanted.height, wanted.width), probability, np.float32)
        live = Answer(manifest, self.outcomes.engine, self.outcomes.result(probability).finding)
        return ShadowCase(Task.PNEUMONIA, request, live, OtherInput(wanted, array, SourceImage(48, 64)))

    def count(self, outcome: str) -> float:
        name = "radstream_worker_shadow_findings_total"
        return self.registry.get_sample_value(name, {"task": "pneumonia", "outcome": outcome}) or 0

    def rows(self) -> dict[str, ShadowFinding]:
        with self.sessions() as session:
            statement = select(Instance.sop_instance_uid, ShadowFinding).join(ShadowFinding.instance)
            return {uid: row for uid, row in session.execute(statement)}


@pytest.fixture
def bench(sessions: Sessions, manifest: Any, engine_info: Any, outcomes: Any) -> Iterator[Bench]:
    bench = Bench(sessions, manifest, engine_info, outcomes)
    yield bench
    bench.engine.go.set()
    bench.runner.stop(10)


def test_what_the_shadow_found_is_recorded_beside_what_counted_and_nowhere_else(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    bench.runner.offer(bench.case(bench.settle("1.1", 0.8), 0.8))
    bench.runner.offer(bench.case(bench.settle("1.2", 0.6), 0.6))
    eventually(lambda: bench.count("recorded") == 2)
    rows = bench.rows()
    first, second = rows["1.1"], rows["1.2"]
    assert (first.task, first.live_version, first.shadow_version) == (Task.PNEUMONIA, "1.0.0", "2.0.0")
    assert (first.live_score, first.shadow_score) == (pytest.approx(0.8), pytest.approx(0.6, abs=1e-6))
    assert (first.agrees, first.difference) == (True, pytest.approx(0.2, abs=1e-6))
    assert (second.agrees, second.shadow_score) == (False, pytest.approx(0.45, abs=1e-6))
    assert second.detail["shadow"]["label"] == "normal"
    assert first.provider == "in_test"
    assert first.inferred_at.tzinfo is not None
    with bench.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Inference)) == 2
        seen = session.execute(text("SELECT pneumonia_version, pneumonia_probability FROM instance_findings"))
        assert {(version, round(probability, 3)) for version, probability in seen} == {("1.0.0", 0.8), ("1.0.0", 0.6)}


def test_the_same_case_twice_gives_one_row(bench: Bench, eventually: Callable[..., None]) -> None:
    case = bench.case(bench.settle("1.1", 0.8), 0.8)
    bench.runner.offer(case)
    bench.runner.offer(case)
    eventually(lambda: bench.count("recorded") == 2)
    assert len(bench.rows()) == 1


def test_an_instance_that_is_taken_back_loses_what_the_shadow_found(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    request = bench.settle("1.1", 0.8)
    bench.runner.offer(bench.case(request, 0.8))
    eventually(lambda: bench.count("recorded") == 1)
    with bench.sessions.begin() as session:
        forget_outcome(session, session.scalars(select(Instance)).one())
    assert bench.rows() == {}
    bench.runner.offer(bench.case(request, 0.8))
    eventually(lambda: bench.count("dropped") == 1)
    assert bench.rows() == {}, "it is not settled now"


def test_a_shadow_that_is_behind_drops_and_never_blocks(
    bench: Bench, make_request: Any, eventually: Callable[..., None]
) -> None:
    bench.engine.go.clear()
    bench.runner.offer(bench.case(bench.settle("1.1", 0.8), 0.8))
    eventually(lambda: bench.engine.batches == [1])
    requests = [bench.settle(f"1.2.{number}", 0.8) for number in range(6)]
    for request in requests:
        bench.runner.offer(bench.case(request, 0.8))
    assert bench.count("dropped") == 2, "four may wait"
    bench.engine.go.set()
    eventually(lambda: bench.count("recorded") == 5)
    assert bench.engine.batches == [1, 4]


@pytest.mark.parametrize("fault", [Transient(Reason.ENGINE_UNAVAILABLE), MemoryError(), ValueError("what")])
def test_a_shadow_that_fails_is_counted_and_goes_on_with_the_next(
    bench: Bench, fault: Exception, eventually: Callable[..., None]
) -> None:
    bench.engine.fault = fault
    request = bench.settle("1.1", 0.8)
    bench.runner.offer(bench.case(request, 0.8))
    eventually(lambda: bench.count("failed") == 1)
    bench.engine.fault = None
    bench.runner.offer(bench.case(request, 0.8))
    eventually(lambda: bench.count("recorded") == 1)


def test_one_answer_that_is_nonsense_fails_alone(bench: Bench, eventually: Callable[..., None]) -> None:
    bench.engine.go.clear()
    first = bench.case(bench.settle("1.1", 0.8), 0.8)
    bench.runner.offer(first)
    eventually(lambda: bench.engine.batches == [1])
    bench.runner.offer(bench.case(bench.settle("1.2", 0.8), float("nan")))
    bench.runner.offer(bench.case(bench.settle("1.3", 0.8), 0.8))
    bench.engine.go.set()
    eventually(lambda: bench.count("recorded") == 2)
    assert bench.count("failed") == 1
    assert set(bench.rows()) == {"1.1", "1.3"}


def test_what_was_prepared_for_another_input_or_not_at_all_is_dropped(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    request = bench.settle("1.1", 0.8)
    bench.runner.offer(bench.case(request, 0.8, InputSpec(height=32, width=32)))
    case = bench.case(request, 0.8)
    bench.runner.offer(ShadowCase(case.task, request, case.live, None))
    eventually(lambda: bench.count("dropped") == 2)
    assert bench.engine.batches == []


def test_a_version_is_not_compared_with_itself(bench: Bench, eventually: Callable[..., None]) -> None:
    case = bench.case(bench.settle("1.1", 0.8), 0.8)
    live = Answer(bench.engine.manifest, case.live.engine, case.live.finding)
    bench.runner.offer(ShadowCase(case.task, case.request, live, case.fed))
    eventually(lambda: bench.count("dropped") == 1)
    assert bench.engine.batches == []


def test_an_engine_that_runs_no_longer_is_closed_after_its_batch(bench: Bench, eventually: Callable[..., None]) -> None:
    bench.engine.go.clear()
    bench.runner.offer(bench.case(bench.settle("1.1", 0.8), 0.8))
    eventually(lambda: bench.engine.batches == [1])
    ending = threading.Thread(target=bench.runner.serve, args=[{}])
    ending.start()
    ending.join(0.1)
    assert ending.is_alive(), "it waits for the batch"
    assert not bench.engine.closed
    bench.engine.go.set()
    ending.join(10)
    assert bench.engine.closed
    assert bench.count("failed") == 0


def test_stopping_drops_what_waits_and_closes(bench: Bench, eventually: Callable[..., None]) -> None:
    bench.engine.go.clear()
    request = bench.settle("1.1", 0.8)
    for _ in range(5):
        bench.runner.offer(bench.case(request, 0.8))
    eventually(lambda: bench.engine.batches)
    threading.Timer(0.1, bench.engine.go.set).start()
    bench.runner.stop(20)
    assert bench.engine.closed
    assert len(bench.engine.batches) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_a_shadow_and_the_threads_of_its_engine_let_all_others_go_first(
    bench: Bench, eventually: Callable[..., None]
) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    bench.runner.offer(bench.case(bench.settle("1.1", 0.8), 0.8))
    eventually(lambda: bench.engine.priorities)
    assert bench.engine.priorities == [19]
    found: list[int] = []

    def load() -> Any:
        thread = threading.Thread(
            target=lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        )
        thread.start()
        thread.join()
        return bench.engine

    assert load_with_low_priority(load) is bench.engine
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_a_load_raises_comes_out() -> None:
    def load() -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        load_with_low_priority(load)
