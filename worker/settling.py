"""The last stage of the pipeline: what became of instances goes to the records, and their files leave the spool."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from models.any_spool import AnySpool
from models.errors import Reason, Transient
from models.records.dicom import InstanceState
from models.requests import InferenceRequest
from models.telemetry import get_logger
from worker.carrier import Carrier
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.settlement import Outcome, Settlement, TaskResult
from worker.shadow import ShadowCase, ShadowRunner
from worker.stages import StageTimes

log = get_logger("worker.settling")

SETTLE_RETRY_S: Final = 1.0
"""Wait between attempts to reach a database that is away."""


@dataclass(frozen=True, slots=True)
class Done:
    """One instance that left the pipeline.

    Attributes:
        state: what the records hold now; None when they already held a result; `received` when it is not settled
            and its file still pending.
    """

    request: InferenceRequest
    state: InstanceState | None
    reason: Reason | None


class SettlingStage:
    """Takes finished items from `ready` and settles them in groups, until it takes None.

    Args:
        ready: instances with answers and outputs, or with a refusal.
        most: instances that one transaction takes.
        stopping: set when waiting for a database that is away is to end.
        on_done: is told of each instance that left.
        carrier: ends several at a time, where the spool is a bucket.
    """

    def __init__(
        self,
        *,
        ready: queue.SimpleQueue[Item | None],
        most: int,
        spool: AnySpool,
        settlement: Settlement,
        metrics: WorkerMetrics,
        stopping: threading.Event,
        on_done: Callable[[Done], None],
        shadows: ShadowRunner | None,
        carrier: Carrier | None = None,
    ) -> None:
        self._ready = ready
        self._most = most
        self._spool = spool
        self._settlement = settlement
        self._metrics = metrics
        self._stopping = stopping
        self._on_done = on_done
        self._shadows = shadows
        self._carrier = carrier

    def run(self) -> None:
        """Settle until told that nothing more comes."""
        while (first := self._ready.get()) is not None:
            items, last = [first], False
            while len(items) < self._most:
                try:
                    item = self._ready.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                items.append(item)
            self._settle(items)
            if last:
                return

    def _settle(self, taken: list[Item]) -> None:
        for item in taken:
            if item.postponed is not None:
                self._postpone(item, item.postponed)
        items = [item for item in taken if item.postponed is None]
        if items:
            self._settle_sound(items)

    def _postpone(self, item: Item, reason: Reason) -> None:
        """Let an instance go that is not settled: its file is pending, and the SCP's sweep queues it again."""
        self._spool.drop_copy(item.request.spool_key)
        log.warning("instance_postponed", sop_instance_uid=item.request.sop_instance_uid, reason=reason.value)
        self._on_done(Done(item.request, InstanceState.RECEIVED, reason))

    def _settle_sound(self, items: list[Item]) -> None:
        outcomes = [self._outcome(item) for item in items]
        times = StageTimes()
        with times.measure("settle"):
            states = self._settle_until_done(outcomes)
            if states is None:
                return
            ended = zip(outcomes, states, strict=True)
            if self._carrier is None:
                for outcome, state in ended:
                    self._end_in_spool(outcome, state)
            else:
                self._carrier.for_each(lambda pair: self._end_in_spool(*pair), ended)
        self._metrics.observe_times(times)
        for item, outcome, state in zip(items, outcomes, states, strict=True):
            reason = outcome.refusal.reason if outcome.refusal else None
            self._metrics.observe_outcome(item.request, state, reason, list(item.answers))
            log.info(
                "instance_settled",
                sop_instance_uid=outcome.request.sop_instance_uid,
                state=state.value if state else "already_settled",
                reason=reason.value if reason else None,
                seconds=round(time.monotonic() - item.submitted_at, 3),
            )
            self._on_done(Done(outcome.request, state, reason))
            if state is InstanceState.DONE:
                self._offer_to_shadows(item)

    def _offer_to_shadows(self, item: Item) -> None:
        # Last of all, so that a shadow can neither delay nor fail what it looks at, and finds its records.
        if self._shadows is None or item.prepared is None:
            return
        for task, plan in item.generation.plans.items():
            if plan.shadow is not None and task in item.answers:
                fed = item.prepared.shadows.get(task)
                self._shadows.offer(ShadowCase(task, item.request, item.answers[task], fed))

    def _settle_until_done(self, outcomes: list[Outcome]) -> list[InstanceState | None] | None:
        failing = False
        while True:
            try:
                states = self._settlement.settle(outcomes)
                if failing:
                    log.info("database_back")
                self._metrics.database_up.set(1)
                return states
            except Transient as error:
                self._metrics.database_up.set(0)
                if not failing:
                    log.warning("database_unavailable", waiting=len(outcomes), exc_info=error)
                failing = True
                # Nothing is lost by stopping here: the files are pending, and another worker will settle them.
                if self._stopping.wait(SETTLE_RETRY_S):
                    return None
            except Exception as error:
                log.error("settle_failed", waiting=len(outcomes), exc_info=error)
                if self._stopping.wait(SETTLE_RETRY_S):
                    return None

    def _outcome(self, item: Item) -> Outcome:
        facts = item.prepared.facts if item.prepared else None
        if item.refusal is not None:
            return Outcome(item.request, facts, item.refusal, reports=item.reports)
        results = tuple(
            TaskResult(answer.manifest, answer.engine, answer.finding, item.outputs.get(task, ()))
            for task, answer in item.answers.items()
        )
        return Outcome(item.request, facts, None, results, item.inferred_at)

    def _end_in_spool(self, outcome: Outcome, state: InstanceState | None) -> None:
        # After the commit, never before: until then the file is what makes the instance survive anything.
        key = outcome.request.spool_key
        try:
            if state is InstanceState.FAILED:
                self._spool.set_aside(key)
            elif state is not InstanceState.RECEIVED:
                # What was skipped no version has seen, so none will be asked to see it again.
                self._spool.finish(key, keep=state is not InstanceState.SKIPPED)
        except OSError as error:
            # The sweeper will offer it again, and settling again finds a settled instance.
            log.warning("spool_file_not_finished", spool_key=key, exc_info=error)
