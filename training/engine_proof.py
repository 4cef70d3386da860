"""The proof of an engine: its answers beside those of ``network.onnx`` in FP32, and how well it does its task.

Every bound stands in `BOUNDS`, by precision. An engine outside of one is not published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.engines.built import Check, Proof
from models.engines.engine import Engine, Outputs
from models.errors import RadstreamError
from models.networks.vertebra_alignment import can_align
from models.spine.schemas import schema_of_labels
from models.store.manifest import Manifest
from models.tasks import Task
from models.zones import grade_zones
from training.classes import POSITIVE
from training.golden_set import GoldenSet
from training.landmark_columns import levels_off
from training.progress import track
from training.subjects import Images

BATCH: Final = 8

Bound = tuple[Literal["at most", "at least"], float]

FALLS: Final = ("accuracy", "roc_auc", "kappa_quadratic")
"""Measures of tasks of which more is better; of the others, less."""

_NAMES: Final = (
    *("probability: largest difference", "probability: mean difference", "probability: answers that changed"),
    *("cam: least correlation", "cam: mean correlation"),
    *("landmarks: films that changed", "landmarks: mean distance, px", "landmarks: 99th percentile of distance, px"),
    *("confidence: mean difference", "spread: mean difference, px"),
    *("accuracy: fall", "roc_auc: fall", "kappa_quadratic: fall"),
    *("mae_zone: rise", "mre_px: rise", "cobb_smape: rise"),
)
_AT_LEAST: Final = frozenset({"cam: least correlation", "cam: mean correlation"})
_VALUES: Final[dict[str, tuple[float, ...]]] = {
    "fp32": (0.002, 0.0005, 0.0, 0.99, 0.999, 0.0, 0.05, 0.5, 0.002, 0.05, 0.0, 0.001, 0.005, 0.005, 0.02, 0.1),
    "fp16": (0.02, 0.004, 0.02, 0.95, 0.995, 0.02, 0.2, 1.0, 0.01, 0.2, 0.016, 0.005, 0.01, 0.01, 0.1, 0.3),
    "int8": (0.2, 0.03, 0.06, 0.7, 0.96, 0.06, 1.0, 4.0, 0.03, 0.6, 0.02, 0.01, 0.03, 0.03, 0.3, 0.7),
}
BOUNDS: Final[dict[str, dict[str, Bound]]] = {
    precision: {
        name: ("at least" if name in _AT_LEAST else "at most", value)
        for name, value in zip(_NAMES, values, strict=True)
    }
    for precision, values in _VALUES.items()
}
"""By precision and figure. Distances are in pixels of the input, `mre_px` in those of a letterbox of 512, `cobb_smape`
in percent; differences of probability are of any class, and answers that changed a share of images, or of zones. Films
that changed are a share of those of a frontal column: another body got a name, as where it was nearly a tie which one
is the first. Distances are those of the others."""


class NotProven(RadstreamError):
    """An engine is outside of a bound; nothing is published.

    Attributes:
        proof: every figure with its bound; None where outputs could not be compared.
    """

    def __init__(self, message: str, proof: Proof | None = None) -> None:
        super().__init__(message)
        self.proof = proof


def answer_all(engine: Engine, images: Images, what: str) -> Outputs:
    """Answer every image, a few at a time.

    Raises:
        Transient: the engine failed.
    """
    starts = range(0, len(images), BATCH)
    parts = [engine.run(images[start : start + BATCH]) for start in track(starts, len(starts), what)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prove(manifest: Manifest, golden: GoldenSet, reference: Outputs, answers: Outputs, precision: str) -> Proof:
    """Compare answers to the golden set with those of the reference.

    Args:
        manifest: of the version.
        golden: what was answered.
        reference: answers of ``network.onnx``.
        answers: of the engine.
        precision: of the engine; decides the bounds.

    Raises:
        NotProven: a bound is not kept; the message names each figure, what it is and what it must be.
    """
    before, after = golden.measure(reference), golden.measure(answers)
    figures = {**_differences(manifest, reference, answers), **_changes(before, after)}
    sides = {f"{name}: before": value for name, value in before.items()}
    sides |= {f"{name}: after": value for name, value in after.items()}
    checks = tuple(
        Check(name=name, value=figures[name], bound=bound, holds=holds)
        for name, (holds, bound) in BOUNDS[precision].items()
        if name in figures
    )
    proof = Proof(
        images=len(golden.images),
        labelled_images=len(golden.images),
        golden_sha256=golden.sha256,
        checks=checks,
        measured={
            name: value
            for name, value in (figures | sides).items()
            if name not in BOUNDS[precision] and math.isfinite(value)
        },
    )
    refuse_unproven(proof, f"{manifest.task} {manifest.version}, {precision}")
    return proof


def refuse_unproven(proof: Proof, title: str) -> None:
    """Raise `NotProven` where a bound of a proof is not kept."""
    if proof.failures:
        told = "; ".join(str(check) for check in proof.failures)
        raise NotProven(f"{title}: not proven on {proof.images} images, nothing is published: {told}", proof)


def _differences(manifest: Manifest, reference: Outputs, answers: Outputs) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in manifest.output_names:
        before, after = reference[name].astype(np.float64), answers[name].astype(np.float64)
        if before.shape != after.shape:
            raise NotProven(f"output {name} is {after.shape}, must be {before.shape}: nothing is published")
        apart = np.abs(after - before)
        unit = ", px" if name in ("landmarks", "spread") else ""
        figures[f"{name}: largest difference{unit}"] = float(apart.max())
        figures[f"{name}: mean difference{unit}"] = float(apart.mean())
        if name == "probability":
            figures["probability: answers that changed"] = _changed(manifest, before, after)
        if name == "cam":
            figures |= _correlations(before, after, _explained(manifest, reference["probability"]))
        if name == "landmarks":
            distance = np.hypot(after[..., 0] - before[..., 0], after[..., 1] - before[..., 1])
            changed = _renamed(manifest, before, after)
            figures["landmarks: films that changed"] = float(changed.mean())
            distance = distance[~changed] if not changed.all() else distance
            figures["landmarks: mean distance, px"] = float(distance.mean())
            figures["landmarks: 99th percentile of distance, px"] = float(np.percentile(distance, 99))
    return figures


def _renamed(manifest: Manifest, before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say in which films of a frontal column a vertebra lies on another body, ``(N)``."""
    schema = schema_of_labels(manifest.labels)
    if schema is None or not can_align(schema):
        return np.zeros(len(before), np.bool_)
    return np.array([levels_off(*pair).any() for pair in zip(before, after, strict=True)], np.bool_)


