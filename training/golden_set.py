"""Images on which an engine is proven, and others on which it is calibrated: real ones, the same ones every time.

Both come from the training part of a labelled set, read as the worker reads, spread evenly over its sorted names and
dealt alternately: no image of the golden set was calibrated on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Outputs
from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from models.spine.schemas import schema_of_labels
from models.store.manifest import Manifest
from models.tasks import Task
from training.classes import POSITIVE, classes_of
from training.datasets.labelled import AUTO, LabelledImage, read_labelled
from training.datasets.landmark_images import LandmarkImage, read_landmark_images
from training.datasets.landmark_radiographs import placement_of
from training.datasets.listing import spread
from training.datasets.radiographs import HasPath, read_input
from training.datasets.zone_images import ZoneImage, read_zone_images
from training.evaluation import classification_metrics
from training.graded_images import grades_of
from training.landmark_evaluation import landmark_metrics
from training.progress import track
from training.subjects import Images
from training.zone_evaluation import ZoneAnswers, zone_metrics

DEFAULT_IMAGES: Final = 64
TRAINING_SPLIT: Final = "train"

Measure = Callable[[Outputs], dict[str, float]]
"""Gives the task's own measures of answers to the golden set; NaN where one is not defined on it."""

T = TypeVar("T", bound=HasPath)


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """What an engine is proven and calibrated on.

    Attributes:
        images: ``(N, 1, H, W) float32 in [0, 1]``.
        calibration: ``(M, 1, H, W)``, others than these.
        measure: the task's own measures, against the labels of `images`.
        sha256: of `images`.
    """

    images: Images
    calibration: Images
    measure: Measure
    sha256: str


def read_golden_set(
    manifest: Manifest,
    data_dir: Path,
    count: int = DEFAULT_IMAGES,
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
) -> GoldenSet:
    """Choose and read images of a labelled set.

    Args:
        manifest: of the version to prove.
        data_dir: directory of the set, as `train` takes it.
        count: of images to prove on; as many are calibrated on, where there are enough.
        format: of the set.
        labels_csv: its table of labels, where it lies elsewhere.

    Raises:
        ConfigurationError: the set cannot be read, or has fewer than two images.
    """
    match manifest.task:
        case Task.CSI:
            graded = read_zone_images(data_dir, format=format, labels_csv=labels_csv, progress=_shown).images
            golden, others = _dealt(graded, count, data_dir)
            measure = _of_zones(golden)
        case Task.LANDMARKS:
            found = read_landmark_images(data_dir, format=format, progress=_shown)
            if found.schema.labels != manifest.labels:
                raise ConfigurationError(f"{data_dir}: has landmarks {found.schema.name}, not those of this version")
            located, others_located = _dealt(found.images, count, data_dir)
            return _read(located, others_located, manifest.input_spec, _of_landmarks(located, manifest))
        case _:
            return _read_classes(manifest, data_dir, count, format, labels_csv)
    return _read(golden, others, manifest.input_spec, measure)


def _read_classes(manifest: Manifest, data_dir: Path, count: int, format: str, labels_csv: Path | None) -> GoldenSet:
    labels = classes_of(manifest.task)
    per_class = math.ceil(2 * count / len(labels))
    images = read_labelled(
        data_dir, labels, format=format, labels_csv=labels_csv, split=TRAINING_SPLIT, limit=per_class, progress=_shown
    ).images
    golden, others = _dealt(images, count, data_dir)
    return _read(golden, others, manifest.input_spec, _of_classes(golden, manifest, labels))


def _shown(files: Sequence[Any]) -> Any:
    return track(files, len(files), "looking at images")


def _dealt(images: Sequence[T], count: int, data_dir: Path) -> tuple[tuple[T, ...], tuple[T, ...]]:
    if len(images) < 2:
        raise ConfigurationError(f"{data_dir}: one image alone cannot both calibrate an engine and prove it")
    chosen = spread(images, 2 * count)
    return tuple(chosen[::2]), tuple(chosen[1::2])


def _read(golden: Sequence[HasPath], others: Sequence[HasPath], spec: InputSpec, measure: Measure) -> GoldenSet:
    inputs = [
        read_input(image.path, spec)
        for image in track([*golden, *others], len(golden) + len(others), "reading golden set")
    ]
    stacked = np.stack(inputs)[:, np.newaxis].astype(np.float32, copy=False)
    images, calibration = stacked[: len(golden)], stacked[len(golden) :]
    return GoldenSet(images, calibration, measure, hashlib.sha256(images.tobytes()).hexdigest())


def _of_classes(images: Sequence[LabelledImage], manifest: Manifest, labels: tuple[str, str]) -> Measure:
    label = np.array([image.label for image in images], np.int64)
    threshold = manifest.thresholds.get(labels[POSITIVE], 0.5)

    def measure(outputs: Outputs) -> dict[str, float]:
        probability = outputs["probability"][:, POSITIVE].astype(np.float64)
        metrics = classification_metrics(label, probability, threshold, labels=labels, bootstrap=0)
        return _chosen(metrics, "accuracy", "roc_auc")

    return measure


def _of_zones(images: Sequence[ZoneImage]) -> Measure:
    truth, persons = grades_of(images, 0), [image.person for image in images]

    def measure(outputs: Outputs) -> dict[str, float]:
        answers = ZoneAnswers.of_probability(outputs["probability"])
        return _chosen(zone_metrics(truth, answers, groups=persons, bootstrap=0), "kappa_quadratic", "mae_zone")

    return measure


def _of_landmarks(images: Sequence[LandmarkImage], manifest: Manifest) -> Measure:
    schema = schema_of_labels(manifest.labels)
    if schema is None:
        raise ConfigurationError("the labels of the version are no schema of landmarks")
    placements = [placement_of(image.path, manifest.input_spec) for image in images]

    def measure(outputs: Outputs) -> dict[str, float]:
        found = outputs["landmarks"].astype(np.float64)
        points: NDArray[np.float64] = np.stack(
            [placement.to_original(own) for placement, own in zip(placements, found, strict=True)]
        )
        metrics = landmark_metrics(images, points, schema, tilt_scatter=manifest.tilt_scatter, bootstrap=0)
        return _chosen(metrics, "mre_px", "cobb_smape")

    return measure


def _chosen(metrics: dict[str, Any], *names: str) -> dict[str, float]:
    return {name: math.nan if metrics[name] is None else float(metrics[name]) for name in names}
