"""``python -m training train``."""

from __future__ import annotations

import argparse
from typing import Final

from models.settings import load
from models.tasks import Task
from training.commands.command import Command
from training.settings import TrainSettings

_EPILOG: Final = """example:
  python -m training train --task pneumonia --data-dir chest_xray/train --output-dir runs/pneumonia-1

The data directory holds one folder per class (for pneumonia NORMAL and PNEUMONIA) with PNG or JPEG files. Part of
the persons is held out for validation. Options may also stand in the table [training] of the RADSTREAM_CONFIG file."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Offer every setting as an option of its name; only what is given overrides file and environment."""
    for name, field in TrainSettings.model_fields.items():
        option = "--" + name.replace("_", "-")
        default = "" if field.is_required() or field.default is None else f" (default {field.default})"
        text = f"{field.description}{default}".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(option, default=None, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    if name == "task":
        return "{" + ",".join(task.value for task in Task) + "}"
    return "DIR" if name.endswith("_dir") else name.upper().replace("IMAGE_SIZE", "PIXELS")


def _run(arguments: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(arguments).items() if name in TrainSettings.model_fields}
    settings = load(TrainSettings, **given)
    from training.train import train

    print(train(settings).path)


TRAIN: Final = Command("train", "fit a network and write a run directory", _EPILOG, _add_options, _run)
