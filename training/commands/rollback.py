"""``python -m training rollback``."""

from __future__ import annotations

import argparse
from typing import Final

from training.commands.command import Command
from training.commands.promote import add_store_options, open_store, say

_EPILOG: Final = """example:
  python -m training rollback --task pneumonia
  python -m training rollback --task pneumonia --to 1.0.0

Undoes the last change: ends the canary where there is one, else lets the version serve again that did before. The
version that is rolled back stays in the store."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_store_options(parser)
    parser.add_argument("--to", metavar="VERSION", help="a version that served before; default the last one")


def _run(arguments: argparse.Namespace) -> None:
    store = open_store(arguments)
    from models.store.lifecycle import roll_back

    say(arguments.task, roll_back(store, arguments.task, arguments.to))


ROLLBACK: Final = Command("rollback", "let the version serve again that did before", _EPILOG, _add_options, _run)
