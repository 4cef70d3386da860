"""What is kept of a run where its weights are not: settings, data, epochs and measures, small enough for the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigurationError
from models.store.store import ModelStore
from training.landmark_settings import LandmarkTrainSettings
from training.results import REPORTS_FOLDER
from training.run import AVERAGE_OF, KFOLD_FILE, RunDirectory
from training.settings import TrainSettings, field_types
from training.zone_settings import ZoneTrainSettings

_COPIED: Final = ("calibration.json", "log.jsonl", "metrics_*.json", "calibration_*.png")


def keep_report(run: RunDirectory, name: str, store: ModelStore) -> Path:
    """Write ``<store>/<task>/reports/<name>``, which `training compare --store` reads; give its path.

    Paths of the training machine and the list of images are left out.

    Raises:
        ConfigurationError: the run is not finished, or a report of this name stands already.
    """
    is_cross_validation = (run.path / KFOLD_FILE).is_file()
    if not run.is_finished and not is_cross_validation:
        raise ConfigurationError(f"{run.path}: not a finished run")
    report = store.root / run.task / REPORTS_FOLDER / name
    try:
        report.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigurationError(f"{report}: stands already; choose another name") from error
    _keep(run, RunDirectory(report))
    if is_cross_validation:
        for fold in run.read_json(KFOLD_FILE)["folds"]:
            part = report / f"fold-{fold}"
            part.mkdir()
            _keep(RunDirectory(run.path / part.name), RunDirectory(part))
    return report


def _keep(run: RunDirectory, kept: RunDirectory) -> None:
    kept.write_json("config.json", settings_of(run))
    if (run.path / "data.json").is_file():
        data = run.read_json("data.json")
        kept.write_json("data.json", {key: value for key, value in data.items() if key != "images"})
    for pattern in _COPIED:
        for path in sorted(run.path.glob(pattern)):
            shutil.copyfile(path, kept.path / path.name)


def settings_of(run: RunDirectory) -> dict[str, Any]:
    """Give ``config.json`` without the paths of the training machine, and with that of every run it was made from.

    Under ``init_from`` stand the settings of the run whose weights it started with, under ``average_of`` those of the
    runs that it is the average of, with their weights. A run that was removed since is said to be.
    """
    config = run.read_json("config.json")
    fields = {**TrainSettings.model_fields, **ZoneTrainSettings.model_fields, **LandmarkTrainSettings.model_fields}
    paths = {name for name, field in fields.items() if Path in field_types(field.annotation)}
    kept = {name: value for name, value in config.items() if name not in paths}
    if config.get("init_from"):
        kept["init_from"] = _settings_of_origin(Path(config["init_from"]))
    if AVERAGE_OF in config:
        kept[AVERAGE_OF] = [
            {**member, "run": _settings_of_origin(Path(member["run"]))} for member in config[AVERAGE_OF]
        ]
    return kept


def _settings_of_origin(path: Path) -> dict[str, Any] | str:
    try:
        return settings_of(RunDirectory(path))
    except ConfigurationError:
        return "not there any more"
