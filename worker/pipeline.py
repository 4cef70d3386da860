"""The pipeline of one worker: prepare, infer, render, settle, each stage working while the others do.

::

    submit ──> decoding processes ──> infer thread ──> decoding processes ──> settle thread ──> on_done
               read, route, decode    batches          overlay, output       one transaction

Batches form in front of the engine and in front of the database, not by holding instances back: a lone instance
goes straight through. Every instance submitted comes out of ``on_done`` exactly once, whatever happens to it, unless
the pipeline is stopped with it in hand; it is then still in the spool. Where the spool is a bucket, files are fetched
before the first stage and outputs published before the last, see `worker.carrier`.

Engines may be swapped at any moment, see `worker.engine_set`; a version in the shadow gets what is settled, see
`worker.shadow`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from models.any_spool import AnySpool
from models.errors import Reason, Unprocessable
from models.object_spool import ObjectSpool
from models.records.base import utc_now
from models.records.outputs import OutputKind
from models.requests import InferenceRequest
from models.tasks import Task
from models.telemetry import get_logger
from worker import rendering, stages
from worker.carrier import Carrier
from worker.engine_set import EngineSet
from worker.inference import BatchInference, DeviceLost
from worker.item import Item
from worker.metrics import WorkerMetrics
from worker.outbox import AnyOutbox
from worker.output_orders import OutputOrders
from worker.rendering import MadeOutput
from worker.settlement import Settlement
from worker.settling import Done, SettlingStage
from worker.shadow import ShadowRunner

log = get_logger("worker.pipeline")


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
        spool: AnySpool,
        outbox: AnyOutbox,
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
        self._engines = engines
        self._limits = limits
        self._metrics = metrics
        self._inference = BatchInference(metrics)
        self._orders = OutputOrders(spool, outbox, context, revision_of)
        self._pool = ProcessPool(
            max_workers=limits.decoders, initializer=stages.initialise, initargs=[context], context=_spawn_context()
        )
        self._prepared: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._decoding = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._broken = threading.Event()
        self._carrier = Carrier(spool, outbox, metrics, self._stopping) if isinstance(spool, ObjectSpool) else None
        settling = SettlingStage(
            ready=self._ready,
            most=limits.max_batch * 4,
            spool=spool,
            settlement=settlement,
            metrics=metrics,
            stopping=self._stopping,
            on_done=on_done,
            shadows=shadows,
            carrier=self._carrier,
        )
        self._threads = [
            threading.Thread(target=self._infer_forever, name="infer", daemon=True),
            threading.Thread(target=settling.run, name="settle", daemon=True),
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
        if self._carrier is None:
            self._prepare(item, self._spool.local_path(request.spool_key))
        else:
            self._carrier.fetch(item, partial(self._prepare, item))

    @property
    def object_store_up(self) -> bool:
        """Whether the bucket of the spool answered last time; True where there is none."""
        return self._carrier is None or self._carrier.is_up

    def stop(self, timeout_s: float) -> None:
        """End the stages; instances still in hand stay in the spool."""
        self._stopping.set()
        self._prepared.put(None)
        self._threads[0].join(timeout_s)
        self._ready.put(None)
        self._threads[1].join(timeout_s)
        if self._carrier is not None:
            self._carrier.stop()
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

    def _prepare(self, item: Item, path: Path | None) -> None:
        """Have an instance read and decoded; without a path it was refused or postponed on the way."""
        if path is None:
            self._end_preparation(item)
            return
        try:
            future = self._pool.schedule(
                stages.prepare,
                args=[str(path), item.request, item.generation.packed_plans],
                timeout=self._limits.decode_timeout_s,
            )
        except RuntimeError as error:
            self._break(error)
            return
        future.add_done_callback(partial(self._on_prepared, item))

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
        if self._carrier is not None and item.refusal and item.refusal.reason is Reason.SPOOL_FILE_MISSING:
            item.postponed = Reason.OBJECT_STORE_UNAVAILABLE  # the copy is gone, which says nothing of the object
        self._end_preparation(item)

    def _end_preparation(self, item: Item) -> None:
        with self._lock:
            self._decoding -= 1
        self._prepared.put(item)

    # Infer

    def _infer_forever(self) -> None:
        while (batch := self._next_batch()) is not None:
            sound = []
            for item in batch:
                if item.postponed is not None:
                    self._ready.put(item)
                elif item.refusal is not None:
                    self._refuse(item, item.refusal)
                else:
                    sound.append(item)
            if sound:
                self._metrics.batch_size.observe(len(sound))
                try:
                    self._infer(sound)
                except DeviceLost:
                    self._broken.set()  # the batch stays in the spool, for the process that replaces this one
                    return
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
            if item.refusal is not None:
                self._refuse(item, item.refusal)
            else:
                self._render(item)

    # Render

    def _render(self, item: Item) -> None:
        orders = self._orders.of_answers(item)
        if not orders:
            self._hand_over(item)
            return
        item.waiting_for = len(orders)
        for task, order in orders.items():
            future = self._pool.schedule(rendering.render, args=[order], timeout=self._limits.decode_timeout_s)
            future.add_done_callback(partial(self._on_rendered, item, task))

    def _on_rendered(self, item: Item, task: Task, future: Future[rendering.Rendered]) -> None:
        try:
            rendered = future.result()
            self._metrics.observe_times(rendered.times)
            item.outputs[task] = rendered.outputs
            self._tell_failed(item, task, rendered.failed)
        except (CancelledError, BrokenExecutor) as error:
            self._break(error)
            return
        except Exception as error:
            # The finding stands without its outputs; operations see the log and the missing ones.
            log.error("output_not_made", spool_key=item.request.spool_key, task=task.value, exc_info=error)
            self._metrics.outputs_failed.labels(task=task.value).inc()
        with self._lock:
            item.waiting_for -= 1
            last = item.waiting_for == 0
        if last:
            self._hand_over(item)

    def _hand_over(self, item: Item) -> None:
        """Let an instance be settled, once every host can have its outputs."""
        if self._carrier is None:
            self._ready.put(item)
        else:
            self._carrier.publish(item, partial(self._ready.put, item))

    def _tell_failed(self, item: Item, task: Task, failed: Mapping[OutputKind, str]) -> None:
        for kind, error in failed.items():
            log.error(
                "output_not_made", spool_key=item.request.spool_key, task=task.value, kind=kind.value, error=error
            )
            self._metrics.outputs_failed.labels(task=task.value).inc()

    # Refuse

    def _refuse(self, item: Item, refusal: Unprocessable) -> None:
        """Let an instance be settled without findings, after its report is made where a destination wants one."""
        future = self._schedule_report(item.request, refusal)
        if future is None:
            self._hand_over(item)
        else:
            future.add_done_callback(partial(self._on_reported, item))

    def _on_reported(self, item: Item, future: Future[rendering.Rendered]) -> None:
        try:
            rendered = future.result()
            self._metrics.observe_times(rendered.times)
            item.reports = rendered.outputs
        except (CancelledError, BrokenExecutor) as error:
            self._break(error)
            return
        except Exception as error:
            # What could not be analysed may well have no header to make a report of: no defect of ours.
            log.warning("refusal_not_reported", spool_key=item.request.spool_key, error=type(error).__name__)
        self._hand_over(item)

    def report_refusal(self, request: InferenceRequest, refusal: Unprocessable) -> tuple[MadeOutput, ...]:
        """Make the report of an instance that is refused outside the pipeline, and wait for it."""
        future = self._schedule_report(request, refusal)
        try:
            return () if future is None else future.result(self._limits.decode_timeout_s).outputs
        except Exception as error:
            log.warning("refusal_not_reported", spool_key=request.spool_key, error=type(error).__name__)
            return ()

    def _schedule_report(self, request: InferenceRequest, refusal: Unprocessable) -> Future[rendering.Rendered] | None:
        order = self._orders.of_refusal(request, refusal)
        if order is None:
            return None
        try:
            scheduled: Future[rendering.Rendered] = self._pool.schedule(
                rendering.report_refusal, args=[order], timeout=self._limits.decode_timeout_s
            )
        except RuntimeError as error:
            self._break(error)
            return None
        return scheduled


def _spawn_context() -> Any:
    import multiprocessing

    # Forking a process with threads and an ONNX Runtime session can deadlock the child.
    return multiprocessing.get_context("forkserver")
