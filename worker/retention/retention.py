"""What `python -m worker retain` clears away, as a list of jobs: each counts what is due, and removes it in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session, sessionmaker

from models.audit.trail import AuditTrail
from models.queues import chunks
from models.records.base import Base, utc_now
from models.records.outputs import CommitmentRequest, Delivery, DeliveryState
from models.records.shadow import ShadowFinding
from models.requests import QUEUE_NAMES
from models.settings import Settings
from models.spool_archive import ArchiveLimits
from models.telemetry import get_logger
from worker.audit import tell_deleted
from worker.retention.files import FileRetention, Files
from worker.retention.records import BATCH, Deleted, RecordRetention, delete_old_rows, old_rows
from worker.settings import WorkerSettings

ROWS: Final = 500
"""Rows of one table deleted in one transaction."""

log = get_logger("worker.retention")

Stopped = Callable[[], bool]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report.

    Attributes:
        size: bytes; None where none are freed, or nobody knows.
        note: what else there is to say.
    """

    what: str
    count: int | None
    size: int | None = None
    note: str = ""


@dataclass(slots=True)
class Retention:
    """Everything that is cleared away, by the settings.

    Attributes:
        held: Study Instance UIDs that are left alone.
        now: that ages are counted from.
    """

    settings: Settings
    own: WorkerSettings
    sessions: sessionmaker[Session]
    files: FileRetention
    redis: Redis
    trail: AuditTrail
    held: frozenset[str]
    now: datetime = field(default_factory=utc_now)

    def preview(self) -> list[Line]:
        """Say what would go, changing nothing."""
        lines = self._preview_studies()
        lines += [Line(what, old_rows(self.sessions, table, chosen)) for what, table, _, chosen in self._aged()]
        if self.own.retain_set_aside_days:
            aside = self.files.set_aside(self._before(self.own.retain_set_aside_days))
            lines.append(_line("instances set aside", Files(len(aside), sum(file.size for file in aside))))
        lines.append(_line("files of delivered outputs", self.files.outputs(self.own.outbox_keep_days)))
        lines.append(_line("spool archive beyond its limits", self.files.archive(ArchiveLimits.of(self.settings))))
        lines.append(_line("receptions that never ended", self.files.stale_incoming()))
        return lines

    def run(self, stopped: Stopped, expect: Advance, advance: Advance) -> list[Line]:
        """Clear away; ends after the batch in hand when told to stop. Doing it again goes on where it stopped.

        Args:
            stopped: whether to stop.
            expect: is told how many studies, instances and rows there are.
            advance: is told how many of them are done.
        """
        lines: list[Line] = []
        for job in (self._run_studies, self._run_aged, self._run_files):
            if not stopped():
                lines += job(stopped, expect, advance)
        return lines

    def _before(self, days: float) -> datetime:
        return self.now - timedelta(days=days)

    # Studies

    def _records(self) -> RecordRetention:
        return RecordRetention(self.sessions, self._before(self.own.retain_studies_days), self.held)

    def _preview_studies(self) -> list[Line]:
        if not self.own.retain_studies_days:
            return []
        found = self._records().find()
        return [
            Line("studies", len(found.due)),
            Line("instances of no study", len(found.loose_instances)),
            Line("old studies left alone: unfinished", found.unfinished),
            Line("old studies left alone: on hold", found.held),
        ]

    def _run_studies(self, stopped: Stopped, expect: Advance, advance: Advance) -> list[Line]:
        if not self.own.retain_studies_days:
            return []
        records = self._records()
        found = records.find()
        expect(len(found.due) + len(found.loose_instances))
        studies = self._in_batches(records.delete_studies, found.due, stopped, advance)
        loose = self._in_batches(records.delete_loose, found.loose_instances, stopped, advance)
        freed = studies.size + loose.size
        return [
            Line("studies", studies.subjects),
            Line("instances of them and of no study", studies.instances + loose.instances),
            Line("files of them", studies.files + loose.files, freed),
            Line("old studies left alone: unfinished", found.unfinished),
            Line("old studies left alone: on hold", found.held),
        ]

    def _in_batches(
        self, remove: Callable[[Sequence[int]], list[Deleted]], ids: list[int], stopped: Stopped, advance: Advance
    ) -> _Tally:
        tally = _Tally()
        for batch in chunks(ids, BATCH):
            if stopped():
                break
            for deleted in remove(batch):
                tell_deleted(self.trail, deleted.told)
                tally.add(deleted, self._remove_files(deleted))
            advance(len(batch))
        return tally

    def _remove_files(self, deleted: Deleted) -> Files:
        # After the commit: what a crash leaves here goes by its age, because no record knows it.
        outputs = self.files.remove_outputs(deleted.file_names)
        aside = self.files.remove_set_aside(self.files.set_aside_of(deleted.spool_keys))
        log.info("study_deleted", study_instance_uid=deleted.told.uid, instances=len(deleted.spool_keys))
        return Files(outputs.count + aside.count, (outputs.size or 0) + (aside.size or 0))

    # Rows by their own age

    def _aged(self) -> list[tuple[str, type[Base], Any, ColumnElement[bool]]]:
        own = self.own
        jobs: list[tuple[float, str, type[Base], Any, Callable[[datetime], ColumnElement[bool]]]] = [
            (
                own.retain_dead_deliveries_days,
                "deliveries given up",
                Delivery,
                Delivery.id,
                lambda before: (Delivery.state == DeliveryState.DEAD) & (Delivery.last_attempt_at < before),
            ),
            (
                own.retain_shadow_days,
                "findings of the shadow",
                ShadowFinding,
                ShadowFinding.id,
                lambda before: ShadowFinding.inferred_at < before,
            ),
            (
                own.retain_commitments_days,
                "commitment requests of ours",
                CommitmentRequest,
                CommitmentRequest.id,
                lambda before: CommitmentRequest.asked_at < before,
            ),
        ]
        return [(what, table, key, chosen(self._before(days))) for days, what, table, key, chosen in jobs if days]

    def _run_aged(self, stopped: Stopped, expect: Advance, advance: Advance) -> list[Line]:
        lines = []
        for what, table, key, chosen in self._aged():
            expect(old_rows(self.sessions, table, chosen))
            total = 0
            while not stopped() and (count := delete_old_rows(self.sessions, table, key, chosen, ROWS)):
                total += count
                advance(count)
            lines.append(Line(what, total))
        return lines

    # Files and queues

    def _run_files(self, stopped: Stopped, expect: Advance, advance: Advance) -> list[Line]:
        lines = []
        if self.own.retain_set_aside_days:
            old = self.files.set_aside(self._before(self.own.retain_set_aside_days))
            expect(len(old))
            removed = Files(0, 0)
            for batch in chunks(old, ROWS):
                if stopped():
                    break
                more = self.files.remove_set_aside(batch)
                removed = Files(removed.count + more.count, (removed.size or 0) + (more.size or 0))
                advance(len(batch))
            lines.append(_line("instances set aside", removed))
        jobs: tuple[tuple[str, Callable[[], Files]], ...] = (
            ("files of delivered outputs", lambda: self.files.clean_outputs(self.own.outbox_keep_days)),
            ("spool archive beyond its limits", lambda: self.files.trim_archive(ArchiveLimits.of(self.settings))),
            ("receptions that never ended", self.files.remove_stale_incoming),
        )
        for what, job in jobs:
            if not stopped():
                lines.append(_line(what, job()))
        if not stopped():
            lines.append(self._clean_registries())
        return lines

    def _clean_registries(self) -> Line:
        """Have RQ forget jobs that ended longer ago than it keeps them."""
        what = "jobs that ended long ago"
        try:
            count = 0
            for name in QUEUE_NAMES:
                queue = Queue(name, connection=self.redis, serializer=JSONSerializer)
                count += self._cleaned(queue.finished_job_registry) + self._cleaned(queue.failed_job_registry)
            return Line(what, count)
        except RedisError:
            return Line(what, None, note="Redis does not answer")

    def _cleaned(self, registry: Any) -> int:
        before = self.redis.zcard(registry.key)
        registry.cleanup()
        return int(before - self.redis.zcard(registry.key))


@dataclass(slots=True)
class _Tally:
    subjects: int = 0
    instances: int = 0
    files: int = 0
    size: int = 0

    def add(self, deleted: Deleted, files: Files) -> None:
        self.subjects += deleted.told.uid is not None
        self.instances += len(deleted.spool_keys)
        self.files += files.count
        self.size += files.size or 0


def _line(what: str, files: Files) -> Line:
    return Line(what, files.count, files.size)
