"""What a run ends with: its network is calibrated and measured on the persons that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.classes import classes_of
from training.datasets.labelled import LabelledImage
from training.datasets.radiographs import InputCache
from training.evaluation import choose_threshold, classification_metrics, fit_temperature, positive_probability
from training.fitted import Model, predict
from training.loaders import VALIDATION, VIEWS, validation_loader
from training.progress import CONSOLE
from training.run import Calibration, RunDirectory
from training.settings import Plan, TrainSettings


def calibrate_and_measure(
    run: RunDirectory,
    settings: TrainSettings,
    plan: Plan,
    model: Model,
    images: Sequence[LabelledImage],
    best_epoch: int | None,
    cache: InputCache | None = None,
) -> None:
    """Write temperature and threshold, measures and predictions of both views into the run directory.

    Args:
        run: takes the files.
        settings: of the run.
        plan: made of them.
        model: with the weights of the best epoch.
        images: of the validation side.
        best_epoch: from 1; None of an average of runs.
        cache: of these images.
    """
    labels = classes_of(settings.task)
    answers = {
        view: predict(
            model,
            validation_loader(
                images,
                plan.input_spec,
                shifted=view != VALIDATION,
                seed=settings.seed,
                batch_size=plan.batch_size,
                workers=settings.num_workers,
                cache=cache,
            ),
        )
        for view in VIEWS
    }
    # Both together: the plain ones are what this hospital sends, the shifted ones stand for the next.
    label, logits = (np.concatenate(parts) for parts in zip(*answers.values(), strict=True))
    temperature = fit_temperature(label, logits)
    threshold = choose_threshold(label, positive_probability(logits, temperature))
    run.write_json("calibration.json", asdict(Calibration(temperature, threshold, best_epoch)))
    persons = [image.person for image in images]
    for view, (label, logits) in answers.items():
        probability = positive_probability(logits, temperature)
        run.write_predictions(view, images, labels, probability)
        metrics = classification_metrics(label, probability, threshold, labels=labels, groups=persons)
        run.write_json(f"metrics_{view}.json", metrics)
        CONSOLE.print(describe(view, metrics))


def describe(name: str, metrics: dict[str, Any]) -> str:
    """Give the line that a person reads about one split."""
    shares = ("accuracy", "roc_auc", "sensitivity", "specificity")
    figures = ", ".join(f"{share} {_figure(metrics[share])}" for share in shares)
    return f"{name} (n={metrics['n']}): {figures}, threshold {metrics['threshold']}"


def _figure(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"
