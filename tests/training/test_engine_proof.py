"""The gate of engines: which figures it looks at, what they are, and that none of them slips through."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from landmark_sets import column
from zone_sets import write_csi_version

from models.engines.engine import Outputs
from models.pixels.spec import InputSpec
from models.spine.schemas import SCHEMAS
from models.store.manifest import Manifest
from models.store.store import open_version
from models.tasks import Task
from training.engine_proof import BOUNDS, NotProven, correlations_of, prove
from training.engine_speed import measure_speeds
from training.golden_set import GoldenSet

Array = NDArray[np.float32]


def manifest_of(task: Task, labels: tuple[str, ...], outputs: tuple[str, ...], **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "task": task,
        "network": "none",
        "version": "1.0.0",
        "labels": labels,
        "input_spec": InputSpec(height=8, width=8),
        "output_names": outputs,
        "files": {"network.onnx": "0" * 64},
        "licence": "test",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "radstream_version": "0",
    }
    return Manifest(**(fields | changes))


PNEUMONIA = manifest_of(Task.PNEUMONIA, ("NORMAL", "PNEUMONIA"), ("probability", "cam"), thresholds={"PNEUMONIA": 0.5})
SPINE = manifest_of(Task.LANDMARKS, SCHEMAS["aasce68"].labels, ("landmarks", "confidence", "spread"))
MAPS = np.random.default_rng(0).random((4, 3, 3)).astype(np.float32)


def classes(*positive: float) -> Outputs:
    column = np.array(positive, np.float32)
    return {"probability": np.stack([1 - column, column], axis=1), "cam": MAPS[: len(column)].copy()}


def golden(count: int, measured: dict[str, float], worse: dict[str, float] | None = None) -> GoldenSet:
    """A set whose measures are `measured`, and `worse` from the second time on."""
    given = iter([measured, measured if worse is None else worse])
    return GoldenSet(
        np.zeros((count, 1, 8, 8), np.float32), np.zeros((0, 1, 8, 8), np.float32), lambda _: next(given), "0" * 64
    )


def figures(proof: Any) -> dict[str, float]:
    return {check.name: check.value for check in proof.checks}


def test_differences_and_changed_answers_are_counted() -> None:
    before, after = classes(0.1, 0.45, 0.9, 0.8), classes(0.1, 0.5, 0.9, 0.82)
    with pytest.raises(NotProven) as failure:
        prove(PNEUMONIA, golden(4, {}), before, after, "int8")
    assert failure.value.proof is not None
    found = figures(failure.value.proof)
    assert found["probability: largest difference"] == pytest.approx(0.05)
    assert found["probability: mean difference"] == pytest.approx(0.07 / 4)  # both classes differ alike
    assert found["probability: answers that changed"] == 0.25
    assert str(failure.value) == (
        "pneumonia 1.0.0, int8: not proven on 4 images, nothing is published: "
        "probability: answers that changed is 0.25, must be at most 0.06"
    )


def test_every_figure_outside_of_its_bound_is_named() -> None:
    with pytest.raises(NotProven, match=r"largest difference is 0\.3, .*; probability: mean difference is 0\.3, "):
        prove(PNEUMONIA, golden(2, {}), classes(0.1, 0.6), classes(0.4, 0.9), "int8")


def test_maps_of_images_that_are_not_called_positive_are_told_but_not_bounded() -> None:
    before, after = classes(0.1, 0.9), classes(0.1, 0.9)
    after["cam"][0] = -after["cam"][0]
    proof = prove(PNEUMONIA, golden(2, {}), before, after, "int8")
    assert figures(proof)["cam: least correlation"] == pytest.approx(1)
    assert proof.measured["cam: mean correlation, negative images too"] == pytest.approx(0)
    after["cam"][1] = -after["cam"][1]
    with pytest.raises(NotProven, match=r"cam: least correlation is -1, must be at least 0\.7"):
        prove(PNEUMONIA, golden(2, {}), before, after, "int8")


def test_maps_without_evidence_have_no_correlation() -> None:
    one, none = np.array([[[0.0, 1.0]]]), np.zeros((1, 1, 2))
    assert correlations_of(none, none) == [1.0]
    assert correlations_of(one, none) == [0.0]
    assert correlations_of(one, 3 * one) == [pytest.approx(1)]
    assert correlations_of(one, 1 - one) == [pytest.approx(-1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_proven(value: float) -> None:
    after = classes(0.1, 0.9)
    after["probability"][1, 1] = value
    with pytest.raises(NotProven):
        prove(PNEUMONIA, golden(2, {}), classes(0.1, 0.9), after, "int8")


def test_outputs_of_another_shape_are_refused() -> None:
    after = classes(0.1, 0.9) | {"cam": np.zeros((2, 4, 4), np.float32)}
    with pytest.raises(NotProven, match="output cam is"):
        prove(PNEUMONIA, golden(2, {}), classes(0.1, 0.9), after, "int8")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"accuracy": 0.95}, {"accuracy": 0.9}, r"accuracy: fall is 0\.05, must be at most 0\.02"),
        ({"roc_auc": 0.99}, {"roc_auc": 0.9}, "roc_auc: fall"),
        ({"kappa_quadratic": 0.7}, {"kappa_quadratic": 0.6}, "kappa_quadratic: fall"),
        ({"mae_zone": 0.4}, {"mae_zone": 0.5}, r"mae_zone: rise is 0\.1, must be at most 0\.03"),
        ({"mre_px": 5.0}, {"mre_px": 6.0}, "mre_px: rise is 1, "),
        ({"cobb_smape": 7.0}, {"cobb_smape": 9.0}, "cobb_smape: rise is 2, "),
        ({"accuracy": 0.9}, {"accuracy": float("nan")}, "accuracy: fall is nan"),
    ],
)
def test_a_task_that_is_done_worse_is_refused(before: dict[str, float], after: dict[str, float], told: str) -> None:
    same = classes(0.1, 0.9)
    with pytest.raises(NotProven, match=told):
        prove(PNEUMONIA, golden(2, before, after), same, same, "int8")


def test_a_task_that_is_done_better_is_no_fault_and_an_undefined_measure_is_left_out() -> None:
    same = classes(0.1, 0.9)
    proof = prove(
        PNEUMONIA,
        golden(2, {"accuracy": 0.8, "roc_auc": float("nan")}, {"accuracy": 0.9, "roc_auc": float("nan")}),
        same,
        same,
        "int8",
    )
    assert figures(proof)["accuracy: fall"] == pytest.approx(-0.1)
    assert "roc_auc: fall" not in figures(proof)
    assert proof.measured["accuracy: after"] == 0.9


def test_landmarks_are_compared_by_distance() -> None:
    points = column((1024, 512)).astype(np.float32)[np.newaxis]
    reference: Outputs = {
        "landmarks": points,
        "confidence": np.full((1, 68), 0.5, np.float32),
        "spread": np.ones((1, 68), np.float32),
    }
    moved = points.copy()
    moved[0, 0] += (3, 4)  # by 5 px: the 99th percentile of 68 lies a third of the way up to it
    proof = prove(SPINE, golden(1, {}), reference, reference | {"landmarks": moved}, "int8")
    assert figures(proof)["landmarks: mean distance, px"] == pytest.approx(5 / 68)
    assert figures(proof)["landmarks: 99th percentile of distance, px"] == pytest.approx(5 * 0.33)
    assert figures(proof)["landmarks: films that changed"] == 0
    assert proof.measured["landmarks: largest difference, px"] == 4
    moved[0, 1] += (30, 40)
    with pytest.raises(NotProven, match="landmarks: 99th percentile of distance, px"):
        prove(SPINE, golden(1, {}), reference, reference | {"landmarks": moved}, "int8")


def test_films_whose_bodies_are_named_otherwise_are_counted_and_not_measured() -> None:
    points = np.stack([column((1024, 512))] * 20).astype(np.float32)
    reference: Outputs = {
        "landmarks": points,
        "confidence": np.full((20, 68), 0.5, np.float32),
        "spread": np.ones((20, 68), np.float32),
    }
    moved = points + np.float32(0.5)
    moved[3, 20:, 1] += 54  # from the sixth vertebra on, all of a film lie on the next body
    proof = prove(SPINE, golden(20, {}), reference, reference | {"landmarks": moved}, "int8")
    assert figures(proof)["landmarks: films that changed"] == pytest.approx(1 / 20)
    assert figures(proof)["landmarks: mean distance, px"] == pytest.approx(0.5**0.5, rel=1e-3)
    moved[4] += 54
    with pytest.raises(NotProven, match="landmarks: films that changed"):
        prove(SPINE, golden(20, {}), reference, reference | {"landmarks": moved}, "int8")


def test_zones_that_are_called_otherwise_are_counted(tmp_path: Path) -> None:
    write_csi_version(tmp_path / "1.0.0")
    manifest = open_version(tmp_path / "1.0.0").manifest
    probability = np.zeros((1, 6, 5), np.float32)
    probability[..., 0] = 1
    other = probability.copy()
    other[0, 2] = (0, 1, 0, 0, 0)
    maps = np.ones((1, 6, 3, 2), np.float32)
    with pytest.raises(NotProven) as failure:
        prove(
            manifest,
            golden(1, {}),
            {"probability": probability, "cam": maps},
            {"probability": other, "cam": maps},
            "int8",
        )
    assert failure.value.proof is not None
    assert figures(failure.value.proof)["probability: answers that changed"] == pytest.approx(1 / 6)


def test_bounds_are_closer_the_more_precise_an_engine_is() -> None:
    for name, (holds, loosest) in BOUNDS["int8"].items():
        ordered = [BOUNDS[precision][name][1] for precision in ("fp32", "fp16")] + [loosest]
        assert ordered == sorted(ordered, reverse=holds == "at least")


class Timed:
    """An engine that takes so long per image by a clock of its own."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        self.clock, self.seconds, self.sizes = clock, seconds, []  # type: ignore[var-annotated]

    def run(self, image: Array) -> Outputs:
        self.sizes.append(len(image))
        self.clock[0] += len(image) * (self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0])
        return {}


def test_the_best_of_several_rounds_counts_for_both() -> None:
    clock = [0.0]
    engine, reference = Timed(clock, [2.0, 0.5, 1.0]), Timed(clock, [4.0, 4.0, 1.0])
    images = np.zeros((3, 1, 8, 8), np.float32)
    (speed,) = measure_speeds(engine, reference, images, [5], 2, rounds=3, clock=lambda: clock[0])  # type: ignore[arg-type]
    assert (speed.batch, speed.threads) == (5, 2)
    assert speed.images_per_s == pytest.approx(2.0)
    assert speed.reference_images_per_s == pytest.approx(1.0)
    assert engine.sizes == [5, 5, 5]  # three images fill a batch of five
