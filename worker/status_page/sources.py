"""Asks a source at most once in so many seconds, however many look on, and never lets one that hangs stop a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

from models.records.base import utc_now
from models.telemetry import get_logger
from worker.status_page.facts import Source

log = get_logger("worker.status_page")

T = TypeVar("T")

REST: Final = 20
"""A source that took long is left alone for so many times as long, so that looking on takes a twentieth at most."""


class Asked(Generic[T]):
    """What a source last said, asked again when that is older than `every_s` and somebody wants to know."""

    def __init__(self, name: str, ask: Callable[[], T], every_s: float) -> None:
        self.name = name
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._due = 0.0
        self._answering: threading.Event | None = None
        self._value: T | None = None
        self._as_of: datetime | None = None
        self._failed = False

    def begin(self) -> None:
        """Ask in a thread, where it is time."""
        with self._lock:
            if self._answering is not None or time.monotonic() < self._due:
                return
            self._answering = threading.Event()
            threading.Thread(target=self._run, args=[self._answering], name=f"status-{self.name}", daemon=True).start()

    def _run(self, answered: threading.Event) -> None:
        began = time.monotonic()
        try:
            value = self._ask()
        except Exception as error:
            # Whatever it is, the page shows what was known before.
            with self._lock:
                first, self._failed = not self._failed, True
            if first:
                log.warning("status_source_away", source=self.name, exc_info=error)
        else:
            with self._lock:
                self._value, self._as_of, self._failed = value, utc_now(), False
        now = time.monotonic()
        with self._lock:
            self._due = now + max(self._every_s, REST * (now - began))
            self._answering = None
        answered.set()

    def wait(self, until: float) -> None:
        """Wait for an answer under way, at most until a time of the monotonic clock."""
        with self._lock:
            answering = self._answering
        if answering is not None:
            answering.wait(max(0.0, until - time.monotonic()))

    @property
    def known(self) -> tuple[T | None, Source]:
        """What it last said, and whether that is of now."""
        with self._lock:
            late = self._answering is not None
            return self._value, Source(self._as_of, not self._failed and not late)
