"""What runs of task csi end with: measures against the first reader, of one run and of all folds together.

Where a second reader is there, what that reader reaches against the first stands beside them: it is the figure to
match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.zones import grade_zones
from training.datasets.radiographs import in_order
from training.datasets.zone_images import ZoneImage
from training.datasets.zone_radiographs import ZoneRadiographs
from training.graded_images import grades_of, mean_scores
from training.progress import CONSOLE
from training.run import KFOLD_FILE, RunDirectory
from training.zone_calibration import calibrated, fit_zone_calibration
from training.zone_evaluation import HEADLINES, ZoneAnswers, zone_metrics
from training.zone_fitted import zone_probabilities
from training.zone_plots import agreements, draw_agreement, draw_mean_csi, draw_zone_confusion, draw_zone_confusions
from training.zone_run import (
    CALIBRATION_NAME,
    VALIDATION,
    ZonePredictions,
    read_zone_predictions,
    write_zone_predictions,
)
from training.zone_served import ServedZoneNetwork
from training.zone_settings import ZonePlan, ZoneTrainSettings
from training.zone_targets import soft_targets

SECOND_READER: Final = "second_reader"
"""Key of the measures of the second reader against the first."""


def measure_zones(
    run: RunDirectory,
    settings: ZoneTrainSettings,
    plan: ZonePlan,
    served: ServedZoneNetwork,
    images: Sequence[ZoneImage],
    split: str,
) -> None:
    """Write calibration, measures and predictions of one split into the run directory.

    On images that the network was fitted to, nothing is calibrated.

    Args:
        run: takes the files.
        settings: of the run.
        plan: made of them.
        served: with the weights that are kept, not calibrated.
        images: of the split.
        split: its name.
    """
    probability = answer_images(served, images, plan, settings.num_workers)
    write_zone_predictions(run, split, images, probability)
    truth = grades_of(images, 0)
    persons = [image.person for image in images]
    if split == VALIDATION:
        calibration = fit_zone_calibration(probability, truth)
        run.write_json(CALIBRATION_NAME, asdict(calibration))
        probability = calibrated(probability, calibration)
    metrics = zone_metrics(truth, ZoneAnswers.of_probability(probability), groups=persons)
    second = second_reader_metrics(images)
    run.write_json(f"metrics_{split}.json", metrics if second is None else {**metrics, SECOND_READER: second})
    CONSOLE.print(describe_zones(split, metrics))


def answer_images(
    served: ServedZoneNetwork, images: Sequence[ZoneImage], plan: ZonePlan, workers: int = 0
) -> NDArray[np.float64]:
    """Give the probabilities ``(N, 6, 5)`` of images as the worker would feed them."""
    targets = torch.stack([soft_targets(image.readers[:1]) for image in images])
    dataset = ZoneRadiographs(images, targets, plan.input_spec)
    return zone_probabilities(served, in_order(dataset, plan.batch_size, workers))


def second_reader_metrics(images: Sequence[ZoneImage]) -> dict[str, Any] | None:
    """Measure the second reader against the first; None unless every image has both."""
    if not images or any(len(image.readers) < 2 for image in images):
        return None
    second = ZoneAnswers.of_reader(grades_of(images, 1))
    return zone_metrics(grades_of(images, 0), second, groups=[image.person for image in images])


def summarise_zone_folds(run: RunDirectory, runs: Sequence[RunDirectory], settings: ZoneTrainSettings) -> None:
    """Write ``metrics_kfold.json`` of finished folds: ``{"folds", "of", "splits": {"validation": ...}}``.

    Under the split stand ``mean``, ``standard_deviation`` (n - 1) and ``per_fold`` of the headlines, and ``pooled``:
    the measures, with intervals over persons, of every held-out answer together, each by the network that did not see
    the person. The answers of a fold are calibrated by those of the others; ``calibration.json`` is fitted to all.
    """
    raw = [read_zone_predictions(fold, VALIDATION) for fold in runs]
    parts = cross_calibrated(raw)
    joined = join(parts)
    measured = [_measures_of(part, bootstrap=0) for part in parts]
    pooled = pooled_metrics(runs, joined)
    summary = {
        "mean": {name: _over(measured, name, np.mean) for name in HEADLINES},
        "standard_deviation": {name: _over(measured, name, _deviation) for name in HEADLINES},
        "per_fold": [
            {"fold": number, **{name: metrics[name] for name in (*HEADLINES, "n")}}
            for number, metrics in zip(settings.chosen_folds, measured, strict=True)
        ],
        "pooled": pooled,
    }
    run.write_json(CALIBRATION_NAME, asdict(fit_zone_calibration(join(raw).probability, joined.truth)))
    document = {"folds": list(settings.chosen_folds), "of": settings.kfold, "splits": {VALIDATION: summary}}
    run.write_json(KFOLD_FILE, document)
    title = f"{settings.backbone}, {len(runs)} folds, {VALIDATION}"
    draw_measured(run.path, VALIDATION, joined, pooled, title)
    CONSOLE.print(describe_zones(f"{VALIDATION}, all folds", pooled))


def cross_calibrated(parts: Sequence[ZonePredictions]) -> list[ZonePredictions]:
    """Calibrate the answers of each fold by those of all others; of a single fold, leave them as they are."""
    if len(parts) < 2:
        return list(parts)
    joined = []
    for number, part in enumerate(parts):
        others = join([other for place, other in enumerate(parts) if place != number])
        calibration = fit_zone_calibration(others.probability, others.truth)
        joined.append(replace(part, probability=calibrated(part.probability, calibration)))
    return joined


def join(parts: Sequence[ZonePredictions]) -> ZonePredictions:
    """Put predictions one behind the other."""
    return ZonePredictions(
        tuple(name for part in parts for name in part.files),
        tuple(person for part in parts for person in part.persons),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.probability for part in parts]),
    )


def joined_predictions(runs: Sequence[RunDirectory]) -> ZonePredictions:
    """Give the held-out answers of all folds together, each fold calibrated by the others."""
    return join(cross_calibrated([read_zone_predictions(run, VALIDATION) for run in runs]))


def _measures_of(predictions: ZonePredictions, bootstrap: int = 1000) -> dict[str, Any]:
    answers = ZoneAnswers.of_probability(predictions.probability)
    return zone_metrics(predictions.truth, answers, groups=predictions.persons, bootstrap=bootstrap)


def pooled_metrics(runs: Sequence[RunDirectory], joined: ZonePredictions) -> dict[str, Any]:
    """Measure the held-out answers of all folds, `joined`, and the second reader on the same images."""
    metrics = _measures_of(joined)
    rows = [row["readers"] for run in runs for row in run.read_json("data.json")["images"][VALIDATION]]
    if all(len(readers) > 1 for readers in rows):
        second = ZoneAnswers.of_reader(np.array([readers[1] for readers in rows], np.int64))
        metrics[SECOND_READER] = zone_metrics(joined.truth, second, groups=joined.persons)
    return metrics


def draw_measured(
    directory: Path, split: str, predictions: ZonePredictions, metrics: dict[str, Any], title: str
) -> None:
    """Draw confusion matrices, mean CSI and agreement of one split."""
    draw_zone_confusion(directory / f"confusion_matrix_{split}.png", metrics, title)
    draw_zone_confusions(directory / f"confusion_matrix_zones_{split}.png", metrics, title)
    truth, graded = predictions.truth, grade_zones(predictions.probability).graded
    reader, network = mean_scores(truth, truth), mean_scores(graded, truth)
    draw_mean_csi(directory / f"mean_csi_{split}.png", reader, network, metrics, title)
    draw_agreement(directory / f"agreement_{split}.png", agreements(metrics, metrics.get(SECOND_READER)), title)


def describe_zones(name: str, metrics: dict[str, Any]) -> str:
    """Give the line that a person reads about one split."""
    shown = (("kappa", "kappa_quadratic"), ("MAE", "mae_zone"), ("accuracy", "accuracy"), ("r", "mean_csi_pearson"))
    text = ", ".join(f"{word} {_figure(metrics, key)}" for word, key in shown)
    second = metrics.get(SECOND_READER)
    beside = f"; second reader {_figure(second, 'kappa_quadratic')}, {_figure(second, 'mae_zone')}" if second else ""
    return f"{name} (n={metrics['n']}): {text}{beside}"


def _figure(metrics: dict[str, Any], name: str) -> str:
    value = metrics[name]
    if value is None:
        return "-"
    low, high = metrics["intervals"].get(name) or (None, None)
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _over(measured: Sequence[dict[str, Any]], name: str, function: Any) -> float | None:
    values = [metrics[name] for metrics in measured if metrics[name] is not None]
    if len(values) < (2 if function is _deviation else 1):
        return None
    return round(float(function(values)), 6)


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
