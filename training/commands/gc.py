"""``python -m training gc``."""

from __future__ import annotations

import argparse
from typing import Final

from models.errors import ConfigurationError
from models.tasks import Task
from training.commands.command import Command
from training.commands.promote import add_store_options, open_store

_EPILOG: Final = """example:
  python -m training gc --dry-run
  python -m training gc --task pneumonia --keep 2

Removes versions that are neither active, canary nor shadow, did not serve among the last ones and are not among the
newest; and, of the versions that stay, files in engines/ that were built from another network."""

_BYTES_PER_MB: Final = 1e6
_KEEP: Final = 3


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_store_options(parser, task_required=False)
    parser.add_argument(
        "--keep",
        type=int,
        default=_KEEP,
        metavar="N",
        help=f"so many that served last and so many of the newest stay (default {_KEEP})",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _run(arguments: argparse.Namespace) -> None:
    if arguments.keep < 0:
        raise ConfigurationError("--keep: must be 0 or more")
    store = open_store(arguments)
    from training.garbage import collect_garbage

    if not store.root.is_dir():
        raise ConfigurationError(f"{store.root}: no such model store")
    total, verb = 0, "would remove" if arguments.dry_run else "removed"
    for task in Task if arguments.task is None else (arguments.task,):
        for garbage in collect_garbage(store, task, arguments.keep, remove=not arguments.dry_run):
            total += garbage.size_bytes
            print(f"{verb} {task} {garbage.what}: {garbage.path} ({garbage.size_bytes / _BYTES_PER_MB:.1f} MB)")
    print(f"{verb} {total / _BYTES_PER_MB:.1f} MB")


GC: Final = Command("gc", "remove versions and engines that nobody needs any more", _EPILOG, _add_options, _run)
