"""How commands that work for long show how far they are, and end in good order when told to."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SIGNALLED: Final = 128
"""Added to the number of a signal: how shells tell the end by it."""


def progress_bar() -> Progress:
    """Make a bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def stop_on_signal() -> tuple[threading.Event, list[int]]:
    """Let Ctrl-C end after what is in hand, and a second one at once; give the signals that came, too."""
    stop = threading.Event()
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop, received
