"""What a command of ``python -m training`` is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand. Its module imports nothing heavy at the top, so that ``--help`` answers at once.

    Attributes:
        name: as typed.
        summary: one line of the list of commands.
        epilog: begins with an example that can be pasted; then what a newcomer must know.
        add_options: fills the parser.
        run: does it; raises `models.errors.RadstreamError`.
    """

    name: str
    summary: str
    epilog: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]

    def add_to(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Make the command's parser."""
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=self.summary,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_options(parser)
        parser.set_defaults(command=self)
