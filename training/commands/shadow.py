"""``python -m training shadow``."""

from __future__ import annotations

import argparse
from typing import Final

from training.commands.command import Command
from training.commands.promote import add_store_options, open_store, say

_EPILOG: Final = """example:
  python -m training shadow --task pneumonia --version 1.1.0
  python -m worker shadow-report --task pneumonia
  python -m training shadow --task pneumonia --off

A shadow version sees what the active one answered, after it has been answered. Its own answers are kept apart: they are
never sent, and no view shows them. Where a worker has no time for it, instances are left out and counted."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_store_options(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", help="version of the store that is to run in the shadow")
    which.add_argument("--off", action="store_true", help="run none")


def _run(arguments: argparse.Namespace) -> None:
    store = open_store(arguments)
    from models.store.lifecycle import set_shadow

    say(arguments.task, set_shadow(store, arguments.task, arguments.version))


SHADOW: Final = Command(
    "shadow", "let a version see live instances without being believed", _EPILOG, _add_options, _run
)
