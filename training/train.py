"""`python -m training train`: data, split, fit, measures, run directory; once or per fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from pydantic import ValidationError

from models.errors import ConfigurationError
from models.tasks import Task
from training.fit import choose_accelerator
from training.procedure import Procedure
from training.progress import CONSOLE
from training.run import KFOLD_FILE, LAST_CHECKPOINT, RunDirectory
from training.settings import RunSettings

if TYPE_CHECKING:
    from pathlib import Path

MAY_CHANGE_ON_RESUME: Final = frozenset(
    {"data_dir", "labels_csv", "num_workers", "threads", "cache_mb", "accelerator", "devices"}
)
"""Settings that say where a run is carried out; the others say what it is."""

AnyProcedure = Procedure[Any, Any, Any]


def procedure_of(task: Task) -> AnyProcedure:
    """Give how a task is trained."""
    if task is Task.CSI:
        from training.zones import Zones

        return Zones()
    if task is Task.LANDMARKS:
        from training.landmarks import Landmarks

        return Landmarks()
    from training.classification import Classification

    return Classification()


def train(settings: RunSettings) -> RunDirectory:
    """Train one network, or one per fold, and write the run directory.

    Raises:
        ConfigurationError: task, network, data, device or output directory do not fit.
        FitError: fitting came to nothing.
    """
    procedure = procedure_of(settings.task)
    settings = procedure.decide(settings)
    choose_accelerator(settings)
    procedure.try_network(_of_fold(settings, settings.chosen_folds[0]) if settings.chosen_folds else settings)
    run = RunDirectory.create(settings.output_dir)
    try:
        data = procedure.read(settings)
        splits = procedure.split(settings, data)
        _check_unseen(procedure, settings, splits)
    except ConfigurationError:
        run.path.rmdir()  # empty as yet; so that the same command can be given again
        raise
    run.write_settings(settings)
    if settings.kfold is not None:
        return _cross_validate(procedure, settings, data, splits, run)
    return _run_once(procedure, settings, data, splits[0], run)


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
    procedure = procedure_of(run.task)
    kind = procedure.settings_class
    try:
        settings = kind(**{**run.read_settings_as(kind).model_dump(), **changes, "output_dir": path})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    choose_accelerator(settings)
    if settings.kfold is not None:
        data = procedure.read(settings)
        return _cross_validate(procedure, settings, data, procedure.split(settings, data), run)
    return _resume_once(procedure, settings, run)


def _resume_once(procedure: AnyProcedure, settings: RunSettings, run: RunDirectory) -> RunDirectory:
    if run.is_finished:
        raise ConfigurationError(f"{run.path}: finished already")
    sides = procedure.find(run, settings)
    reached = "its last epoch" if (run.checkpoints / LAST_CHECKPOINT).is_file() else "the start"
    CONSOLE.print(f"{run.path}: going on after {reached}")
    return _fit_and_measure(procedure, settings, sides, run)


def _check_unseen(procedure: AnyProcedure, settings: RunSettings, splits: Sequence[Any]) -> None:
    """Refuse to validate on persons from whom the weights that the run starts with were learnt."""
    for number, sides in enumerate(splits):
        if settings.chosen_folds and number not in settings.chosen_folds:
            continue
        start = _of_fold(settings, number).init_from
        again = set(procedure.held_out(sides)) & RunDirectory(start).seen_images() if start is not None else ()
        if again:
            raise ConfigurationError(
                f"{start}: was trained on {len(again)} of the images that would be held out; "
                "give the --seed and --val-fraction of that run, so that the same persons are held out"
            )


def _of_fold(settings: RunSettings, fold: int) -> RunSettings:
    """Let a fold start with the weights of the same fold, where --init-from names a cross-validation."""
    start = settings.init_from
    if settings.kfold is None or start is None or not (start / KFOLD_FILE).is_file():
        return settings
    return settings.model_copy(update={"init_from": start / f"fold-{fold}"})


def _run_once(
    procedure: AnyProcedure,
    settings: RunSettings,
    data: Any,
    sides: Any,
    run: RunDirectory,
    fold: dict[str, int] | None = None,
) -> RunDirectory:
    part = fold if fold is not None else {"validation_fraction": settings.val_fraction}
    procedure.record(run, data, sides, {"by": "person", "seed": settings.seed, **part})
    return _fit_and_measure(procedure, settings, sides, run)


def _fit_and_measure(procedure: AnyProcedure, settings: RunSettings, sides: Any, run: RunDirectory) -> RunDirectory:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    procedure.fit_and_measure(procedure.decide(settings), sides, run)
    CONSOLE.print(f"run directory: {run.path}")
    return run


def _cross_validate(
    procedure: AnyProcedure, settings: RunSettings, data: Any, splits: Sequence[Any], run: RunDirectory
) -> RunDirectory:
    """Fit the chosen folds, each in a run directory of its own; finished ones stand."""
    runs = []
    for fold in settings.chosen_folds:
        fold_run = RunDirectory(run.path / f"fold-{fold}")
        runs.append(fold_run)
        if (fold_run.path / "config.json").is_file() and fold_run.is_finished:
            continue
        CONSOLE.print(f"fold {fold} of {settings.kfold}")
        own = _of_fold(settings, fold).model_copy(update={"kfold": None, "folds": None, "output_dir": fold_run.path})
        if (fold_run.path / "data.json").is_file():
            _resume_once(procedure, own, fold_run)
            continue
        fold_run.path.mkdir(exist_ok=True)
        fold_run.write_settings(own)
        _run_once(procedure, own, data, splits[fold], fold_run, {"fold": fold, "folds": len(splits)})
    procedure.summarise(run, runs, settings)
    return run
