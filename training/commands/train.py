"""``python -m training train``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from models.errors import ConfigurationError
from models.settings import load
from training.commands.command import Command
from training.settings import TrainSettings, field_types

_EPILOG: Final = """examples:
  python -m training train --data-dir chest_xray --output-dir runs/pneumonia-1
  python -m training train --data-dir chest_xray --output-dir runs/folds --network plain_resnet18 --kfold 5
  python -m training train --resume runs/pneumonia-1

The data directory holds one folder per class (for pneumonia NORMAL and PNEUMONIA) with PNG, JPEG or DICOM files, or
below train/; or Data_Entry_2017.csv with images; or DICOM files and a CSV with the columns label and file or
sop_instance_uid. `check-data` looks it over first. Part of the persons is held out for validation, and looked at
plainly and as if from another hospital ("shifted"); the epoch with the least shifted loss is kept.

What is not given comes from the network's own recipe. Options may also stand in the table [training] of the
RADSTREAM_CONFIG file. Curves: tensorboard --logdir runs."""

_ALIASES: Final = {"image_size": ("--img-size",)}
_PATHS: Final = {"data_dir": "DIR", "output_dir": "DIR", "init_from": "DIR", "labels_csv": "FILE", "weights": "FILE"}


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Offer every setting as an option of its name; only what is given overrides file and environment."""
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the interrupted run of this directory")
    for name, field in TrainSettings.model_fields.items():
        options = ("--" + name.replace("_", "-"), *_ALIASES.get(name, ()))
        default = "" if field.is_required() or field.default is None else f" (default {field.default})"
        text = f"{field.description}{default}".replace("%", "%%")
        if bool in field_types(field.annotation):
            parser.add_argument(*options, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(*options, dest=name, default=None, metavar=_metavar(name, field.annotation), help=text)


def _metavar(name: str, annotation: Any) -> str:
    kinds = field_types(annotation)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if name == "task":
        choices = ["pneumonia", "normality"]
    if choices:
        return "{" + ",".join(choices) + "}"
    if name in _PATHS:
        return _PATHS[name]
    return "PIXELS" if name == "image_size" else "N" if int in kinds else "X" if float in kinds else name.upper()


def _run(arguments: argparse.Namespace) -> None:
    named = {name: value for name, value in vars(arguments).items() if name in TrainSettings.model_fields}
    given = {name: value for name, value in named.items() if value is not None}
    if arguments.resume is not None:
        from training.train import resume

        print(resume(arguments.resume, given).path)
        return
    settings = load(TrainSettings, **given)
    if not settings.data_dir.is_dir():
        raise ConfigurationError(f"{settings.data_dir}: no such directory")  # before anything heavy is imported
    from training.train import train

    print(train(settings).path)


TRAIN: Final = Command("train", "fit a network and write a run directory", _EPILOG, _add_options, _run)
