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

CROSS_VALIDATION: Final = "cross_validation"
"""Name of the figures of networks that were fitted likewise."""

_MAY_DIFFER: Final = frozenset(
    {
        *("data_dir", "output_dir", "labels_csv", "weights", "init_from", "val_fraction", "kfold", "folds"),
        *("num_workers", "threads", "cache_mb", "accelerator", "devices", "seed"),
    }
)
"""Settings that do not say how a network is fitted."""
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
    folds = None if held_out else _cross_validation(request, settings, run)
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


def _cross_validation(request: ExportRequest, settings: ZoneTrainSettings, run: RunDirectory) -> RunDirectory:
    """Give the cross-validation that measures a network which was fitted to everyone.

    Raises:
        ConfigurationError: none is named, it is not finished, was fitted otherwise, or on other images.
    """
    if request.measured_by is None:
        raise ConfigurationError(
            f"{run.path}: was fitted to everyone, so nobody is left to measure it on; name a finished cross-validation "
            "of the same settings with --measured-by, or train with --val-fraction"
        )
    folds = RunDirectory(request.measured_by)
    if not (folds.path / KFOLD_FILE).is_file():
        raise ConfigurationError(f"{folds.path}: not a finished cross-validation; train with --kfold")
    likewise = read_zone_settings(folds)
    own, other = settings.model_dump(), likewise.model_dump()
    differing = sorted(name for name in own if name not in _MAY_DIFFER and own[name] != other[name])
    if _origin(settings) != _origin(likewise):  # by what it is, for a directory may have moved
        differing.append("init_from")
    if differing:
        raise ConfigurationError(f"{folds.path}: was fitted otherwise than {run.path}: {', '.join(differing)}")
    digests = {RunDirectory(path).read_json("data.json")["digest"] for path in (run.path, _folds_of(folds)[0].path)}
    if len(digests) > 1:
        raise ConfigurationError(f"{folds.path}: was fitted to other images than {run.path}")
    return folds


def _folds_of(folds: RunDirectory) -> list[RunDirectory]:
    return [RunDirectory(folds.path / f"fold-{number}") for number in folds.read_json(KFOLD_FILE)["folds"]]


def _of_folds(folds: RunDirectory) -> _Measured:
    joined = joined_predictions(_folds_of(folds))
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
    if settings.init_from is not None:
        origin = RunDirectory(settings.init_from)
        digest = origin.read_json("data.json")["digest"]
        return f"a network of task {origin.task}, fitted to images of digest {digest}"
    return f"published weights of {settings.backbone}" if settings.pretrained else None
