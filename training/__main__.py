"""Command line of training: ``python -m training <command>``.

Arguments are read before anything heavy is imported, so that ``--help`` and a wrong argument answer at once.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from models.errors import ConfigurationError, RadstreamError
from training.commands.average import AVERAGE
from training.commands.build import BUILD
from training.commands.check_data import CHECK_DATA
from training.commands.command import Command
from training.commands.compare import COMPARE
from training.commands.evaluate import EVALUATE
from training.commands.export import EXPORT
from training.commands.gc import GC
from training.commands.list_versions import LIST
from training.commands.promote import PROMOTE
from training.commands.regenerate import REGENERATE
from training.commands.rollback import ROLLBACK
from training.commands.search import SEARCH
from training.commands.shadow import SHADOW
from training.commands.train import TRAIN

COMMANDS: Final[tuple[Command, ...]] = (
    CHECK_DATA,
    TRAIN,
    SEARCH,
    AVERAGE,
    EVALUATE,
    COMPARE,
    EXPORT,
    BUILD,
    REGENERATE,
    LIST,
    PROMOTE,
    ROLLBACK,
    SHADOW,
    GC,
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 wrong arguments or settings."""
    arguments = _parser().parse_args(argv)
    command: Command = arguments.command
    try:
        command.run(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train networks and export them.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
