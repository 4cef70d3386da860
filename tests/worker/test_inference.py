"""What becomes of a batch whose engine fails: a canary's, an active version's, and that of a GPU that is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

import stand_in_gpu
from stand_in_gpu import PLAN, RELEASE, StandInGpu
from stand_in_version import write_version

from models.engines.built import EngineKey, network_sha256
from models.engines.engine import EngineInfo
from models.engines.tensorrt import TensorRTEngine
from models.errors import Reason, Transient
from models.pixels.spec import InputSpec
from models.requests import InferenceRequest, Lane
from models.store.manifest import Manifest
from models.tasks import Task
from worker.engine_set import EngineSet, TaskEngines
from worker.inference import PROBES, BatchInference, DeviceLost
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.source_image import SourceImage
from worker.stages import OtherInput, Prepared, StageTimes

TASK = Task.PNEUMONIA
FAILURE = Transient(Reason.ENGINE_UNAVAILABLE, "out of memory")


class Meaning:
    """An engine whose probability is the mean of its input; `failures` are raised one after the other."""

    def __init__(self, manifest: Manifest, version: str, side: int) -> None:
        spec = InputSpec(height=side, width=side)
        self.manifest = manifest.model_copy(update={"version": version, "input_spec": spec})
        self.info = EngineInfo("in_test", "1", "cpu", "fp32", "cd" * 32)
        self.failures: list[Exception | None] = []
        self.batches: list[int] = []
        self.nonsense: set[int] = set()

    def run(self, image: Any) -> Any:
        self.batches.append(len(image))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        assert image.shape[1:] == (1, self.manifest.input_spec.height, self.manifest.input_spec.width)
        positive = image.mean(axis=(1, 2, 3))
        positive[list(self.nonsense)] = np.nan
        return {"probability": np.stack([1 - positive, positive], axis=1), "cam": image[:, 0, ::2, ::2].copy()}

    def close(self) -> None:
        """Nothing to give back."""


class Desk:
    """A batch inference and what it counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.pauses: list[float] = []
        self.inference = BatchInference(WorkerMetrics(self.registry), self.pauses.append)

    def fallbacks(self) -> float:
        name = "radstream_worker_canary_fallbacks_total"
        return self.registry.get_sample_value(name, {"task": TASK.value}) or 0.0


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def engines(manifest: Manifest) -> Callable[..., Meaning]:
    return lambda version, side=8: Meaning(manifest, version, side)


def prepared_for(active: Any, canary: Any = None, count: int = 3) -> list[Item]:
    """Make instances of mean 0.1, 0.2, ... for the version that is to answer, and 0.05 more for the active one."""
    held = EngineSet({TASK: TaskEngines(active, canary, 100.0 if canary else 0.0)})
    asked = canary or active
    items = []
    for number in range(count):
        wanted, other = asked.manifest.input_spec, active.manifest.input_spec
        share = (number + 1) / 10
        prepared = Prepared(
            facts=None,
            refusal=None,
            times=StageTimes(),
            inputs={TASK: np.full((wanted.height, wanted.width), share, np.float32)},
            image=SourceImage(64, 64),
            versions={TASK: asked.manifest.version},
        )
        if other != wanted:
            array = np.full((other.height, other.width), share + 0.05, np.float32)
            prepared.fallbacks[TASK] = OtherInput(other, array, SourceImage(64, 64))
        request = InferenceRequest(
            spool_key=f"{number}",
            sop_instance_uid=f"1.2.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title="MODALITY",
            lane=Lane.ROUTINE,
            content_sha256="00" * 32,
            received_at=0.0,
        )
        items.append(Item(request, 0.0, held.hold(), prepared))
    return items


def answers(items: list[Item]) -> list[tuple[str, float] | None]:
    """Give who answered what, None for an instance without an answer."""
    found = [item.answers.get(TASK) for item in items]
    return [each and (each.manifest.version, pytest.approx(each.finding.score, abs=1e-6)) for each in found]


# Canaries


@pytest.mark.parametrize("failure", [FAILURE, MemoryError(), ValueError("a bug")])
def test_a_canary_that_fails_leaves_its_batch_to_the_active_version(
    desk: Desk, engines: Callable[..., Meaning], failure: Exception
) -> None:
    active, canary = engines("1"), engines("2")
    canary.failures = [failure]
    items = prepared_for(active, canary)
    with capture_logs() as logs:
        desk.inference.infer(items)
    assert answers(items) == [("1", 0.1), ("1", 0.2), ("1", 0.3)]
    assert all(item.refusal is None for item in items)
    assert (canary.batches, active.batches) == ([3], [3]), "at once, not instance by instance"
    assert desk.fallbacks() == 3
    (told,) = [entry for entry in logs if entry["event"] == "canary_failed"]
    assert (told["log_level"], told["version"], told["batch"]) == ("error", "2", 3)


