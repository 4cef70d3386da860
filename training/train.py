"""`python -m training train`: data, split, fit, calibration, measures, run directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader

from models.errors import ConfigurationError
from models.networks.table import network_entry
from models.tasks import Task
from training.datasets.class_folders import ClassFolders, Split, read_class_folders, split_by_person
from training.datasets.radiographs import Batch
from training.evaluation import binary_metrics, choose_threshold, fit_temperature, positive_probability
from training.fit import EpochRecord, Fitted, Model, Weights, fit, predict, record_as_dict, validation_loader
from training.progress import CONSOLE, track
from training.run import Calibration, RunDirectory
from training.settings import TrainSettings

LABELS: Final[dict[Task, tuple[str, str]]] = {Task.PNEUMONIA: ("NORMAL", "PNEUMONIA")}
"""Class folders by task, in the order of the network's outputs; the second is the positive class."""


def train(settings: TrainSettings) -> RunDirectory:
    """Train one network and write its run directory.

    Raises:
        ConfigurationError: task, network, data or output directory do not fit.
    """
    if settings.task not in LABELS:
        raise ConfigurationError(f"task {settings.task}: not trainable yet; known are {', '.join(LABELS)}")
    network_entry(settings.network)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    folders = read_class_folders(
        settings.data_dir,
        LABELS[settings.task],
        limit=settings.limit,
        progress=lambda files: track(files, len(files), "reading images"),
    )
    split = split_by_person(folders.images, settings.val_fraction, settings.seed)
    run = RunDirectory.create(settings.output_dir)
    run.write_json("config.json", settings.model_dump(mode="json"))
    run.write_data(folders, split)
    _say_data(folders, split)
    fitted = _fit(settings, split, run)
    _calibrate_and_measure(settings, split, fitted, run)
    CONSOLE.print(f"run directory: {run.path}")
    return run


def _fit(settings: TrainSettings, split: Split, run: RunDirectory) -> Fitted:
    def report(record: EpochRecord, best: Weights | None) -> None:
        run.log(record_as_dict(record))
        if best is not None:
            run.write_weights(best)  # at once, so that an interrupted run is not lost
        CONSOLE.print(
            f"epoch {record.epoch}: train loss {record.train_loss:.4f}, "
            f"validation loss {record.validation_loss:.4f} AUC {record.validation_roc_auc:.4f}, "
            f"perturbed loss {record.perturbed_loss:.4f} AUC {record.perturbed_roc_auc:.4f}, "
            f"{record.seconds:.0f} s{' *' if best is not None else ''}"
        )

    def progress(batches: DataLoader[Batch], what: str) -> Iterator[Batch]:
        return track(batches, len(batches), what)

    return fit(settings, split, len(LABELS[settings.task]), progress=progress, report=report)


def _calibrate_and_measure(settings: TrainSettings, split: Split, fitted: Fitted, run: RunDirectory) -> None:
    entry = network_entry(settings.network)
    network = entry.build(len(LABELS[settings.task]), False)
    network.load_state_dict(fitted.weights)
    model = Model(entry, network)
    answers = {
        name: predict(model, validation_loader(settings, split.validation, perturbed=perturbed))
        for name, perturbed in (("validation", False), ("validation_perturbed", True))
    }
    # Both together: the plain ones are what this hospital sends, the perturbed ones stand for the next.
    label, logits = (np.concatenate(parts) for parts in zip(*answers.values(), strict=True))
    temperature = fit_temperature(label, logits)
    threshold = choose_threshold(label, positive_probability(logits, temperature))
    run.write_json("calibration.json", asdict(Calibration(temperature, threshold, fitted.best_epoch)))
    for name, (label, logits) in answers.items():
        metrics = binary_metrics(label, positive_probability(logits, temperature), threshold)
        run.write_json(f"metrics_{name}.json", metrics)
        CONSOLE.print(describe(name, metrics))


def describe(name: str, metrics: dict[str, Any]) -> str:
    """Give the line that a person reads about one split."""
    shares = ("accuracy", "roc_auc", "sensitivity", "specificity")
    figures = ", ".join(f"{share} {metrics[share]:.4f}" for share in shares)
    return f"{name} (n={metrics['n']}): {figures}, threshold {metrics['threshold']}"


def _say_data(folders: ClassFolders, split: Split) -> None:
    for name, images in (("train", split.train), ("validation", split.validation)):
        persons = len({image.person for image in images})
        classes = ", ".join(
            f"{sum(image.label == index for image in images)} {label}" for index, label in enumerate(folders.labels)
        )
        CONSOLE.print(f"{name}: {len(images)} images of {persons} persons ({classes})")
    if folders.unreadable:
        CONSOLE.print(f"{len(folders.unreadable)} unreadable files left out, e.g. {folders.unreadable[0]}")
