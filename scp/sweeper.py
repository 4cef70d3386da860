"""Finds instances that lie in the spool and are in no queue, and has them registered and queued.

That is how nothing accepted is lost: after a crash of any process, a Redis flush, an outage of Redis or the database,
or a lost notice, the file in the spool is all that is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from models.any_spool import AnySpool
from models.errors import ObjectStoreUnavailable, Reason, Unprocessable
from models.queues import JobState, Queues, chunks
from models.requests import InferenceRequest, job_id_for
from models.telemetry import get_logger
from scp.registrar import Dependency, Registrar
from scp.scoreboard import STORED, Scoreboard

GRACE_S: Final = 5.0
"""Younger files are the registrar's."""
GROUP: Final = 250
RECOUNT_S: Final = 1.0
TRIM_ARCHIVE_S: Final = 60.0
STALE_INCOMING_S: Final = 3600.0
"""A file being received for so long is not: its process died."""

log = get_logger("scp.sweeper")


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep saw and did."""

    pending: int
    queued: int


class Sweeper:
    """Sweeps when asked, and every `interval_s` in a thread of its own.

    With `recount_above` or more instances pending it counts every second, so that room is seen soon after it is made.
    """

    def __init__(
        self,
        spool: AnySpool,
        queues: Queues,
        registrar: Registrar,
        scoreboard: Scoreboard,
        redis: Dependency,
        interval_s: float,
        recount_above: int,
        trim_archive: Callable[[], int] | None = None,
    ) -> None:
        self._spool = spool
        self._queues = queues
        self._registrar = registrar
        self._scoreboard = scoreboard
        self._redis = redis
        self._interval_s = interval_s
        self._recount_above = recount_above
        self._suspects: frozenset[str] = frozenset()
        self._trim_archive = trim_archive
        self._cleaned_at = self._trimmed_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sweeper", daemon=True)
        self.sweeps = 0
        self.swept = 0
        self._oldest_at: float | None = None
        self.spool_up = True

    def start(self) -> None:
        """Begin to sweep; the first sweep is at once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the group in hand."""
        self._stop.set()
        self._thread.join(timeout_s)

    def count(self) -> list[str]:
        """Count pending files for the admission of new ones, and give the keys of those old enough to sweep."""
        stored_before = self._scoreboard.total(STORED)
        entries = list(self._spool.entries())
        self._scoreboard.publish_pending(len(entries), stored_before)
        self._oldest_at = min((entry.modified_at for entry in entries), default=None)
        limit = time.time() - min(GRACE_S, self._interval_s)
        old = [entry for entry in entries if entry.modified_at < limit]
        old.sort(key=lambda entry: entry.modified_at)
        return [entry.key for entry in old]

    def oldest_age_s(self) -> float:
        """Age of the oldest instance that the last count found pending, seconds; 0 where there was none."""
        oldest_at = self._oldest_at  # read once: the sweeper's thread sets it
        return 0.0 if oldest_at is None else max(0.0, time.time() - oldest_at)

    def sweep(self) -> Sweep:
        """Queue what is in no queue, oldest first."""
        keys = {job_id_for(key): key for key in self.count()}
        queued = 0
        try:
            missing, orphans = self._in_no_queue(list(keys)) if keys else ([], frozenset())
        except (RedisError, OSError) as error:
            self._redis.down(error)
            return Sweep(len(keys), 0)
        for group in chunks(missing, GROUP):
            requests = [request for job_id in group if (request := self._request_for(keys[job_id])) is not None]
            count = self._registrar.register_and_queue(requests, orphans) if requests else 0
            if count is None or self._stop.is_set():
                break  # Redis or the database is away; the next sweep goes on
            queued += count
        self.sweeps += 1
        self.swept += queued
        if queued:
            log.info("swept", queued=queued, pending=len(keys))
        return Sweep(len(keys), queued)

    def _in_no_queue(self, job_ids: list[str]) -> tuple[list[str], frozenset[str]]:
        """Give the jobs to be queued, and those among them that claim to be queued already."""
        listed = self._queues.listed()
        unlisted = [job_id for job_id in job_ids if job_id not in listed]
        states = self._queues.states(unlisted)
        self._redis.up()
        # A job just taken from its list says `queued` until it starts; only one that still does so a sweep later
        # is in no hand.
        claiming = frozenset(job_id for job_id in unlisted if states[job_id] is JobState.WAITING)
        orphans = claiming & self._suspects
        self._suspects = claiming - orphans
        return [job_id for job_id in unlisted if states[job_id] is JobState.GONE or job_id in orphans], orphans

    def _request_for(self, key: str) -> InferenceRequest | None:
        try:
            return self._spool.request_for(key)
        except Unprocessable as error:
            if error.reason is not Reason.SPOOL_FILE_MISSING:  # missing: finished meanwhile
                log.error("spool_file_unreadable", sop_instance_uid=key.partition("_")[0], reason=error.reason.value)
                self._spool.set_aside(key)
            return None

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._clean_incoming()
                self._clean_archive()
                self.sweep()
                self._say_spool(None)
            except ObjectStoreUnavailable as error:
                self._say_spool(error)
            except Exception:
                # A full or failing disk, or our own mistake: the next sweep tries again.
                log.exception("sweep_failed")
            self._rest()

    def _say_spool(self, error: ObjectStoreUnavailable | None) -> None:
        if error is not None and self.spool_up:
            log.warning("unavailable", reason=error.reason.value, exc_info=error)
        elif error is None and not self.spool_up:
            log.info("available_again", reason=Reason.OBJECT_STORE_UNAVAILABLE.value)
        self.spool_up = error is None

    def _rest(self) -> None:
        until = time.monotonic() + self._interval_s
        while (left_s := until - time.monotonic()) > 0 and not self._stop.wait(min(left_s, RECOUNT_S)):
            if self._scoreboard.pending() >= self._recount_above:
                self._recount()

    def _recount(self) -> None:
        stored_before = self._scoreboard.total(STORED)
        try:
            self._scoreboard.publish_pending(self._spool.usage().pending, stored_before)
        except OSError as error:
            log.warning("spool_cannot_be_counted", exc_info=error)

    def _clean_incoming(self) -> None:
        now = time.monotonic()
        if self._cleaned_at and now - self._cleaned_at < STALE_INCOMING_S:
            return
        self._cleaned_at = now
        removed = self._spool.discard_stale_incoming(STALE_INCOMING_S)
        if removed:
            log.info("stale_incoming_removed", count=removed)

    def _clean_archive(self) -> None:
        now = time.monotonic()
        if self._trim_archive is None or (self._trimmed_at and now - self._trimmed_at < TRIM_ARCHIVE_S):
            return
        self._trimmed_at = now
        try:
            removed = self._trim_archive()
        except OSError as error:  # never a reason to leave out the sweep
            log.warning("archive_not_trimmed", exc_info=error)
            return
        if removed:
            log.info("archive_trimmed", count=removed)
