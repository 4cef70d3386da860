"""Measures of an older version on the persons that a new one held out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigurationError
from models.store.store import ModelVersion
from models.tasks import Task
from training.datasets.labelled import LabelledImage
from training.datasets.landmark_images import LandmarkImage
from training.datasets.zone_images import ZoneImage
from training.evaluation import classification_metrics
from training.graded_images import grade_all
from training.landmark_run import read_landmark_side
from training.landmark_subjects import EngineLandmarkSubject
from training.located_images import locate_all
from training.regenerate_comparison import VALIDATION
from training.run import RunDirectory
from training.subjects import EngineSubject
from training.zone_evaluation import zone_metrics
from training.zone_run import read_side
from training.zone_subjects import EngineZoneSubject

_BATCH_SIZE: Final = 8


def measure_version(version: ModelVersion, runs: Sequence[RunDirectory], data_dir: Path) -> Mapping[str, Any]:
    """Answer everybody who was held out of these runs, in FP32, as manifests have it, and measure the answers.

    Args:
        version: that answers.
        runs: finished; one, or the folds of a cross-validation.
        data_dir: where their images lie.

    Raises:
        ConfigurationError: an image is missing or was changed, or the version answers something else.
    """
    with tempfile.TemporaryDirectory(prefix="radstream-compare-") as directory:
        # A version without its folder of built engines is FP32, whatever was chosen for speed.
        (Path(directory) / version.network_path.name).symlink_to(version.network_path.resolve())
        plain = ModelVersion(Path(directory), version.manifest)
        match version.manifest.task:
            case Task.CSI:
                return _of_zones(plain, tuple(i for run in runs for i in read_side(run, VALIDATION, data_dir)))
            case Task.LANDMARKS:
                held_out = tuple(i for run in runs for i in read_landmark_side(run, VALIDATION, data_dir))
                schemas = {run.read_json("data.json")["schema"] for run in runs}
                return _of_landmarks(plain, held_out, schemas)
            case _:
                return _of_classes(plain, tuple(i for run in runs for i in run.read_images(VALIDATION, data_dir)))


def _of_classes(version: ModelVersion, images: tuple[LabelledImage, ...]) -> Mapping[str, Any]:
    from training.evaluate import EvaluationRequest, answer_all

    subject = EngineSubject(version)
    unused = version.directory  # answering reads neither directory
    request = EvaluationRequest(data_dir=unused, split=VALIDATION, output_dir=unused, batch_size=_BATCH_SIZE)
    label, probability = answer_all(subject, images, request)
    return classification_metrics(label, probability, subject.threshold, labels=subject.labels, bootstrap=0)


def _of_zones(version: ModelVersion, images: tuple[ZoneImage, ...]) -> Mapping[str, Any]:
    graded = grade_all(EngineZoneSubject(version), images, _BATCH_SIZE, 0)
    return zone_metrics(graded.truth, graded.answers, groups=graded.persons, bootstrap=0)


def _of_landmarks(version: ModelVersion, images: tuple[LandmarkImage, ...], schemas: set[str]) -> Mapping[str, Any]:
    subject = EngineLandmarkSubject(version)
    if schemas != {subject.schema.name}:
        raise ConfigurationError(
            f"{subject.name} finds landmarks {subject.schema.name}, these images have {', '.join(sorted(schemas))}: "
            "the two versions cannot be compared"
        )
    return locate_all(subject, images, _BATCH_SIZE, 0).measured(0)
