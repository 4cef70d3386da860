"""The pipeline of one worker: prepare, infer, render, settle, each stage working while the others do.

::

    submit ──> decoding processes ──> infer thread ──> decoding processes ──> settle thread ──> on_done
               read, route, decode    batches          overlay, output       one transaction

Batches form in front of the engine and in front of the database, not by holding instances back: a lone instance
goes straight through. Every instance submitted comes out of ``on_done`` exactly once, whatever happens to it, unless
the pipeline is stopped with it in hand; it is then still in the spool.

Engines may be swapped at any moment, see `worker.engine_set`; a version in the shadow gets what is settled, see
`worker.shadow`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool

from models.errors import Reason, Transient, Unprocessable
from models.records.base import utc_now
from models.records.dicom import InstanceState
from models.requests import InferenceRequest
from models.spool import Spool
from models.tasks import Task
from models.telemetry import get_logger
from worker import stages
from worker.engine_set import EngineSet
from worker.inference import BatchInference
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.outbox import Outbox
from worker.settlement import Outcome, Settlement, TaskResult
from worker.shadow import ShadowCase, ShadowRunner

log = get_logger("worker.pipeline")

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


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Sizes and times, seconds; see `worker.settings.WorkerSettings`."""

    max_batch: int
    max_delay_s: float
    decoders: int
    decode_timeout_s: float


