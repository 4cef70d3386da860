"""`python -m training export` of task landmarks.

A network that was fitted to everyone is measured by a cross-validation of networks fitted likewise, as those of csi.
From the same answers come the confidence below which a vertebra is flagged for review, and the scatter of tilts with
which Cobb angles are read.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch.utils.data import DataLoader

from models.identity import VERSION
from models.networks.heatmap_table import heatmap_entry
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion, open_version
from models.tasks import Task
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_radiographs import LandmarkBatch, LandmarkRadiographs, placement_of
from training.datasets.radiographs import in_order
from training.export import (
    PARITY_IMAGES,
    ExportRequest,
    LandmarkTolerance,
    check_parity,
    staged_engine,
    write_documents,
    write_manifest,
)
from training.landmark_card import landmark_card
from training.landmark_evaluation import given_angles, radial_errors_px
from training.landmark_fitted import FittedLandmarks, load_fitted_landmarks
from training.landmark_measure import located_of_folds
from training.landmark_module import TRAIN, VALIDATION
from training.landmark_plots import draw_cobb, draw_errors, draw_vertebrae
from training.landmark_readings import found_tilt_scatter
from training.landmark_run import read_landmark_side
from training.landmark_served import LANDMARK_OUTPUTS
from training.landmark_settings import LandmarkTrainSettings
from training.landmark_subjects import EngineLandmarkSubject
from training.located_images import LocatedImages, locate_all
from training.measuring_folds import CROSS_VALIDATION, measuring_folds, origin_in_words, runs_of
from training.onnx_file import export_onnx, store_in_half_precision
from training.report import settings_of
from training.run import KFOLD_FILE, RunDirectory

SINGLE_PRECISION: Final = LandmarkTolerance(landmarks=0.1, confidence=1e-3, spread=0.1)
"""Of the graph as exported. A window moves by a cell where two cells are equally high but for rounding."""
HALF_PRECISION_WEIGHTS: Final = LandmarkTolerance(landmarks=1.0, confidence=0.05, spread=1.0)
"""Of the graph as shipped: weights have 11 significant bits."""

SOUND_PX: Final = 18.0
"""Letterbox pixels: a film of which every landmark lies within this distance is answered soundly."""
FALSE_REVIEWS: Final = 0.05
"""Part of the soundly answered films that may be flagged."""
_STEPS: Final = 1000
"""Confidences are given in thousandths."""
_BATCH_SIZE: Final = 8
_REPLICATES: Final = 1000


@dataclass(frozen=True, slots=True)
class _Measured:
    """Answers to images that the network, or one fitted likewise, was not fitted to."""

    split: str
    located: LocatedImages
    metrics: dict[str, Any]


def export_landmarks(run: RunDirectory, request: ExportRequest, store: ModelStore) -> ModelVersion:
    """Make a version of a finished run and publish it.

    Raises:
        ConfigurationError: the run is not finished, its images are not there, or nothing measures it.
        ExportError: the graph does not give the answers of the fitted network.
    """
    settings = run.read_settings_as(LandmarkTrainSettings)
    fitted = load_fitted_landmarks(run.path)
    data_dir = request.data_dir or settings.data_dir
    held_out = read_landmark_side(run, VALIDATION, data_dir)
    folds = None if held_out else measuring_folds(run, request.measured_by, settings, _origin)
    images = held_out or read_landmark_side(run, TRAIN, data_dir)
    single = export_onnx(fitted.served, fitted.input_spec, LANDMARK_OUTPUTS)
    half = store_in_half_precision(single)
    with tempfile.TemporaryDirectory(prefix="radstream-export-") as directory:
        # 1. The graph answers as the network does.
        staging = Path(directory)
        manifest = _draft_manifest(run, settings, fitted, request)
        some = _batches(images[:: max(1, len(images) // PARITY_IMAGES)][:PARITY_IMAGES], manifest)
        parity = {
            name: check_parity(fitted.served, staged_engine(proto, staging, manifest), some, tolerance)
            for name, proto, tolerance in (
                ("single_precision", single, SINGLE_PRECISION),
                ("half_precision_weights", half, HALF_PRECISION_WEIGHTS),
            )
        }
        # 2. What it is worth, and from which confidence on it is believed.
        staged_engine(half, staging, manifest).close()
        measured = _read(_of_folds(folds) if folds is not None else _measure(open_version(staging), images))
        review = review_figures(measured.located)
        manifest = manifest.model_copy(
            update={
                "metrics": {measured.split: {**measured.metrics, "review": review}},
                "review_confidence": review["confidence"],
                "tilt_scatter": measured.located.tilt_scatter,
            }
        )
        # 3. Report, and publication.
        report = staging / "report"
        report.mkdir()
        _draw(report, measured, f"{manifest.task} {manifest.version}, {measured.split.replace('_', ' ')}")
        documents = {"settings.json": settings_of(run), "metrics.json": manifest.metrics, "parity.json": parity}
        if folds is not None:
            documents["cross_validation.json"] = {
                "settings": settings_of(runs_of(folds)[0]),
                **{name: folds.read_json(KFOLD_FILE)[name] for name in ("folds", "of", "splits")},
            }
        write_documents(report, run, documents, landmark_card(manifest))
        write_manifest(staging, manifest)
        return store.publish(Task.LANDMARKS, staging)


def review_figures(located: LocatedImages) -> dict[str, float]:
    """Choose the confidence below which a vertebra is flagged, and say how that sorts films.

    It is the highest that flags at most `FALSE_REVIEWS` of the films whose every landmark lies within `SOUND_PX`.

    Returns:
        ``confidence``; parts of the films that are flagged: ``flagged``, of the soundly answered ones
        ``flagged_of_sound``, and of the others ``flagged_of_unsound``; parts that are unsound, ``unsound``.
    """
    errors = radial_errors_px(located.images, located.points)
    sound = np.nanmax(errors, axis=1) <= SOUND_PX
    least = located.answers.confidence.min(axis=1)
    lowest = float(np.quantile(least[sound], FALSE_REVIEWS)) if sound.any() else 1.0
    threshold = math.floor(lowest * _STEPS) / _STEPS  # downwards, or one step could flag every film
    flagged = least < threshold
    return {
        "confidence": threshold,
        "flagged": _part(flagged),
        "flagged_of_sound": _part(flagged[sound]),
        "flagged_of_unsound": _part(flagged[~sound]),
        "unsound": _part(~sound),
    }


def _part(which: Any) -> float:
    return round(float(which.mean()), 4) if len(which) else 0.0


def _of_folds(folds: RunDirectory) -> _Measured:
    pooled = folds.read_json(KFOLD_FILE)["splits"][VALIDATION]["pooled"]
    return _Measured(CROSS_VALIDATION, located_of_folds(folds), pooled)


def _measure(version: ModelVersion, images: tuple[LandmarkImage, ...]) -> _Measured:
    """Measure the engine on who was held out."""
    located = locate_all(EngineLandmarkSubject(version), images, _BATCH_SIZE, 0)
    return _Measured(VALIDATION, located, located.measured(_REPLICATES))


def _read(measured: _Measured) -> _Measured:
    """Measure again with the scatter of tilts that suits these answers best."""
    scatter = found_tilt_scatter(measured.located)
    if scatter is None:
        return measured
    located = replace(measured.located, tilt_scatter=scatter)
    return _Measured(measured.split, located, located.measured(_REPLICATES))


def _draw(report: Path, measured: _Measured, title: str) -> None:
    images, points = measured.located.images, measured.located.points
    draw_errors(report / f"errors_{measured.split}.png", radial_errors_px(images, points), measured.metrics, title)
    draw_vertebrae(report / f"vertebrae_{measured.split}.png", measured.metrics, title)
    if measured.metrics["cobb_smape"] is not None:
        given = given_angles(images)
        draw_cobb(report / f"cobb_{measured.split}.png", given, measured.located.angles, measured.metrics, title)


def _batches(images: tuple[LandmarkImage, ...], manifest: Manifest) -> DataLoader[LandmarkBatch]:
    """Give images as the worker would feed them."""
    spec = manifest.input_spec
    placements = [placement_of(image.path, spec) for image in images]
    return in_order(LandmarkRadiographs(images, placements, spec), _BATCH_SIZE, 0)


def _draft_manifest(
    run: RunDirectory, settings: LandmarkTrainSettings, fitted: FittedLandmarks, request: ExportRequest
) -> Manifest:
    data = run.read_json("data.json")
    return Manifest(
        task=Task.LANDMARKS,
        network=settings.network,
        version=request.version,
        labels=fitted.schema.labels,
        input_spec=fitted.input_spec,
        output_names=LANDMARK_OUTPUTS,
        files={"network.onnx": "0" * 64},
        training_data={
            "description": request.data_note,
            "schema": fitted.schema.name,
            "digest": data["digest"],
            "split": data["split"],
            "counts": data["counts"],
            "unreadable": len(data["unreadable"]),
            "faulty": len(data["faulty"]),
            "pretrained": _origin(settings),
            "mirrored": settings.mirrored,
            "alignment": settings.alignment,
            "chained": settings.chained,
            "framing": settings.framing,
            "refined": settings.refine,
        },
        licence=request.licence,
        created=datetime.now(UTC).replace(microsecond=0),
        radstream_version=VERSION,
    )


def _origin(settings: LandmarkTrainSettings) -> str | None:
    """Say in words what the weights started from."""
    published = heatmap_entry(settings.network).weights_origin if settings.pretrained else None
    return origin_in_words(settings.init_from, published)
