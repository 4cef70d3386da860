"""Lets one more version answer for instances that are done, in a process of its own and in the feed's idle time.

Works on a few instances at a time, with the same stages as the feed. What was found is recorded beside the findings of
other versions; the analysts' views then show it, because they show what was inferred last. An instance that cannot be
had, read or inferred is counted with its reason and stops nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from models.any_spool import AnySpool
from models.engines.engine import Engine
from models.errors import Reason, Skipped, Transient, Unprocessable
from models.records.base import utc_now
from models.requests import QUEUE_NAMES
from models.spool_header import dataset_sha256
from models.telemetry import get_logger
from worker import rendering, stages
from worker.backfill_selection import Candidate
from worker.engine_set import EngineSet, TaskEngines
from worker.inference import BatchInference
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.outbox import AnyOutbox
from worker.pipeline import PipelineLimits
from worker.retrieval import Retriever
from worker.settlement import Settlement, TaskResult

log = get_logger("worker.backfill")

RECORDED: Final = "recorded"
KNOWN: Final = "left alone: answered, replaced or taken back meanwhile"
NOT_ROUTED: Final = "left alone: the routing rules give it another task, or none"
CHANGED: Final = "refused: its bytes are not those that were received"
REFUSED: Final = "refused"
NOT_HAD: Final = "not had"

Tally = Counter[tuple[str, str]]
"""How many instances, by what became of each and why."""


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """How it is done.

    Attributes:
        rate_per_minute: instances at most; 0 means as fast as it goes.
        accept_changed: whether an instance counts whose bytes a PACS has changed since they were received.
        deliver: whether outputs are made and sent.
    """

    rate_per_minute: float
    accept_changed: bool
    deliver: bool


def queues_are_empty(redis: Redis) -> bool:
    """Whether nothing waits and nothing is in a worker's hands; a Redis that does not answer says nothing."""
    try:
        for name in QUEUE_NAMES:
            queue = Queue(name, connection=redis, serializer=JSONSerializer)
            # An entry whose heartbeat has run out is of a dead worker; it is queued again by and by.
            started = redis.zcount(queue.started_job_registry.key, time.time(), "+inf")
            if queue.count or started or redis.llen(queue.intermediate_queue_key):
                return False
    except RedisError:
        return False
    return True