class Pipeline:
    """Threads and processes between the queue and the records."""

    def __init__(
        self,
        *,
        spool: Spool,
        outbox: Outbox,
        engines: EngineSet,
        context: stages.StageContext,
        settlement: Settlement,
        revision_of: Callable[[InferenceRequest], int],
        limits: PipelineLimits,
        metrics: WorkerMetrics,
        on_done: Callable[[Done], None],
        shadows: ShadowRunner | None = None,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._engines = engines
        self._settlement = settlement
        self._revision_of = revision_of
        self._limits = limits
        self._metrics = metrics
        self._on_done = on_done
        self._shadows = shadows
        self._inference = BatchInference(metrics)
        self._renders = context.overlay_max_side > 0
        self._pool = ProcessPool(
            max_workers=limits.decoders, initializer=stages.initialise, initargs=[context], context=_spawn_context()
        )
        self._prepared: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._decoding = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._broken = threading.Event()
        self._threads = [
            threading.Thread(target=self._infer_forever, name="infer", daemon=True),
            threading.Thread(target=self._settle_forever, name="settle", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every stage is running; asking starts the decoding processes."""
        stages_run = not self._broken.is_set() and all(thread.is_alive() for thread in self._threads)
        return stages_run and bool(self._pool.active)

    def submit(self, request: InferenceRequest) -> None:
        """Take one instance in hand."""
        item = Item(request, time.monotonic(), self._engines.hold())
        self._metrics.queue_wait.observe(max(0.0, time.time() - request.received_at))
        with self._lock:
            self._decoding += 1
        try:
            future = self._pool.schedule(
                stages.prepare,
                args=[str(self._spool.path_of(request.spool_key)), request, item.generation.packed_plans],
                timeout=self._limits.decode_timeout_s,
            )
        except RuntimeError as error:
            self._break(error)
            return
        future.add_done_callback(partial(self._on_prepared, item))

    def stop(self, timeout_s: float) -> None:
        """End the stages; instances still in hand stay in the spool."""
        self._stopping.set()
        self._prepared.put(None)
        self._threads[0].join(timeout_s)
        self._ready.put(None)
        self._threads[1].join(timeout_s)
        self._pool.stop()
        self._pool.join(timeout_s)
        self._engines.close()

    def _break(self, error: BaseException) -> None:
        """Note that there are no decoding processes any more (one was killed while idle, say).

        What is in hand stays in the spool: it did nothing wrong, and the process that replaces this one will do it.
        """
        if not self._stopping.is_set() and not self._broken.is_set():
            log.error("decoding_processes_lost", exc_info=error)
        self._broken.set()

    # Prepare

    def _on_prepared(self, item: Item, future: Future[stages.Prepared]) -> None:
        try:
            item.prepared = future.result()
            item.refusal = item.prepared.refusal
            self._metrics.observe_times(item.prepared.times)
            if item.prepared.image is not None:
                self._metrics.observe_lungs(item.prepared.image.lung_fields)
        except FutureTimeout:
            item.refusal = Unprocessable(Reason.DECODE_TIMEOUT, f"after {self._limits.decode_timeout_s:g} s")
        except ProcessExpired:
            item.refusal = Unprocessable(Reason.DECODER_CRASHED)
        except (CancelledError, BrokenExecutor) as error:
            self._break(error)
            return
        except Exception as error:
            log.error("preparation_failed", spool_key=item.request.spool_key, exc_info=error)
            item.refusal = Unprocessable(Reason.INTERNAL_ERROR, type(error).__name__)
        with self._lock:
            self._decoding -= 1
        self._prepared.put(item)

    # Infer

    def _infer_forever(self) -> None:
        while (batch := self._next_batch()) is not None:
            sound = []
            for item in batch:
                if item.refusal is not None:
                    self._ready.put(item)
                else:
                    sound.append(item)
            if sound:
                self._metrics.batch_size.observe(len(sound))
                self._infer(sound)
            for item in batch:
                self._engines.release(item.generation)

    def _next_batch(self) -> list[Item] | None:
        """Wait for the first item, then for more until the batch is full, late, or nothing more is being decoded."""
        first = self._prepared.get()
        if first is None:
            return None
        batch = [first]
        deadline = time.monotonic() + self._limits.max_delay_s
        while len(batch) < self._limits.max_batch:
            try:
                item = self._prepared.get_nowait()
            except queue.Empty:
                with self._lock:
                    more_to_come = self._decoding > 0
                rest = deadline - time.monotonic()
                if not more_to_come or rest <= 0:
                    break
                try:
                    item = self._prepared.get(timeout=min(rest, 0.01))
                except queue.Empty:
                    continue
            if item is None:
                self._prepared.put(None)
                break
            batch.append(item)
        return batch

    def _infer(self, batch: list[Item]) -> None:
        self._inference.infer(batch)
        for item in batch:
            item.inferred_at = utc_now()
            if item.refusal is not None or not self._renders:
                self._ready.put(item)
            else:
                self._render(item)

    # Render

    def _render(self, item: Item) -> None:
        prepared = item.prepared
        if prepared is None or prepared.display is None or not item.answers:
            self._ready.put(item)
            return
        try:
            revision = self._revision_of(item.request)
        except Transient:
            revision = 0  # the database is away; settling waits for it, and a replaced instance is a rare guest
        item.waiting_for = len(item.answers)
        for task, answer in item.answers.items():
            order = stages.RenderOrder(
                source_path=str(self._spool.path_of(item.request.spool_key)),
                source_sop_instance_uid=item.request.sop_instance_uid,
                revision=revision,
                display=prepared.display,
                manifest=answer.manifest,
                engine=answer.engine,
                finding=answer.finding,
                outbox=str(self._outbox.root),
            )
            future = self._pool.schedule(stages.render, args=[order], timeout=self._limits.decode_timeout_s)
            future.add_done_callback(partial(self._on_rendered, item, task))

    def _on_rendered(self, item: Item, task: Task, future: Future[stages.Rendered]) -> None:
        try:
            rendered = future.result()
            self._metrics.observe_times(rendered.times)
            item.rendered[task] = rendered
        except (CancelledError, BrokenExecutor) as error:
            self._break(error)
            return
        except Exception as error:
            # The finding stands without its picture; operations see the log and the missing output.
            log.error("output_not_made", spool_key=item.request.spool_key, task=task.value, exc_info=error)
            self._metrics.outputs_failed.labels(task=task.value).inc()
        with self._lock:
            item.waiting_for -= 1
            last = item.waiting_for == 0
        if last:
            self._ready.put(item)

    # Settle

    def _settle_forever(self) -> None:
        while (first := self._ready.get()) is not None:
            items, last = [first], False
            while len(items) < self._limits.max_batch * 4:
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

    def _settle(self, items: list[Item]) -> None:
        outcomes = [self._outcome(item) for item in items]
        times = stages.StageTimes()
        with times.measure("settle"):
            states = self._settle_until_done(outcomes)
            if states is None:
                return
            for outcome, state in zip(outcomes, states, strict=True):
                self._end_in_spool(outcome, state)
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
            return Outcome(item.request, facts, item.refusal)
        results = tuple(
            TaskResult(answer.manifest, answer.engine, answer.finding, item.rendered.get(task))
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


def _spawn_context() -> Any:
    import multiprocessing

    # Forking a process with threads and an ONNX Runtime session can deadlock the child.
    return multiprocessing.get_context("forkserver")
