"""`python -m training export`: from a run directory to a version in the model store.

The graph is compared with the fitted network before anything is published, and every figure in the manifest is
measured on the exported file by the engine that serves it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from onnx import ModelProto
from torch import nn
from torch.utils.data import DataLoader

from models.engines.engine import Engine, Outputs
from models.engines.providers import load_engine
from models.identity import VERSION
from models.store.manifest import Manifest
from models.store.store import MANIFEST_NAME, ModelStore, ModelVersion, StoreError, files_of, open_version, sha256_of
from models.tasks import Task
from training.classes import POSITIVE
from training.datasets.labelled import LabelledImage
from training.datasets.radiographs import Batch
from training.evaluation import Floats, Labels, classification_metrics
from training.fitted import Fitted
from training.loaders import VALIDATION, VIEWS, validation_loader
from training.model_card import model_card
from training.onnx_file import ExportError, export_onnx, store_in_half_precision
from training.plots import draw_calibration, draw_confusion_matrix, draw_pr_curve, draw_roc_curve
from training.progress import track
from training.report import settings_of
from training.run import RunDirectory
from training.served import OUTPUT_NAMES, ServedNetwork
from training.settings import TrainSettings

PARITY_IMAGES: Final = 64


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest absolute difference from the fitted network that is let through, by output."""

    probability: float
    cam: float


@dataclass(frozen=True, slots=True)
class LandmarkTolerance:
    """The same of task landmarks; `landmarks` and `spread` in pixels of the input."""

    landmarks: float
    confidence: float
    spread: float


SINGLE_PRECISION: Final = Tolerance(probability=1e-4, cam=1e-3)
"""Of the graph as exported: only the order of additions differs."""
HALF_PRECISION_WEIGHTS: Final = Tolerance(probability=5e-3, cam=0.05)
"""Of the graph as shipped: weights have 11 significant bits."""
LEAST_PLACED: Final = 0.2
"""Confidence below which a landmark has no place to compare: its heat lies all over the film, as that of a network that
has hardly learned, and the last digit says where the most of it is. Confidence and spread are compared all the same."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        version: name of the version to make.
        data_dir: where the validation images lie now; None means where the run read them.
        data_note: what the training images are and whence, for manifest and model card.
        licence: terms of images and weights, for manifest and model card.
        measured_by: of tasks csi and landmarks, the cross-validation that measured networks fitted likewise.
    """

    version: str
    data_dir: Path | None
    data_note: str
    licence: str
    measured_by: Path | None = None


def export(run: RunDirectory, request: ExportRequest, store: ModelStore) -> ModelVersion:
    """Make a version of a finished run and publish it; activating is another step.

    Raises:
        ConfigurationError: the run is not finished, its images are not there, or the version stands already.
        ExportError: the graph does not give the answers of the fitted network.
    """
    if request.version in store.versions(run.task):
        raise StoreError(f"{store.root / run.task / request.version}: stands already; choose another name")
    if run.task is Task.CSI:
        from training.zone_export import export_zones

        return export_zones(run, request, store)
    if run.task is Task.LANDMARKS:
        from training.landmark_export import export_landmarks

        return export_landmarks(run, request, store)
    return _export_classes(run, request, store)