def test_the_active_version_sees_its_own_input_where_a_canary_that_wants_another_fails(
    desk: Desk, engines: Callable[..., Meaning]
) -> None:
    active, canary = engines("1", 16), engines("2", 8)
    canary.failures = [None, FAILURE]
    first, second = prepared_for(active, canary), prepared_for(active, canary)
    desk.inference.infer(first)
    desk.inference.infer(second)
    assert answers(first) == [("2", 0.1), ("2", 0.2), ("2", 0.3)]
    assert answers(second) == [("1", 0.15), ("1", 0.25), ("1", 0.35)]


def test_only_the_instances_on_which_a_canary_answers_nonsense_fall_to_the_active_version(
    desk: Desk, engines: Callable[..., Meaning]
) -> None:
    active, canary = engines("1", 16), engines("2", 8)
    canary.nonsense = {1}
    items = prepared_for(active, canary)
    desk.inference.infer(items)
    assert answers(items) == [("2", 0.1), ("1", 0.25), ("2", 0.3)]
    assert all(item.refusal is None for item in items)
    assert (desk.fallbacks(), active.batches) == (1, [1])


def test_it_is_said_once_for_each_time_that_a_canary_came_into_service(
    desk: Desk, engines: Callable[..., Meaning]
) -> None:
    active, told = engines("1"), 0
    with capture_logs() as logs:
        for canary in (engines("2"), engines("2")):
            for _ in range(3):
                canary.failures = [FAILURE]
                desk.inference.infer(prepared_for(active, canary, count=1))
            told += 1
            assert len([entry for entry in logs if entry["event"] == "canary_failed"]) == told
    assert desk.fallbacks() == 6


def test_an_instance_on_which_both_fail_is_refused_alone(desk: Desk, engines: Callable[..., Meaning]) -> None:
    active, canary = engines("1"), engines("2")
    canary.failures, active.failures = [FAILURE], [FAILURE, None, FAILURE]
    items = prepared_for(active, canary)
    desk.inference.infer(items)
    assert answers(items) == [("1", 0.1), None, ("1", 0.3)]
    assert [item.refusal and item.refusal.reason for item in items] == [None, Reason.ENGINE_UNAVAILABLE, None]


def test_a_canary_that_was_promoted_meanwhile_falls_back_for_whom_it_was_a_canary(
    desk: Desk, engines: Callable[..., Meaning]
) -> None:
    former, engine = engines("1"), engines("2")
    as_canary, as_active = prepared_for(former, engine, count=1), prepared_for(engine, count=1)
    engine.failures = [FAILURE]
    desk.inference.infer([*as_canary, *as_active])
    assert answers(as_canary + as_active) == [("1", 0.1), ("2", 0.1)]


# A GPU that is lost


@pytest.fixture
def gpu() -> StandInGpu:
    return StandInGpu()


@pytest.fixture
def on_gpu(gpu: StandInGpu, tmp_path: Path) -> TensorRTEngine:
    version = write_version(tmp_path / "version", b"a network that these tests never run")
    key = EngineKey(network_sha256(version), "tensorrt", RELEASE, "fp16", stand_in_gpu.CAPABILITY)
    return TensorRTEngine(version, key, PLAN, gpu)


def test_a_gpu_that_answers_no_blank_image_either_is_lost_and_no_instance_is_refused(
    desk: Desk, gpu: StandInGpu, on_gpu: TensorRTEngine
) -> None:
    items = prepared_for(on_gpu)
    gpu.failing.add("launch")
    gpu.calls.clear()
    with capture_logs() as logs, pytest.raises(DeviceLost, match="start this process again"):
        desk.inference.infer(items)
    assert gpu.calls.count("launch") == 2 + PROBES, "the batch, its first instance, and blank images"
    assert len(desk.pauses) == PROBES - 1
    assert all(item.refusal is None and not item.answers for item in items)
    (told,) = [entry for entry in logs if entry["event"] == "device_lost"]
    assert (told["log_level"], told["provider"], told["failures"]) == ("error", "tensorrt", PROBES)
    assert "spool" in told["advice"]


def test_a_gpu_that_answers_again_after_a_pause_is_asked_again_for_the_instance(
    desk: Desk, gpu: StandInGpu, on_gpu: TensorRTEngine
) -> None:
    items = prepared_for(on_gpu, count=1)
    gpu.failing.add("launch")
    desk.inference = BatchInference(WorkerMetrics(CollectorRegistry()), lambda _: gpu.failing.clear())
    desk.inference.infer(items)
    assert answers(items) == [("1.0.0", 0.1)]
    assert items[0].refusal is None


def test_an_instance_that_fails_on_a_gpu_that_answers_others_is_refused(
    desk: Desk, on_gpu: TensorRTEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = on_gpu.run

    def fails_on_the_second(image: Any) -> Any:
        if (np.abs(image.mean(axis=(1, 2, 3)) - 0.2) < 1e-3).any():
            raise FAILURE
        return run(image)

    monkeypatch.setattr(on_gpu, "run", fails_on_the_second)
    items = prepared_for(on_gpu)
    desk.inference.infer(items)
    assert answers(items) == [("1.0.0", 0.1), None, ("1.0.0", 0.3)]
    assert items[1].refusal is not None
    assert items[1].refusal.reason is Reason.ENGINE_UNAVAILABLE
