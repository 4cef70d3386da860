"""Command line of training: ``python -m training <command>``.

Arguments are read before anything heavy is imported, so that ``--help`` and a wrong argument answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError, RadstreamError
from models.settings import Settings, load
from models.tasks import Task
from training.settings import TrainSettings

_TRAIN_EXAMPLE: Final = """example:
  python -m training train --task pneumonia --data-dir chest_xray/train --output-dir runs/pneumonia-1

The data directory holds one folder per class (for pneumonia NORMAL and PNEUMONIA) with PNG or JPEG files. Part of
the persons is held out for validation. Options may also stand in the table [training] of the RADSTREAM_CONFIG file."""

_EXPORT_EXAMPLE: Final = """example:
  python -m training export --run runs/pneumonia-1 --version 1.1.0 --store models-store --activate \\
      --data-note "paediatric chest radiographs of hospital X" --licence "CC BY 4.0; research use"

Writes <store>/<task>/<version>/ with network.onnx, manifest.json and report/. A version is never replaced."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 wrong arguments or settings."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except ConfigurationError as error:
        print(f"python -m training: {error}", file=sys.stderr)
        return 2
    except RadstreamError as error:
        print(f"python -m training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("python -m training: interrupted", file=sys.stderr)
        return 130
    return 0


def _train(arguments: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(arguments).items() if name in TrainSettings.model_fields}
    settings = load(TrainSettings, **given)
    from training.train import train

    print(train(settings).path)


def _export(arguments: argparse.Namespace) -> None:
    store_path = arguments.store or load(Settings).model_store
    from models.store.store import ModelStore
    from training.export import ExportRequest, export
    from training.run import RunDirectory

    request = ExportRequest(arguments.version, arguments.data_dir, arguments.data_note, arguments.licence)
    store = ModelStore(store_path)
    version = export(RunDirectory(arguments.run), request, store)
    if arguments.activate:
        store.activate(version.manifest.task, version.manifest.version)
    print(version.directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train networks and export them.")
    commands = parser.add_subparsers(required=True, metavar="command")
    train = _add(commands, "train", "fit a network and write a run directory", _TRAIN_EXAMPLE, _train)
    _add_train_options(train)
    export = _add(commands, "export", "make a model version of a run directory", _EXPORT_EXAMPLE, _export)
    export.add_argument("--run", type=Path, required=True, metavar="DIR", help="run directory of `train`")
    export.add_argument("--version", required=True, help="name of the version to make, e.g. 1.1.0")
    export.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    export.add_argument("--activate", action="store_true", help="let the new version serve")
    export.add_argument("--data-dir", type=Path, metavar="DIR", help="where the training images lie now, if moved")
    export.add_argument("--data-note", default="Not described.", metavar="TEXT", help="what the training images are")
    export.add_argument("--licence", default="Not stated.", metavar="TEXT", help="terms of images and weights")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    example: str,
    command: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=command)
    return parser


def _add_train_options(parser: argparse.ArgumentParser) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