class Backfill:
    """Runs the engine of a version over candidates; `stop` may be set at any moment."""

    def __init__(
        self,
        *,
        spool: AnySpool,
        outbox: AnyOutbox,
        engine: Engine,
        context: stages.StageContext,
        settlement: Settlement,
        retriever: Retriever | None,
        limits: PipelineLimits,
        metrics: WorkerMetrics,
        options: BackfillOptions,
        is_idle: Callable[[], bool],
        poll_s: float,
        stop: threading.Event,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._engine = engine
        self._engines = EngineSet({engine.manifest.task: TaskEngines(engine)})
        self._context = context
        self._settlement = settlement
        self._retriever = retriever
        self._limits = limits
        self._inference = BatchInference(metrics)
        self._options = options
        self._is_idle = is_idle
        self._poll_s = poll_s
        self._stop = stop
        self._pool: Any = None
        self.tally: Tally = Counter()

    def run(self, candidates: Sequence[Candidate], advance: Callable[[int], None]) -> bool:
        """Take the candidates in their order; `advance` is told how many more are dealt with.

        Returns:
            False when it was stopped before the end.

        Raises:
            Transient: the database is away; what was recorded stays.
        """
        began, taken = time.monotonic(), 0
        self._pool = ProcessPool(
            max_workers=min(self._limits.decoders, self._group_size()),
            initializer=stages.initialise,
            initargs=[self._context],
            context=_forkserver(),
        )
        try:
            for group in _groups(candidates, self._group_size()):
                due = began + taken * 60 / self._options.rate_per_minute if self._options.rate_per_minute else began
                if self._stop.wait(max(0.0, due - time.monotonic())) or not self._wait_until_idle():
                    return False
                self._take(group)
                taken += len(group)
                advance(len(group))
            return True
        finally:
            self._pool.stop()
            self._pool.join()
            if self._retriever is not None:
                self._retriever.release()

    def _group_size(self) -> int:
        """Give what is taken at once: a batch, but no more than is due in a second."""
        rate = self._options.rate_per_minute
        return self._limits.max_batch if not rate else max(1, min(self._limits.max_batch, int(rate // 60)))

    def _wait_until_idle(self) -> bool:
        waiting = False
        while not self._stop.is_set():
            if self._is_idle():
                return True
            if not waiting:
                log.info("backfill_waits", reason="the queues are not empty, or Redis does not answer")
                waiting = True
            self._stop.wait(self._poll_s)
        return False

    def _take(self, group: Sequence[Candidate]) -> None:
        with self._files(group) as files:
            items = self._prepare(files)
            sound = [item for _, item, _ in items if item.refusal is None]
            if sound:
                self._inference.infer(sound)
            for candidate, item, path in items:
                self._record(candidate, item, path)

    # Files

    @contextmanager
    def _files(self, group: Sequence[Candidate]) -> Iterator[list[tuple[Candidate, Path]]]:
        """Give the files of those that can be had; fetched ones are removed afterwards."""
        fetched: list[Path] = []
        files: list[tuple[Candidate, Path]] = []
        try:
            for candidate in group:
                path = self._kept(candidate)
                if path is None and self._retriever is not None:
                    path = self._fetched(candidate, self._retriever, fetched)
                elif path is None:
                    self._count(candidate, NOT_HAD, "not in the archive, and no PACS to ask")
                if path is not None and self._is_unchanged(candidate, path):
                    files.append((candidate, path))
            yield files
        finally:
            for path in fetched:
                path.unlink(missing_ok=True)

    def _kept(self, candidate: Candidate) -> Path | None:
        try:
            return self._spool.find_archived(candidate.request.spool_key)
        except Transient as error:
            self._count(candidate, NOT_HAD, str(error.reason.value))
            return None

    def _fetched(self, candidate: Candidate, retriever: Retriever, fetched: list[Path]) -> Path | None:
        if candidate.study_instance_uid is None or candidate.series_instance_uid is None:
            self._count(candidate, NOT_HAD, "its study is not known, so no PACS can be asked")
            return None
        # Under the spool: as well guarded as what is received, and swept away should we be killed.
        path = self._spool.incoming_path()
        fetched.append(path)
        try:
            retriever.fetch(candidate, path)
        except (Transient, Unprocessable) as error:
            self._count(candidate, NOT_HAD, f"PACS: {error}")
            return None
        return path

    def _is_unchanged(self, candidate: Candidate, path: Path) -> bool:
        try:
            digest = dataset_sha256(path)
        except (OSError, ValueError):
            self._count(candidate, NOT_HAD, "its file cannot be read")
            return False
        if digest != candidate.request.content_sha256 and not self._options.accept_changed:
            self._count(candidate, CHANGED, "")
            return False
        return True

    # Stages

    def _prepare(self, files: list[tuple[Candidate, Path]]) -> list[tuple[Candidate, Item, Path]]:
        prepared = []
        for candidate, path in files:
            item = Item(candidate.request, time.monotonic(), self._engines.current)
            arguments = [str(path), candidate.request, item.generation.packed_plans]
            future = self._pool.schedule(stages.prepare, args=arguments, timeout=self._limits.decode_timeout_s)
            prepared.append((candidate, item, path, future))
        for _, item, _, future in prepared:
            try:
                item.prepared = future.result()
                item.refusal = item.prepared.refusal if item.prepared else None
            except FutureTimeout:
                item.refusal = Unprocessable(Reason.DECODE_TIMEOUT)
            except ProcessExpired:
                item.refusal = Unprocessable(Reason.DECODER_CRASHED)
        return [(candidate, item, path) for candidate, item, path, _ in prepared]

    def _record(self, candidate: Candidate, item: Item, path: Path) -> None:
        if isinstance(item.refusal, Skipped):
            self._count(candidate, NOT_ROUTED, item.refusal.reason.value)
            return
        if item.refusal is not None:
            self._count(candidate, REFUSED, item.refusal.reason.value)
            return
        answer = item.answers[self._engine.manifest.task]
        request = candidate.request
        try:
            outputs = self._outputs(candidate, item, path)
            self._outbox.publish(output.written.file_name for output in outputs)
            result = TaskResult(answer.manifest, answer.engine, answer.finding, outputs)
            written = self._settlement.supplement(request.sop_instance_uid, request.content_sha256, result, utc_now())
        except Transient:
            raise
        except SQLAlchemyError as error:
            log.error("finding_refused_by_database", sop_instance_uid=request.sop_instance_uid, exc_info=error)
            self._count(candidate, REFUSED, Reason.INTERNAL_ERROR.value)
            return
        self._count(candidate, RECORDED if written else KNOWN, "")

    def _outputs(self, candidate: Candidate, item: Item, path: Path) -> tuple[rendering.MadeOutput, ...]:
        """Make the outputs, where some are wanted; a finding stands without them."""
        if not self._options.deliver or item.prepared is None or not self._context.kinds:
            return ()
        answer = item.answers[self._engine.manifest.task]
        order = rendering.RenderOrder(
            source_path=str(path),
            source_sop_instance_uid=candidate.request.sop_instance_uid,
            revision=candidate.revision,
            display=item.prepared.display,
            manifest=answer.manifest,
            engine=answer.engine,
            finding=answer.finding,
            outbox=str(self._outbox.root),
            kinds=self._context.kinds,
        )
        try:
            future = self._pool.schedule(rendering.render, args=[order], timeout=self._limits.decode_timeout_s)
            rendered: rendering.Rendered = future.result()
        except Exception as error:
            log.error("output_not_made", sop_instance_uid=candidate.request.sop_instance_uid, exc_info=error)
            self.tally["output not made", type(error).__name__] += 1
            return ()
        for kind, error_name in rendered.failed.items():
            log.error(
                "output_not_made",
                sop_instance_uid=candidate.request.sop_instance_uid,
                kind=kind.value,
                error=error_name,
            )
            self.tally["output not made", f"{kind.value}: {error_name}"] += 1
        return rendered.outputs

    def _count(self, candidate: Candidate, what: str, why: str) -> None:
        self.tally[what, why] += 1
        if what != RECORDED:
            log.warning(
                "backfill_not_recorded", sop_instance_uid=candidate.request.sop_instance_uid, what=what, why=why
            )


def _groups(candidates: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    for first in range(0, len(candidates), size):
        yield candidates[first : first + size]


def _forkserver() -> Any:
    import multiprocessing

    # Forking a process with an ONNX Runtime session can deadlock the child.
    return multiprocessing.get_context("forkserver")
