"""``python -m training train``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from models.errors import ConfigurationError
from models.settings import load
from models.tasks import Task
from training.classes import CLASSES
from training.commands.command import Command
from training.datasets.exclusions import read_exclusions
from training.landmark_settings import LandmarkTrainSettings
from training.settings import RunSettings, TrainSettings, field_types
from training.zone_settings import ZoneTrainSettings

_EPILOG: Final = """examples:
  python -m training train --data-dir chest_xray --output-dir runs/pneumonia-1
  python -m training train --data-dir chest_xray --output-dir runs/folds --network plain_resnet18 --kfold 5
  python -m training train --task csi --data-dir brixia --output-dir runs/csi-folds --kfold 5 \\
      --init-from runs/pneumonia-1
  python -m training train --task csi --data-dir brixia --output-dir runs/csi --from search.json --val-fraction 0
  python -m training train --resume runs/pneumonia-1

Two classes: the data directory holds one folder per class (for pneumonia NORMAL and PNEUMONIA) with PNG, JPEG or
DICOM files, or below train/; or Data_Entry_2017.csv with images; or DICOM files and a CSV with the columns label and
file or sop_instance_uid. Part of the persons is held out for validation, and looked at plainly and as if from another
hospital ("shifted"); the epoch with the least shifted loss is kept.

csi: the data directory holds a CSV with the separator ; and the columns FileID, right_sup, left_sup, right_mid,
left_mid, right_inf, left_inf (0 to 3, empty or 4 where a zone cannot be judged), or scores.csv with Brixia scores.
With RAD-DINO, --weights names the directory of its files.

`check-data` looks a set over first. What is not given comes from the network's own recipe. Options may also stand in
the table [training], of csi [csi_training], of the RADSTREAM_CONFIG file. Curves: tensorboard --logdir runs."""

TASKS: Final = (*CLASSES, Task.CSI, Task.LANDMARKS)
"""Every task that can be trained."""

_ALIASES: Final = {"image_size": ("--img-size",)}
_PATHS: Final = {"data_dir": "DIR", "output_dir": "DIR", "init_from": "DIR", "labels_csv": "FILE", "weights": "PATH"}
_KINDS: Final[tuple[tuple[str, type[RunSettings]], ...]] = (
    ("for every task", RunSettings),
    ("for tasks pneumonia and normality", TrainSettings),
    ("for task csi", ZoneTrainSettings),
    ("for task landmarks", LandmarkTrainSettings),
)


def settings_class_of(task: Task) -> type[RunSettings]:
    """Give the settings of a task's runs.

    Raises:
        ConfigurationError: the task cannot be trained.
    """
    if task is Task.CSI:
        return ZoneTrainSettings
    if task is Task.LANDMARKS:
        return LandmarkTrainSettings
    if task in CLASSES:
        return TrainSettings
    raise ConfigurationError(f"task {task}: cannot be trained yet; tasks are {', '.join(TASKS)}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Offer every setting as an option of its name; only what is given overrides file and environment."""
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the interrupted run of this directory")
    parser.add_argument("--from", dest="from_file", type=Path, metavar="JSON", help="settings that `search` has found")
    add_settings(parser, _KINDS)


def add_settings(
    parser: argparse.ArgumentParser,
    kinds: tuple[tuple[str, type[RunSettings]], ...],
    without: frozenset[str] = frozenset(),
) -> None:
    """Add an option for every setting of these classes, in a group each; what two of them have is added once."""
    added = set(without)
    for title, kind in kinds:
        group = parser.add_argument_group(title)
        for name, field in kind.model_fields.items():
            if name in added:
                continue
            added.add(name)
            options = ("--" + name.replace("_", "-"), *_ALIASES.get(name, ()))
            described = field.description or ""
            default = "" if field.is_required() or field.default in (None, ()) else f" (default {field.default})"
            text = _with_both(name, f"{described}{default}", kinds).replace("%", "%%")
            if bool in field_types(field.annotation):
                group.add_argument(*options, action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                metavar = _metavar(name, kinds)
                group.add_argument(*options, dest=name, default=None, metavar=metavar, help=text)


def _with_both(name: str, text: str, kinds: tuple[tuple[str, type[RunSettings]], ...]) -> str:
    """Say where csi has another default than the others."""
    if name not in RunSettings.model_fields or ZoneTrainSettings not in [kind for _, kind in kinds]:
        return text
    usual, zones = (kind.model_fields[name].default for kind in (TrainSettings, ZoneTrainSettings))
    return text if usual == zones or name == "task" else f"{text}; of csi {zones}"


def _metavar(name: str, kinds: tuple[tuple[str, type[RunSettings]], ...]) -> str:
    if name == "task":
        return "{" + ",".join(TASKS) + "}"
    annotations = [kind.model_fields[name].annotation for _, kind in kinds if name in kind.model_fields]
    types = [each for annotation in annotations for each in field_types(annotation)]
    choices = [choice for each in types if get_origin(each) is Literal for choice in get_args(each)]
    choices += [member.value for each in types if hasattr(each, "__members__") for member in each]
    if choices:
        return "{" + ",".join(dict.fromkeys(choices)) + "}"
    if name in _PATHS:
        return _PATHS[name]
    return "PIXELS" if name == "image_size" else "N" if int in types else "X" if float in types else name.upper()


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give what the command line says, by the name of the setting."""
    known = {name for _, kind in _KINDS for name in kind.model_fields}
    given = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    if isinstance(given.get("exclude"), str):
        given["exclude"] = read_exclusions(_parts(given["exclude"]))
    if isinstance(given.get("freeze"), str):
        given["freeze"] = _parts(given["freeze"])
    return given


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def chosen_settings(given: dict[str, Any]) -> RunSettings:
    """Make the settings of the task that is asked for.

    Raises:
        ConfigurationError: the task is unknown or has no such setting, or a value is wrong.
    """
    try:
        task = Task(given.get("task", Task.PNEUMONIA))
    except ValueError:
        raise ConfigurationError(f"task {given['task']}: unknown; tasks are {', '.join(TASKS)}") from None
    kind = settings_class_of(task)
    foreign = sorted(set(given) - set(kind.model_fields))
    if foreign:
        options = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise ConfigurationError(f"{options}: not of task {task}")
    settings = load(kind, **given)
    if not settings.data_dir.is_dir():
        raise ConfigurationError(f"{settings.data_dir}: no such directory")  # before anything heavy is imported
    return settings


def found_settings(path: Path) -> dict[str, Any]:
    """Read what `search` has found."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a JSON file of `search`, whose key settings is wanted") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: its settings must be an object")
    return found


def _run(arguments: argparse.Namespace) -> None:
    given = given_settings(arguments)
    if arguments.resume is not None:
        from training.train import resume

        print(resume(arguments.resume, given).path)
        return
    if arguments.from_file is not None:
        given = {**found_settings(arguments.from_file), **given}
    settings = chosen_settings(given)
    from training.train import train

    print(train(settings).path)


TRAIN: Final = Command("train", "fit a network and write a run directory", _EPILOG, _add_options, _run)
