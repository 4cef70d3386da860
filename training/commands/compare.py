"""``python -m training compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from models.settings import Settings, load
from training.commands.command import Command

_EPILOG: Final = """example:
  python -m training compare runs evaluation --store models-store --split test --output-dir comparison

Finds every run, evaluation and cross-validation in and below the directories, and with --store the versions of a model
store and the reports it keeps. Without directories the store alone is shown. Writes comparison.csv, comparison.md and
comparison.png, and prints the table."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", type=Path, metavar="DIR", help="runs, evaluations or directories of them")
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="model store to include; without any DIR, RADSTREAM_MODEL_STORE"
    )
    parser.add_argument("--split", metavar="NAME", help="rows of this split alone, e.g. test")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where the files go")


def _run(arguments: argparse.Namespace) -> None:
    store = arguments.store
    if store is None and not arguments.paths:
        store = load(Settings).model_store
    from training.compare import compare, print_table
    from training.results import collect

    print_table(compare(collect(arguments.paths, store, arguments.split), arguments.output_dir))
    print(arguments.output_dir / "comparison.md")


COMPARE: Final = Command("compare", "put results of many networks into one table", _EPILOG, _add_options, _run)