def _changes(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Say how much worse the task's measures became; what neither has is left out."""
    figures = {}
    for name, value in before.items():
        if math.isnan(value) and math.isnan(after[name]):
            continue
        figures[f"{name}: {'fall' if name in FALLS else 'rise'}"] = (
            value - after[name] if name in FALLS else after[name] - value
        )
    return figures


def _changed(manifest: Manifest, before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Give the share of images, or of zones, that are called otherwise, as the worker calls them."""
    if manifest.task is Task.CSI:
        return float((grade_zones(before).called != grade_zones(after).called).mean())
    threshold = _threshold(manifest)
    return float(((before[:, POSITIVE] >= threshold) != (after[:, POSITIVE] >= threshold)).mean())


def _explained(manifest: Manifest, probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say of which images the map explains what is called: ``(N)``.

    Of two classes the map is of the positive one. Where that is not called it is the last trace of evidence, scaled up
    to 1: often a single cell, which any rounding moves.
    """
    if manifest.task is Task.CSI:
        return np.ones(len(probability), np.bool_)
    called: NDArray[np.bool_] = probability[:, POSITIVE] >= _threshold(manifest)
    return called


def _correlations(
    before: NDArray[np.float64], after: NDArray[np.float64], explained: NDArray[np.bool_]
) -> dict[str, float]:
    every = np.array(correlations_of(before, after))
    figures = {} if explained.all() else {"cam: mean correlation, negative images too": float(every.mean())}
    if explained.any():
        counted = every[explained]
        figures |= {"cam: least correlation": float(counted.min()), "cam: mean correlation": float(counted.mean())}
    return figures


def _threshold(manifest: Manifest) -> float:
    return manifest.thresholds.get(manifest.labels[POSITIVE], 0.5)


def correlations_of(before: NDArray[np.float64], after: NDArray[np.float64]) -> Sequence[float]:
    """Give Pearson's correlation of the maps of each image, all its zones together.

    Maps without any evidence have no correlation: 1 where both are, 0 where one is.
    """
    correlations = []
    for one, other in zip(before.reshape(len(before), -1), after.reshape(len(after), -1), strict=True):
        one, other = one - one.mean(), other - other.mean()
        norms = float(np.sqrt((one @ one) * (other @ other)))
        same = not one.any() and not other.any()
        correlations.append(float(one @ other) / norms if norms > 0 else float(same))
    return correlations
