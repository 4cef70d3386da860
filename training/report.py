"""What is kept of a run where its weights are not: settings, data, epochs and measures, small enough for the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigurationError
from models.store.store import ModelStore
from training.results import REPORTS_FOLDER
from training.run import RunDirectory
from training.settings import TrainSettings, field_types

_COPIED: Final = ("calibration.json", "log.jsonl", "metrics_*.json")


def keep_report(run: RunDirectory, name: str, store: ModelStore) -> Path:
    """Write ``<store>/<task>/reports/<name>``, which `training compare --store` reads; give its path.

    Paths of the training machine and the list of images are left out.

    Raises:
        ConfigurationError: the run is not finished, or a report of this name stands already.
    """
    if not run.is_finished:
        raise ConfigurationError(f"{run.path}: not a finished run")
    report = store.root / run.read_settings().task / REPORTS_FOLDER / name
    try:
        report.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigurationError(f"{report}: stands already; choose another name") from error
    kept = RunDirectory(report)
    kept.write_json("config.json", without_paths(run.read_json("config.json")))
    kept.write_json("data.json", {key: value for key, value in run.read_json("data.json").items() if key != "images"})
    for pattern in _COPIED:
        for path in sorted(run.path.glob(pattern)):
            shutil.copyfile(path, report / path.name)
    return report


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out of ``config.json`` where things lay on the training machine."""
    paths = {name for name, field in TrainSettings.model_fields.items() if Path in field_types(field.annotation)}
    return {name: value for name, value in config.items() if name not in paths}
