"""What runs of task landmarks end with: measures of one run, and of all folds together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from training.datasets.landmark_images import LandmarkImage
from training.landmark_checkpoint import CheckpointLandmarkSubject
from training.landmark_columns import columns_in_words
from training.landmark_evaluation import HEADLINES, LandmarkAnswers
from training.landmark_module import VALIDATION
from training.landmark_run import read_landmark_predictions, write_landmark_predictions
from training.landmark_settings import LandmarkTrainSettings
from training.located_images import LocatedImages, locate_all
from training.measuring_folds import runs_of
from training.progress import CONSOLE
from training.run import KFOLD_FILE, RunDirectory

_BATCH_SIZE: Final = 8
_REPLICATES: Final = 1000


def measure_landmarks(
    run: RunDirectory, settings: LandmarkTrainSettings, images: tuple[LandmarkImage, ...], split: str
) -> None:
    """Write measures and predictions of one split into the run directory, whose weights stand there."""
    located = locate_all(CheckpointLandmarkSubject(run.path), images, _BATCH_SIZE, settings.num_workers)
    write_landmark_predictions(run, split, located)
    metrics = located.measured(_REPLICATES)
    run.write_json(f"metrics_{split}.json", metrics)
    CONSOLE.print(describe_landmarks(split, metrics))


def summarise_landmark_folds(run: RunDirectory, runs: Sequence[RunDirectory], settings: LandmarkTrainSettings) -> None:
    """Write ``metrics_kfold.json`` of finished folds: ``{"folds", "of", "splits": {"validation": ...}}``.

    Under the split stand ``mean``, ``standard_deviation`` (n - 1) and ``per_fold`` of the headlines, and ``pooled``:
    the measures, with intervals over persons, of every held-out answer together, each by the network that did not see
    the person.
    """
    parts = [read_landmark_predictions(fold, VALIDATION) for fold in runs]
    measured = [part.measured(0) for part in parts]
    pooled = join_located(parts).measured(_REPLICATES)
    summary = {
        "mean": {name: _over(measured, name, np.mean) for name in HEADLINES},
        "standard_deviation": {name: _over(measured, name, _deviation) for name in HEADLINES},
        "per_fold": [
            {"fold": number, **{name: metrics[name] for name in (*HEADLINES, "n")}}
            for number, metrics in zip(settings.chosen_folds, measured, strict=True)
        ],
        "pooled": pooled,
    }
    run.write_json(
        KFOLD_FILE, {"folds": list(settings.chosen_folds), "of": settings.kfold, "splits": {VALIDATION: summary}}
    )
    CONSOLE.print(describe_landmarks(f"{VALIDATION}, all folds", pooled))


def join_located(parts: Sequence[LocatedImages]) -> LocatedImages:
    """Put answers one behind the other."""
    return LocatedImages(
        tuple(image for part in parts for image in part.images),
        parts[0].schema,
        LandmarkAnswers(
            np.concatenate([part.answers.points for part in parts]),
            np.concatenate([part.answers.confidence for part in parts]),
        ),
        np.concatenate([part.spread for part in parts]),
        np.concatenate([part.spacings for part in parts]),
    )


def located_of_folds(folds: RunDirectory) -> LocatedImages:
    """Give the held-out answers of all folds of a cross-validation together."""
    return join_located([read_landmark_predictions(run, VALIDATION) for run in runs_of(folds)])


def describe_landmarks(name: str, metrics: dict[str, Any]) -> str:
    """Give the line that a person reads about one split."""
    shown = (
        ("MRE", "mre_px", " px"),
        ("SDR@12", "sdr_12", " %"),
        ("SDR@24", "sdr_24", " %"),
        ("Cobb SMAPE", "cobb_smape", " %"),
        ("Cobb MAE", "cobb_mae", " deg"),
    )
    figures = (f"{word} {_figure(metrics, key, unit)}" for word, key, unit in shown if metrics[key] is not None)
    columns = f"; {columns_in_words(metrics['columns'])}" if metrics["columns"] else ""
    return f"{name} (n={metrics['n']}): {', '.join(figures)}{columns}"


def _figure(metrics: dict[str, Any], name: str, unit: str) -> str:
    low, high = metrics["intervals"].get(name) or (None, None)
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{metrics[name]:.2f}{unit}{interval}"


def _over(measured: Sequence[dict[str, Any]], name: str, function: Any) -> float | None:
    values = [metrics[name] for metrics in measured if metrics[name] is not None]
    if len(values) < (2 if function is _deviation else 1):
        return None
    return round(float(function(values)), 6)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
