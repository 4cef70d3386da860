"""Progress bars of the commands: on stderr, and only where a person watches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE: Final = Console(stderr=True, soft_wrap=True, highlight=False)
"""Where commands speak to a person; results that another program may read go to stdout."""

T = TypeVar("T")


def progress_bar() -> Progress:
    """Give a bar that vanishes when it is done, and is never shown where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Give the items one by one and show how far one is."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=what)
