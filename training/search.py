"""`python -m training search`: settings of task csi, searched with Optuna (Akiba et al., KDD 2019).

Trials are drawn by the tree-structured Parzen estimator; one whose kappa after an epoch lies below the median of those
before it is given up. Everything is kept in the output directory, so the same command goes on with an interrupted
search::

    search.json     the best settings, which `train --from` takes, and every trial
    search.png      kappa by trial
    search.db       Optuna's own storage
    trial-<n>/      log and measures of each trial, without its weights
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from models.errors import ConfigurationError, RadstreamError
from models.networks.zone_table import zone_backbone
from training.datasets.zone_splits import ZoneSplit
from training.fit import FitError, choose_accelerator
from training.progress import CONSOLE
from training.run import RunDirectory
from training.search_plots import draw_search
from training.zone_fit import fit_zones
from training.zone_settings import ZoneTrainSettings, zone_plan_of
from training.zones import Zones

RESULT_NAME: Final = "search.json"
MEASURE: Final = "kappa_quadratic"

_LEARNING_RATES: Final = (1e-5, 1e-2)
_WEIGHT_DECAYS: Final = (1e-6, 1e-1)
_DROPOUTS: Final = (0.1, 0.7)
_BATCH_SIZES: Final = (8, 16, 32)
_OPTIMIZERS: Final = ("adam", "adamw")
_TRIALS_BEFORE_PRUNING: Final = 5
_EPOCHS_BEFORE_PRUNING: Final = 2
_NOT_KEPT: Final = ("checkpoints", "tensorboard")
_NOT_OF_THE_RESULT: Final = frozenset(
    {
        *("task", "data_dir", "output_dir", "labels_csv", "init_from", "weights", "kfold", "folds", "val_fraction"),
        *("limit", "num_workers", "threads", "cache_mb", "accelerator", "devices"),
    }
)
"""Settings that say where and on what a search was made; the others are what it found, or held fixed."""


class SearchError(RadstreamError):
    """A search came to nothing."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is asked for.

    Attributes:
        settings: held fixed but for what is searched; `kfold` makes every trial a cross-validation.
        backbones: to choose from.
        trials: how many in all, those of an interrupted search included.
        timeout_s: no trial is begun after so long; None is no limit.
    """

    settings: ZoneTrainSettings
    backbones: tuple[str, ...]
    trials: int
    timeout_s: float | None = None


def search(request: SearchRequest) -> Path:
    """Search, and give the path of ``search.json``.

    Raises:
        ConfigurationError: data, backbone or output directory do not fit.
        SearchError: no trial came to an end.
    """
    settings, procedure = request.settings, Zones()
    for backbone in request.backbones:
        zone_backbone(backbone)
    choose_accelerator(settings)
    directory = _directory(settings.output_dir)
    splits = procedure.split(settings, procedure.read(settings))
    if not splits[0].validation:
        raise ConfigurationError("a search needs somebody held out; give --val-fraction or --kfold")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="csi",
        storage=f"sqlite:///{directory / 'search.db'}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
        pruner=optuna.pruners.MedianPruner(_TRIALS_BEFORE_PRUNING, _EPOCHS_BEFORE_PRUNING),
    )
    objective = _Objective(request, splits[: len(settings.chosen_folds) or 1], directory)
    left = request.trials - sum(trial.state.is_finished() for trial in study.trials)
    if left > 0:
        study.optimize(
            objective, n_trials=left, timeout=request.timeout_s, catch=(FitError,), callbacks=[_tell(request.trials)]
        )
    return _write_result(directory, study, request)


class _Objective:
    """Fits one trial and gives its kappa: over the folds the mean."""

    def __init__(self, request: SearchRequest, splits: list[ZoneSplit], directory: Path) -> None:
        self._request = request
        self._splits = splits
        self._directory = directory

    def __call__(self, trial: Trial) -> float:
        settings = self._request.settings.model_copy(update=_drawn(trial, self._request.backbones))
        folder = self._directory / f"trial-{trial.number:03d}"
        shutil.rmtree(folder, ignore_errors=True)  # of a trial that was interrupted
        kappas = []
        for fold, split in enumerate(self._splits):
            run = RunDirectory.create(folder / f"fold-{fold}" if len(self._splits) > 1 else folder)
            kappas.append(self._fit(settings, split, run, _pruning(trial) if fold == 0 else None))
        return sum(kappas) / len(kappas)

    def _fit(
        self,
        settings: ZoneTrainSettings,
        split: ZoneSplit,
        run: RunDirectory,
        after_epoch: Callable[[dict[str, Any]], None] | None,
    ) -> float:
        own = settings.model_copy(update={"output_dir": run.path, "kfold": None, "folds": None})
        run.write_settings(own)
        plan = zone_plan_of(own, zone_backbone(own.backbone))
        try:
            best = fit_zones(own, plan, split, run, after_epoch)
            return float(run.read_log()[best.epoch - 1]["validation_kappa"])
        finally:
            for name in _NOT_KEPT:
                shutil.rmtree(run.path / name, ignore_errors=True)


def _drawn(trial: Trial, backbones: tuple[str, ...]) -> dict[str, Any]:
    """Draw what is searched, by the name of the setting."""
    lr = trial.suggest_float("lr", *_LEARNING_RATES, log=True)
    return {
        "lr": lr,
        "backbone_lr": trial.suggest_float("backbone_lr", *_LEARNING_RATES, log=True),
        "batch_size": trial.suggest_categorical("batch_size", _BATCH_SIZES),
        "optimizer": trial.suggest_categorical("optimizer", _OPTIMIZERS),
        "weight_decay": trial.suggest_float("weight_decay", *_WEIGHT_DECAYS, log=True),
        "dropout": trial.suggest_float("dropout", *_DROPOUTS),
        "backbone": trial.suggest_categorical("backbone", backbones) if len(backbones) > 1 else backbones[0],
    }


def _pruning(trial: Trial) -> Callable[[dict[str, Any]], None]:
    def after_epoch(line: dict[str, Any]) -> None:
        trial.report(float(line["validation_kappa"]), int(line["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    return after_epoch


def _directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = any(path.iterdir()) and not (path / "search.db").is_file()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot make the output directory: {error.strerror}") from error
    if foreign:
        raise ConfigurationError(f"{path}: not empty and no search; give another --output-dir")
    return path


def _tell(trials: int) -> Callable[[optuna.Study, FrozenTrial], None]:
    started = time.monotonic()

    def tell(study: optuna.Study, trial: FrozenTrial) -> None:
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        done = [each for each in study.trials if each.state is TrialState.COMPLETE]
        best = f"best {study.best_value:.4f}" if done else "none complete"
        minutes = (time.monotonic() - started) / 60
        CONSOLE.print(
            f"trial {trial.number + 1}/{trials} {trial.state.name.lower()}: kappa {value}; {best}, {minutes:.1f} min"
        )

    return tell


def _write_result(directory: Path, study: optuna.Study, request: SearchRequest) -> Path:
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise SearchError(f"{directory}: no trial came to an end; give more --trials or a longer --timeout")
    chosen = request.settings.model_copy(update={"backbone": request.backbones[0], **study.best_params})
    document = {
        "settings": {
            name: value for name, value in chosen.model_dump(mode="json").items() if name not in _NOT_OF_THE_RESULT
        },
        "measure": MEASURE,
        "value": round(study.best_value, 6),
        "best_trial": study.best_trial.number,
        "sampler": "TPE",
        "pruner": "median",
        "trials": [_as_row(trial) for trial in study.trials],
    }
    path = directory / RESULT_NAME
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw_search(directory / "search.png", [(trial.number, float(trial.value or 0.0)) for trial in complete])
    CONSOLE.print(f"best of {len(complete)} complete trials: kappa {study.best_value:.4f} with {study.best_params}")
    return path


def _as_row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": None if trial.value is None else round(trial.value, 6),
        "epochs": max(trial.intermediate_values, default=0),
        "params": trial.params,
        "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
    }
