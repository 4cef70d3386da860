"""``python -m training promote``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.settings import Settings, load
from models.tasks import Task
from training.commands.command import Command

if TYPE_CHECKING:
    from models.store.activation import Activation
    from models.store.store import ModelStore

_EPILOG: Final = """example:
  python -m training promote --task pneumonia --version 1.1.0 --canary 10
  python -m training promote --task pneumonia --version 1.1.0
  python -m training rollback --task pneumonia

Workers that run notice it within seconds, load the version beside the one that serves, and swap between two batches.
One that they cannot load they refuse: the former goes on, and their log and their metric
radstream_worker_engine_refused say so.

Promoting the version that serves already has them take the engine that was built since.

With --canary the version answers for that many percent of the studies; all images of a study get the same version,
and a larger percentage keeps those that were in it. Promoting without --canary, and rollback, end the canary."""


def add_store_options(parser: argparse.ArgumentParser, *, task_required: bool = True) -> None:
    """Add the options that say which versions a command is about."""
    parser.add_argument("--task", type=Task, choices=list(Task), metavar="TASK", required=task_required)
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")


def open_store(arguments: argparse.Namespace) -> ModelStore:
    """Give the store that the options name."""
    from models.store.store import ModelStore

    return ModelStore(arguments.store or load(Settings).model_store)


def say(task: Task, activation: Activation) -> None:
    """Print what serves now, in one line."""
    parts = [f"active {activation.active or 'none'}"]
    if activation.canary is not None:
        parts.append(f"canary {activation.canary} for {activation.canary_percent:g}% of the studies")
    if activation.shadow is not None:
        parts.append(f"shadow {activation.shadow}")
    parts.append(f"before: {activation.previous[0]}" if activation.previous else "nothing before")
    print(f"{task}: {', '.join(parts)}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_store_options(parser)
    parser.add_argument("--version", required=True, help="version of the store that is to serve")
    parser.add_argument("--canary", type=float, metavar="PERCENT", help="for this part of the studies alone")


def _run(arguments: argparse.Namespace) -> None:
    store = open_store(arguments)
    from models.store.lifecycle import promote, start_canary

    if arguments.canary is None:
        say(arguments.task, promote(store, arguments.task, arguments.version))
    else:
        say(arguments.task, start_canary(store, arguments.task, arguments.version, arguments.canary))


PROMOTE: Final = Command("promote", "let a version serve, or a part of the studies try it", _EPILOG, _add_options, _run)
