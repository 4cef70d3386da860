"""The results of a cross-validation: every person is answered once, by the network that did not see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from training.classes import classes_of
from training.evaluation import Floats, Labels, classification_metrics
from training.loaders import VIEWS
from training.measure import describe
from training.plots import draw_calibration, draw_roc_curve
from training.progress import CONSOLE
from training.run import KFOLD_FILE, RunDirectory
from training.settings import TrainSettings

HEADLINES: Final = (
    *("accuracy", "roc_auc", "average_precision", "precision", "recall", "f1"),
    *("sensitivity", "specificity", "ppv", "npv", "ece", "log_loss"),
)
"""Measures whose mean and standard deviation over the folds are given."""


@dataclass(frozen=True, slots=True)
class _Pooled:
    """Held-out answers of all folds; one entry per image."""

    label: Labels
    probability: Floats
    persons: list[str]


def summarise_folds(run: RunDirectory, runs: Sequence[RunDirectory], settings: TrainSettings) -> None:
    """Write ``metrics_kfold.json`` and, of all held-out answers together, ROC and calibration curves.

    Args:
        run: directory of the cross-validation.
        runs: of its folds, finished.
        settings: of the cross-validation.
    """
    labels = classes_of(settings.task)
    summary = summarise(runs, settings.chosen_folds, settings.kfold or len(runs), labels)
    run.write_json(KFOLD_FILE, summary)
    for view in VIEWS:
        metrics = summary["splits"][view]["pooled"]
        pooled = _pool(runs, view, labels)
        title = f"{settings.network}, {len(runs)} folds, {view}"
        draw_roc_curve(run.path / f"roc_curve_{view}.png", pooled.label, pooled.probability, metrics, title)
        path = run.path / f"calibration_{view}.png"
        draw_calibration(path, pooled.label, pooled.probability, metrics, labels, title)
        CONSOLE.print(describe(f"{view}, all folds", metrics))


def summarise(runs: Sequence[RunDirectory], folds: Sequence[int], of: int, labels: tuple[str, str]) -> dict[str, Any]:
    """Join the measures of folds.

    Returns:
        ``{"folds": [0, ...], "of": 5, "splits": {<split>: {"mean": ..., "standard_deviation": ..., "per_fold": [...],
        "pooled": ...}}}``. ``pooled`` are the measures, with intervals, of every held-out answer together, each by the
        network that did not see the person; its threshold is the mean of the folds'. The standard deviation is the
        sample's (n - 1), None of one fold.
    """
    splits: dict[str, Any] = {}
    threshold = float(np.mean([run.read_calibration().threshold for run in runs]))
    for view in VIEWS:
        measured = [run.read_json(f"metrics_{view}.json") for run in runs]
        values = {name: [metrics[name] for metrics in measured if metrics[name] is not None] for name in HEADLINES}
        pooled = _pool(runs, view, labels)
        splits[view] = {
            "mean": {name: _rounded(np.mean(each)) if each else None for name, each in values.items()},
            "standard_deviation": {
                name: _rounded(np.std(each, ddof=1)) if len(each) > 1 else None for name, each in values.items()
            },
            "per_fold": [{"fold": fold, **metrics} for fold, metrics in zip(folds, measured, strict=True)],
            "pooled": classification_metrics(
                pooled.label, pooled.probability, threshold, labels=labels, groups=pooled.persons
            ),
        }
    return {"folds": list(folds), "of": of, "splits": splits}


def _pool(runs: Sequence[RunDirectory], view: str, labels: tuple[str, str]) -> _Pooled:
    predictions = [prediction for run in runs for prediction in run.read_predictions(view)]
    return _Pooled(
        np.array([labels.index(prediction.label) for prediction in predictions]),
        np.array([prediction.probability for prediction in predictions]),
        [prediction.person for prediction in predictions],
    )


def _rounded(value: Any) -> float:
    return round(float(value), 6)
