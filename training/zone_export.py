"""`python -m training export` of task csi.

A network that was fitted to everyone has nobody left to be measured on. A cross-validation of networks that were fitted
likewise says then what to expect of it; its figures stand in the manifest under a name of their own, and the card says
what they are of.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader

from models.engines.engine import Engine
from models.errors import ConfigurationError
from models.identity import VERSION
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from models.zones import CLASS_NAMES
from training.datasets.radiographs import Batch, in_order
from training.datasets.zone_images import ZoneImage
from training.datasets.zone_radiographs import ZoneRadiographs
from training.export import (
    HALF_PRECISION_WEIGHTS,
    PARITY_IMAGES,
    SINGLE_PRECISION,
    ExportRequest,
    check_parity,
    staged_engine,
    write_documents,
    write_manifest,
)
from training.graded_images import grades_of
from training.measuring_folds import CROSS_VALIDATION, measuring_folds, origin_in_words, runs_of
from training.onnx_file import export_onnx, store_in_half_precision
from training.progress import track
from training.report import settings_of
from training.run import KFOLD_FILE, RunDirectory
from training.served import OUTPUT_NAMES
from training.zone_card import zone_card
from training.zone_evaluation import ZoneAnswers, zone_metrics
from training.zone_fitted import FittedZones, load_fitted_zones
from training.zone_measure import SECOND_READER, draw_measured, joined_predictions, second_reader_metrics
from training.zone_run import (
    TRAIN,
    VALIDATION,
    ZonePredictions,
    read_side,
    read_zone_calibration,
    read_zone_settings,
)
from training.zone_settings import ZoneTrainSettings
from training.zone_targets import soft_targets

_BATCH_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class _Measured:
    """Answers to images that the network, or one fitted likewise, was not fitted to."""

    split: str
    predictions: ZonePredictions
    metrics: dict[str, Any]


def export_zones(run: RunDirectory, request: ExportRequest, store: ModelStore) -> ModelVersion:
    """Make a version of a finished run and publish it.

    Raises:
        ConfigurationError: the run is not finished, its images are not there, or nothing measures it.
        ExportError: the graph does not give the answers of the fitted network.
    """
    settings = read_zone_settings(run)
    if not run.is_finished:
        raise ConfigurationError(f"{run.path}: not a finished run; go on with `train --resume`")
    data_dir = request.data_dir or settings.data_dir
    held_out = read_side(run, VALIDATION, data_dir)
    folds = None if held_out else measuring_folds(run, request.measured_by, settings, _origin)
    fitted = load_fitted_zones(run.path, None if folds is None else read_zone_calibration(folds))
    images = held_out or read_side(run, TRAIN, data_dir)
    served = fitted.served
    single = export_onnx(served, fitted.input_spec, OUTPUT_NAMES, foldable=fitted.entry.foldable)
    half = store_in_half_precision(single)
    with tempfile.TemporaryDirectory(prefix="radstream-export-") as directory:
        staging = Path(directory)
        manifest = _draft_manifest(run, settings, fitted, request)
        some = list(_batches(images[:: max(1, len(images) // PARITY_IMAGES)][:PARITY_IMAGES], manifest))
        parity = {
            name: check_parity(served, staged_engine(proto, staging, manifest), some, tolerance)
            for name, proto, tolerance in (
                ("single_precision", single, SINGLE_PRECISION),
                ("half_precision_weights", half, HALF_PRECISION_WEIGHTS),
            )
        }
        engine = staged_engine(half, staging, manifest)
        measured = _measure(engine, manifest, images) if folds is None else _of_folds(folds)
        engine.close()
        manifest = manifest.model_copy(update={"metrics": {measured.split: measured.metrics}})
        report = staging / "report"
        report.mkdir()
        title = f"{manifest.task} {manifest.version}, {measured.split.replace('_', ' ')}"
        draw_measured(report, measured.split, measured.predictions, measured.metrics, title)
        documents = {
            "settings.json": settings_of(run),
            "calibration.json": asdict(read_zone_calibration(folds or run)),
            "metrics.json": manifest.metrics,
            "parity.json": parity,
        }
        if folds is not None:
            documents["cross_validation.json"] = {
                "settings": settings_of(folds),
                **{name: folds.read_json(KFOLD_FILE)[name] for name in ("folds", "of", "splits")},
            }
        write_documents(report, run, documents, zone_card(manifest))
        write_manifest(staging, manifest)
        return store.publish(Task.CSI, staging)


def _of_folds(folds: RunDirectory) -> _Measured:
    joined = joined_predictions(runs_of(folds))
    return _Measured(CROSS_VALIDATION, joined, folds.read_json(KFOLD_FILE)["splits"][VALIDATION]["pooled"])


def _measure(engine: Engine, manifest: Manifest, images: tuple[ZoneImage, ...]) -> _Measured:
    """Measure the engine on who was held out."""
    batches = track(_batches(images, manifest), -(-len(images) // _BATCH_SIZE), "measuring")
    probability = np.concatenate([engine.run(image.numpy())["probability"] for image, _ in batches]).astype(np.float64)
    persons = tuple(image.person for image in images)
    truth = grades_of(images, 0)
    metrics = zone_metrics(truth, ZoneAnswers.of_probability(probability), groups=persons)
    second = second_reader_metrics(images)
    if second is not None:
        metrics[SECOND_READER] = second
    files = tuple(image.source for image in images)
    return _Measured(VALIDATION, ZonePredictions(files, persons, truth, probability), metrics)


def _batches(images: tuple[ZoneImage, ...], manifest: Manifest) -> DataLoader[Batch]:
    """Give images as the worker would feed them."""
    targets = torch.stack([soft_targets(image.readers[:1]) for image in images])
    return in_order(ZoneRadiographs(images, targets, manifest.input_spec), _BATCH_SIZE, 0)


def _draft_manifest(
    run: RunDirectory, settings: ZoneTrainSettings, fitted: FittedZones, request: ExportRequest
) -> Manifest:
    data = run.read_json("data.json")
    return Manifest(
        task=Task.CSI,
        network=settings.backbone,
        version=request.version,
        labels=CLASS_NAMES,
        input_spec=fitted.input_spec,
        output_names=OUTPUT_NAMES,
        files={"network.onnx": "0" * 64},
        training_data={
            "description": request.data_note,
            "digest": data["digest"],
            "split": data["split"],
            "counts": data["counts"],
            "unreadable": len(data["unreadable"]),
            "pretrained": _origin(settings),
            "zones": settings.zones,
            "mirrored": settings.mirrored,
            "members": settings.members,
        },
        licence=request.licence,
        created=datetime.now(UTC).replace(microsecond=0),
        radstream_version=VERSION,
    )


def _origin(settings: ZoneTrainSettings) -> str | None:
    """Say in words what the weights started from."""
    published = f"published weights of {settings.backbone}" if settings.pretrained else None
    return origin_in_words(settings.init_from, published)