def _export_classes(run: RunDirectory, request: ExportRequest, store: ModelStore) -> ModelVersion:
    settings, fitted = run.read_settings(), run.load_network()
    images = run.read_images("validation", request.data_dir or settings.data_dir)
    served = ServedNetwork(fitted.entry, fitted.network, fitted.temperature, POSITIVE).eval()
    single = export_onnx(served, fitted.input_spec, OUTPUT_NAMES)
    half = store_in_half_precision(single)
    with tempfile.TemporaryDirectory(prefix="radstream-export-") as directory:
        staging = Path(directory)
        manifest = _draft_manifest(run, settings, fitted, request)
        some = _loaders(manifest, settings, images[:: max(1, len(images) // PARITY_IMAGES)][:PARITY_IMAGES])
        parity = {
            name: check_parity(
                served, staged_engine(proto, staging, manifest), chain.from_iterable(some.values()), tolerance
            )
            for name, proto, tolerance in (
                ("single_precision", single, SINGLE_PRECISION),
                ("half_precision_weights", half, HALF_PRECISION_WEIGHTS),
            )
        }
        report = staging / "report"
        report.mkdir()
        metrics = _measure(staged_engine(half, staging, manifest), manifest, settings, images, report)
        manifest = manifest.model_copy(update={"metrics": metrics})
        _write_report(report, run, manifest, parity)
        write_manifest(staging, manifest)
        return store.publish(settings.task, staging)


def _draft_manifest(run: RunDirectory, settings: TrainSettings, fitted: Fitted, request: ExportRequest) -> Manifest:
    data = run.read_json("data.json")
    positive = fitted.labels[POSITIVE]
    return Manifest(
        task=settings.task,
        network=settings.network,
        version=request.version,
        labels=fitted.labels,
        positive_label=positive,
        thresholds={positive: fitted.threshold},
        input_spec=fitted.input_spec,
        output_names=OUTPUT_NAMES,
        files={"network.onnx": "0" * 64},
        training_data={
            "description": request.data_note,
            "digest": data["digest"],
            "split": data["split"],
            "counts": data["counts"],
            "unreadable": len(data["unreadable"]),
            "pretrained": fitted.entry.weights_origin if settings.pretrained else None,
        },
        licence=request.licence,
        created=datetime.now(UTC).replace(microsecond=0),
        radstream_version=VERSION,
    )


def staged_engine(proto: ModelProto, staging: Path, manifest: Manifest) -> Engine:
    """Write the graph, and load it exactly as a worker would."""
    (staging / "network.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    write_manifest(staging, manifest)
    return load_engine(open_version(staging))


def write_manifest(staging: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` with the hashes of the files that stand there."""
    files = {name: sha256_of(path) for name, path in files_of(staging).items()}
    text = manifest.model_copy(update={"files": files}).model_dump_json(indent=1)
    (staging / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def _loaders(
    manifest: Manifest, settings: TrainSettings, images: tuple[LabelledImage, ...]
) -> dict[str, DataLoader[Batch]]:
    """Give the plain and the shifted view of validation images."""
    return {
        view: validation_loader(images, manifest.input_spec, shifted=view != VALIDATION, seed=settings.seed)
        for view in VIEWS
    }


def check_parity(
    served: nn.Module,
    engine: Engine,
    batches: Iterable[tuple[torch.Tensor, ...]],
    tolerance: Tolerance | LandmarkTolerance,
) -> dict[str, Any]:
    """Compare engine and network on every image, and close the engine.

    Raises:
        ExportError: they differ by more than is let through.
    """
    allowed = asdict(tolerance)
    worst = dict.fromkeys(allowed, 0.0)
    count = 0
    for image, *_ in batches:
        answers = engine.run(image.numpy())
        with torch.inference_mode():
            expected = dict(zip(allowed, served(image), strict=True))
        for name in allowed:
            apart = np.abs(answers[name] - expected[name].numpy())
            if name == "landmarks":
                apart = apart[expected["confidence"].numpy() >= LEAST_PLACED]
            worst[name] = max(worst[name], float(apart.max(initial=0.0)))
        count += len(image)
    engine.close()
    beyond = [
        f"{name} by {worst[name]:.2g} (allowed {allowed[name]:.2g})" for name in worst if worst[name] > allowed[name]
    ]
    if beyond:
        raise ExportError(f"the exported graph differs from the fitted network: {', '.join(beyond)}")
    return {"images": count, "largest_difference": worst, "tolerance": allowed}


def _measure(
    engine: Engine, manifest: Manifest, settings: TrainSettings, images: tuple[LabelledImage, ...], report: Path
) -> dict[str, dict[str, Any]]:
    """Measure the engine on every validation image, and draw the curves into the report."""
    labels = (manifest.labels[1 - POSITIVE], manifest.labels[POSITIVE])
    threshold = manifest.thresholds[labels[POSITIVE]]
    persons = [image.person for image in images]
    measured = {}
    for view, loader in _loaders(manifest, settings, images).items():
        label, probability = _answers(engine, track(loader, len(loader), f"measuring on {view}"))
        metrics = classification_metrics(label, probability, threshold, labels=labels, groups=persons)
        measured[view] = metrics
        title = f"{manifest.task} {manifest.version}, {view}"
        draw_confusion_matrix(report / f"confusion_matrix_{view}.png", metrics, labels, title)
        draw_roc_curve(report / f"roc_curve_{view}.png", label, probability, metrics, title)
        draw_pr_curve(report / f"pr_curve_{view}.png", label, probability, metrics, title)
        draw_calibration(report / f"calibration_{view}.png", label, probability, metrics, labels, title)
    engine.close()
    return measured


def _answers(engine: Engine, batches: Iterable[Batch]) -> tuple[Labels, Floats]:
    labels, probabilities = [], []
    for image, label in batches:
        outputs: Outputs = engine.run(image.numpy())
        probabilities.append(outputs["probability"][:, POSITIVE].astype(np.float64))
        labels.append(label.numpy())
    return np.concatenate(labels), np.concatenate(probabilities)


def _write_report(report: Path, run: RunDirectory, manifest: Manifest, parity: Mapping[str, Any]) -> None:
    documents = {
        "settings.json": settings_of(run),
        "calibration.json": run.read_json("calibration.json"),
        "metrics.json": manifest.metrics,
        "parity.json": parity,
    }
    write_documents(report, run, documents, model_card(manifest))


def write_documents(report: Path, run: RunDirectory, documents: Mapping[str, Any], card: str) -> None:
    """Write JSON files by name, the log of the run and the model card."""
    for name, document in documents.items():
        (report / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    epochs = "".join(json.dumps(line) + "\n" for line in run.read_log())  # none, of an average of runs
    (report / "epochs.jsonl").write_text(epochs, encoding="utf-8")
    (report / "model_card.md").write_text(card, encoding="utf-8")
