"""Carries files between this host and the bucket, beside the stages of the pipeline, in a few threads.

A bucket that is away delays instances and fails none: what cannot be carried is tried again until `GIVE_BACK_S` after
the instance was taken in hand, and is then left to another worker, or to this one later; its file is pending all along.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from models.errors import Reason, Transient, Unprocessable
from models.object_spool import ObjectSpool
from models.telemetry import get_logger
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.outbox import AnyOutbox

log = get_logger("worker.carrier")

THREADS: Final = 8
RETRY_S: Final = 1.0
"""Wait between attempts to reach a bucket that is away."""
GIVE_BACK_S: Final = 30.0
"""After this the instance may do better with a worker whose network is whole."""
T = TypeVar("T")


class Carrier:
    """Fetches, publishes and finishes. `stop` may be called at any moment; what is in hand then stays pending."""

    def __init__(
        self, spool: ObjectSpool, outbox: AnyOutbox, metrics: WorkerMetrics, stopping: threading.Event
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._metrics = metrics
        self._stopping = stopping
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="carrier")
        self._is_up = True

    @property
    def is_up(self) -> bool:
        """Whether the bucket answered last time."""
        return self._is_up

    def fetch(self, item: Item, then: Callable[[Path | None], None]) -> None:
        """Fetch the file of an instance; `then` is told where it lies, None with the item refused or postponed."""

        def work() -> None:
            path = None
            try:
                path = self._patiently(item, lambda: self._spool.fetch(item.request.spool_key))
            except Unprocessable as refusal:
                item.refusal = refusal
            except Transient as error:
                item.postponed = error.reason
            except OSError as error:  # the disk of the copies
                log.error("file_not_fetched", spool_key=item.request.spool_key, exc_info=error)
                item.postponed = Reason.OUT_OF_SPACE
            then(path)

        self._submit(work)

    def publish(self, item: Item, then: Callable[[], None]) -> None:
        """Upload the outputs of an instance; the item is postponed where that fails."""
        names = [made.written.file_name for outputs in (item.reports, *item.outputs.values()) for made in outputs]
        if not names:
            then()
            return

        def work() -> None:
            try:
                self._patiently(item, lambda: self._outbox.publish(names))
            except Transient as error:
                item.postponed = error.reason
            except OSError as error:
                log.error("outputs_not_published", spool_key=item.request.spool_key, exc_info=error)
                item.postponed = Reason.OUT_OF_SPACE
            then()

        self._submit(work)

    def for_each(self, act: Callable[[T], None], things: Iterable[T]) -> None:
        """Do something with each of several things, some at a time, and wait for all."""
        with suppress(RuntimeError):  # stopped: what was not done, the next to look at it does
            list(self._threads.map(act, things))

    def stop(self) -> None:
        """End after what is being carried."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._threads.submit(work)
        except RuntimeError:
            return  # stopped: the instance stays in the spool

    def _patiently(self, item: Item, act: Callable[[], T]) -> T:
        while True:
            try:
                result = act()
            except Transient as error:
                self._say(up=False, error=error)
                if time.monotonic() - item.submitted_at >= GIVE_BACK_S or self._stopping.wait(RETRY_S):
                    raise
            else:
                self._say(up=True)
                return result

    def _say(self, up: bool, error: Transient | None = None) -> None:
        self._metrics.object_store_up.set(up)
        if up != self._is_up:
            if up:
                log.info("object_store_back")
            else:
                log.warning("object_store_unavailable", exc_info=error)
        self._is_up = up
