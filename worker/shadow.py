"""Runs versions in the shadow on instances that are already settled, and records what they found apart.

A thread of the lowest priority, a queue of fixed length that drops what does not fit, and transactions of its own: a
shadow can take longer than the feed, fail, or find no database, and no instance notices. Its engines are never those
that serve, so that a slow one holds nobody up. On a GPU the priority says nothing; a shadow's batch then runs beside
those of the feed.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.engines.engine import Engine
from models.errors import Unprocessable
from models.records.base import insert_ignoring, utc_now
from models.records.dicom import Instance
from models.records.shadow import ShadowFinding
from models.requests import InferenceRequest
from models.tasks import Task
from models.telemetry import get_logger
from worker.findings import Finding, read_finding
from worker.item import Answer
from worker.metrics import WorkerMetrics
from worker.shadow_comparison import compare
from worker.stages import OtherInput, StageTimes

log = get_logger("worker.shadow")

_LOWEST_PRIORITY: Final = 19


@dataclass(frozen=True, slots=True)
class ShadowCase:
    """A settled instance for a version in the shadow.

    Attributes:
        live: the answer that counted.
        fed: what the shadow is to see; None where it could not be made.
    """

    task: Task
    request: InferenceRequest
    live: Answer
    fed: OtherInput | None


class ShadowRunner:
    """The versions in the shadow of one worker. They are its own: it closes what it no longer runs."""

    def __init__(
        self, sessions: sessionmaker[Session], metrics: WorkerMetrics, *, max_batch: int, max_waiting: int
    ) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._max_batch = max_batch
        self._waiting: queue.Queue[ShadowCase | None] = queue.Queue(max_waiting)
        self._engines: dict[Task, Engine] = {}
        self._lock = threading.Lock()  # held while an engine runs, so that none is closed meanwhile
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run_forever, name="shadow", daemon=True)
        self._thread.start()

    def serve(self, engines: Mapping[Task, Engine]) -> None:
        """Run these and no others from the next batch on."""
        with self._lock:
            former, self._engines = self._engines, dict(engines)
        kept = {id(engine) for engine in engines.values()}
        for engine in former.values():
            if id(engine) not in kept:
                engine.close()

    def offer(self, case: ShadowCase) -> None:
        """Take a case, or drop it when too many wait; never blocks."""
        try:
            if case.fed is None:
                raise queue.Full
            self._waiting.put_nowait(case)
        except queue.Full:
            self._count(case.task, "dropped", 1)

    def stop(self, timeout_s: float) -> None:
        """End; what waits is dropped."""
        self._stopping.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)  # a full queue wakes the thread by itself
        self._thread.join(timeout_s)
        self.serve({})

    def _run_forever(self) -> None:
        lower_priority()
        while not self._stopping.is_set():
            first = self._waiting.get()
            if first is None or self._stopping.is_set():
                return
            cases = [first]
            while len(cases) < self._max_batch:
                try:
                    case = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if case is None:
                    return
                cases.append(case)
            for task in dict.fromkeys(case.task for case in cases):
                self._run(task, [case for case in cases if case.task is task])

    def _run(self, task: Task, cases: list[ShadowCase]) -> None:
        try:
            with self._lock:
                engine = self._engines.get(task)
                fitting = [] if engine is None else [case for case in cases if _fits(case, engine)]
                found = [] if engine is None or not fitting else self._infer(engine, fitting)
            recorded = 0 if engine is None or not found else self._record(engine, found)
        except Exception as error:
            # Whatever a new version does to its engine, its reader or the records: only the shadow ends here.
            log.error("shadow_failed", task=task.value, batch=len(cases), exc_info=error)
            self._count(task, "failed", len(cases))
            return
        failed = len(fitting) - len(found)
        self._count(task, "recorded", recorded)
        self._count(task, "failed", failed)
        self._count(task, "dropped", len(cases) - recorded - failed)

    def _infer(self, engine: Engine, cases: list[ShadowCase]) -> list[tuple[ShadowCase, Finding]]:
        """Give the findings of a batch; an instance for which the answer is nonsense has none."""
        fed = [(case, case.fed) for case in cases if case.fed is not None]
        times = StageTimes()
        with times.measure("shadow"):
            outputs = engine.run(np.stack([each.array for _, each in fed])[:, np.newaxis])
        self._metrics.observe_times(times)
        found = []
        for index, (case, each) in enumerate(fed):
            try:
                found.append((case, read_finding(engine.manifest, outputs, index, each.image)))
            except Unprocessable as error:
                log.warning("shadow_answer_refused", task=case.task.value, reason=error.reason.value)
        return found

    def _record(self, engine: Engine, found: list[tuple[ShadowCase, Finding]]) -> int:
        """Write findings; one of an instance that was replaced or taken back meanwhile belongs nowhere."""
        recorded = 0
        rows = [(case, _row(engine, case, finding)) for case, finding in found]
        with self._sessions.begin() as session:
            for case, row in rows:
                instance_id = session.scalar(
                    select(Instance.id).where(
                        Instance.sop_instance_uid == case.request.sop_instance_uid,
                        Instance.content_sha256 == case.request.content_sha256,
                        Instance.settled_at.is_not(None),
                    )
                )
                if instance_id is not None:
                    session.execute(insert_ignoring(session, ShadowFinding).values(instance_id=instance_id, **row))
                    recorded += 1
        return recorded

    def _count(self, task: Task, outcome: str, number: int) -> None:
        if number:
            self._metrics.shadow_findings.labels(task=task.value, outcome=outcome).inc(number)


def _fits(case: ShadowCase, engine: Engine) -> bool:
    """Whether this is what the engine wants to see, and another version answered."""
    wanted, version = engine.manifest.input_spec, engine.manifest.version
    return case.fed is not None and case.fed.spec == wanted and case.live.manifest.version != version


def _row(engine: Engine, case: ShadowCase, finding: Finding) -> dict[str, Any]:
    comparison = compare(case.live.finding, finding)
    return {
        "task": case.task,
        "live_version": case.live.manifest.version,
        "shadow_version": engine.manifest.version,
        "live_score": case.live.finding.score,
        "shadow_score": finding.score,
        "agrees": comparison.agrees,
        "difference": comparison.difference,
        "detail": comparison.detail,
        "provider": engine.info.provider,
        "precision": engine.info.precision,
        "inferred_at": utc_now(),
    }


def lower_priority() -> None:
    """Let every other thread go before this one and before those that it starts."""
    if sys.platform == "linux":  # elsewhere the priority is that of the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def load_with_low_priority(load: Callable[[], Engine]) -> Engine:
    """Load an engine so that its own threads have the lowest priority: they inherit it from the one that loads.

    Raises:
        Exception: whatever `load` raises.
    """
    outcome: list[Engine | Exception] = []

    def attempt() -> None:
        lower_priority()
        try:
            outcome.append(load())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, name="shadow-load")
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
