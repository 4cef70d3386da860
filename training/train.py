"""`python -m training train`: data, split, fit, calibration, measures, run directory; once or per fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from models.errors import ConfigurationError
from models.networks.table import network_entry
from training.classes import classes_of
from training.datasets.labelled import LabelledImage, LabelledImages, read_labelled
from training.datasets.radiographs import InputCache
from training.datasets.splits import Split, kfold_by_person, split_by_person
from training.fit import choose_accelerator, fit, starting_network
from training.fitted import Model
from training.folds import summarise_folds
from training.measure import calibrate_and_measure
from training.progress import CONSOLE, track
from training.run import LAST_CHECKPOINT, RunDirectory, load_weights
from training.settings import Plan, TrainSettings, plan_of, with_plan

MAY_CHANGE_ON_RESUME: Final = frozenset(
    {"data_dir", "labels_csv", "num_workers", "threads", "cache_mb", "accelerator", "devices"}
)
"""Settings that say where a run is carried out; the others say what it is."""


def train(settings: TrainSettings) -> RunDirectory:
    """Train one network, or one per fold, and write the run directory.

    Raises:
        ConfigurationError: task, network, data, device or output directory do not fit.
        FitError: fitting came to nothing.
    """
    settings, plan = _decided(settings)
    choose_accelerator(settings)
    # Thrown away: that weights cannot be had is to be known before a thousand images were read.
    starting_network(settings, plan, network_entry(settings.network), len(classes_of(settings.task)))
    run = RunDirectory.create(settings.output_dir)
    try:
        images = _read(settings)
        splits = _splits(settings, images)
        _check_unseen(settings, splits)
    except ConfigurationError:
        run.path.rmdir()  # empty as yet; so that the same command can be given again
        raise
    run.write_settings(settings)
    if settings.kfold is not None:
        return _cross_validate(settings, images, splits, run)
    return _run_once(settings, images, splits[0], run)


def resume(path: Path, changes: dict[str, Any]) -> RunDirectory:
    """Go on with a run that was interrupted, after its last whole epoch, as if it had not been.

    Args:
        path: of the run directory, or of one of cross-validation.
        changes: settings by name, of those that may change.

    Raises:
        ConfigurationError: it is finished, was never begun, its images changed, or another setting is to change.
    """
    run = RunDirectory(path)
    forbidden = sorted(set(changes) - MAY_CHANGE_ON_RESUME)
    if forbidden:
        options = ", ".join("--" + name.replace("_", "-") for name in forbidden)
        raise ConfigurationError(f"{options}: cannot change in a resumed run")
    try:
        settings = TrainSettings(**{**run.read_settings().model_dump(), **changes, "output_dir": path})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    choose_accelerator(settings)
    if settings.kfold is not None:
        images = _read(settings)
        return _cross_validate(settings, images, _splits(settings, images), run)
    return _resume_once(settings, run)


def _resume_once(settings: TrainSettings, run: RunDirectory) -> RunDirectory:
    if run.is_finished:
        raise ConfigurationError(f"{run.path}: finished already")
    sides = {side: run.read_images(side, settings.data_dir) for side in ("train", "validation")}
    reached = "its last epoch" if (run.checkpoints / LAST_CHECKPOINT).is_file() else "the start"
    CONSOLE.print(f"{run.path}: going on after {reached}")
    return _fit_and_measure(settings, Split(**sides), run)


def _decided(settings: TrainSettings) -> tuple[TrainSettings, Plan]:
    classes_of(settings.task)
    plan = plan_of(settings, network_entry(settings.network))
    return with_plan(settings, plan), plan


def _read(settings: TrainSettings) -> LabelledImages:
    images = read_labelled(
        settings.data_dir,
        classes_of(settings.task),
        format=settings.format,
        labels_csv=settings.labels_csv,
        split=settings.split,
        limit=settings.limit,
        progress=lambda files: track(files, len(files), "reading images"),
    )
    if images.unreadable:
        CONSOLE.print(f"{len(images.unreadable)} unreadable files left out, e.g. {images.unreadable[0]}")
    return images


def _splits(settings: TrainSettings, images: LabelledImages) -> list[Split]:
    if settings.kfold is None:
        return [split_by_person(images.images, settings.val_fraction, settings.seed)]
    return kfold_by_person(images.images, settings.kfold, settings.seed)


def _check_unseen(settings: TrainSettings, splits: Sequence[Split]) -> None:
    """Refuse to validate on persons from whom the weights that the run starts with were learnt."""
    if settings.init_from is None:
        return
    seen = RunDirectory(settings.init_from).seen_images()
    again = {image.pixels_sha256 for split in splits for image in split.validation} & seen
    if again:
        raise ConfigurationError(
            f"{settings.init_from}: was trained on {len(again)} of the images that would be held out; "
            "give the --seed and --val-fraction of that run, so that the same persons are held out"
        )


def _run_once(
    settings: TrainSettings, images: LabelledImages, split: Split, run: RunDirectory, fold: dict[str, int] | None = None
) -> RunDirectory:
    part = fold if fold is not None else {"validation_fraction": settings.val_fraction}
    run.write_data(images, split, {"by": "person", "seed": settings.seed, **part})
    for name, side in (("train", split.train), ("validation", split.validation)):
        CONSOLE.print(f"{name}: {_counted(side, images.labels)}")
    return _fit_and_measure(settings, split, run)


def _fit_and_measure(settings: TrainSettings, split: Split, run: RunDirectory) -> RunDirectory:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings, plan = _decided(settings)
    entry = network_entry(settings.network)
    labels = classes_of(settings.task)
    cache = None
    if settings.cache_mb:
        cache = InputCache((*split.train, *split.validation), plan.input_spec, settings.cache_mb * 1024**2)
    best = fit(settings, plan, entry, split, run, classes=len(labels), cache=cache)
    run.write_weights(best.weights)
    network = entry.build(len(labels), False)
    load_weights(network, best.weights, run.path)
    calibrate_and_measure(run, settings, plan, Model(entry, network), split.validation, best.epoch, cache)
    CONSOLE.print(f"run directory: {run.path}")
    return run


def _cross_validate(
    settings: TrainSettings, images: LabelledImages, splits: Sequence[Split], run: RunDirectory
) -> RunDirectory:
    """Fit the chosen folds, each in a run directory of its own; finished ones stand."""
    runs = []
    for fold in settings.chosen_folds:
        fold_run = RunDirectory(run.path / f"fold-{fold}")
        runs.append(fold_run)
        if fold_run.is_finished:
            continue
        CONSOLE.print(f"fold {fold} of {settings.kfold}")
        own = settings.model_copy(update={"kfold": None, "folds": None, "output_dir": fold_run.path})
        if (fold_run.path / "data.json").is_file():
            _resume_once(own, fold_run)
            continue
        fold_run.path.mkdir(exist_ok=True)
        fold_run.write_settings(own)
        _run_once(own, images, splits[fold], fold_run, {"fold": fold, "folds": len(splits)})
    summarise_folds(run, runs, settings)
    return run


def _counted(images: Sequence[LabelledImage], labels: Sequence[str]) -> str:
    persons = len({image.person for image in images})
    classes = ", ".join(
        f"{sum(image.label == index for image in images)} {label}" for index, label in enumerate(labels)
    )
    return f"{len(images)} images of {persons} persons ({classes})"
