"""Runs a batch of prepared instances through the engines that each was prepared for.

An engine that fails is dealt with by what it is:

- a canary: the active version answers for the whole batch, at once;
- an active one, on a batch: each instance is tried alone, so that one cannot fail the others;
- an active one, on one instance: that instance is refused, unless the engine's device is lost.

A GPU whose context broke fails whatever it is given until the process ends. It is known by a blank image that it does
not answer either; then nothing is refused: `DeviceLost` ends the pipeline, and the instances stay in the spool.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Engine, Outputs
from models.errors import Reason, Transient, Unprocessable
from models.tasks import Task
from models.telemetry import get_logger
from worker.engine_set import TaskEngines
from worker.findings import read_finding
from worker.item import Answer, Item
from worker.metrics import WorkerMetrics
from worker.source_image import SourceImage
from worker.stages import StageTimes

log = get_logger("worker.inference")

PROBES: Final = 3
"""Blank images that an engine must fail on, one after the other, until its device counts as lost."""
PROBE_PAUSE_S: Final = 0.5
"""Before each probe but the first: memory that another process took may come back meanwhile."""

_CPU: Final = "cpu"
"""The device that cannot be lost."""


class DeviceLost(Transient):
    """Nothing can be inferred by this process any more; another one may."""


class BatchInference:
    """Fills in the answers of instances, or why there are none; one batch at a time.

    Args:
        metrics: of the worker.
        pause: waits so many seconds.
    """

    def __init__(self, metrics: WorkerMetrics, pause: Callable[[float], None] = time.sleep) -> None:
        self._metrics = metrics
        self._pause = pause
        self._told: dict[Task, weakref.ref[Engine]] = {}

    def infer(self, batch: Iterable[Item]) -> None:
        """Infer instances without a refusal; those whose engine fails or answers nonsense get one.

        Raises:
            DeviceLost: instances of the batch may lack answers without being at fault.
        """
        batch = list(batch)
        for task, canary, items in _by_engine(batch, _canary_of):
            self._try_canary(task, canary, items)
        for task, active, items in _by_engine(batch, _active_of):
            for group, outputs in self._run(task, active, items):
                for index, item in enumerate(group):
                    try:
                        self._read(item, active, outputs, index)
                    except Unprocessable as refusal:
                        item.refusal = refusal

    def _try_canary(self, task: Task, canary: Engine, items: list[Item]) -> None:
        """Let a canary answer; an instance that it leaves without an answer falls to the active version."""
        try:
            outputs = self._timed(task, canary, _stacked(task, canary, items))
        except Exception as error:
            # A canary is there to be tried: whatever it raises, memory included, the feed goes on.
            self._tell_fallen(task, canary, len(items), type(error).__name__, error)
            return
        fallen, reason = 0, ""
        for index, item in enumerate(items):
            try:
                self._read(item, canary, outputs, index)
            except Unprocessable as refusal:
                fallen, reason = fallen + 1, refusal.reason.value
        if fallen:
            self._tell_fallen(task, canary, fallen, reason)

    def _tell_fallen(self, task: Task, canary: Engine, count: int, reason: str, error: Exception | None = None) -> None:
        """Count the instances, and say it once for each time that a canary came into service."""
        self._metrics.canary_fallbacks.labels(task=task.value).inc(count)
        told = self._told.get(task)
        if told is None or told() is not canary:
            self._told[task] = weakref.ref(canary)
            log.error(
                "canary_failed",
                task=task.value,
                version=canary.manifest.version,
                reason=reason,
                batch=count,
                answers="the active version, for these and whenever it happens again",
                exc_info=error,
            )

    def _read(self, item: Item, engine: Engine, outputs: Outputs, index: int) -> None:
        task = engine.manifest.task
        _, image = _fed(item, task, engine)
        if image is None:
            raise Unprocessable(Reason.INTERNAL_ERROR, "inferred, but not prepared")
        finding = read_finding(engine.manifest, outputs, index, image)
        item.answers[task] = Answer(engine.manifest, engine.info, finding)
        self._metrics.observe_score(task, finding.score)
        self._metrics.observe_review(task, finding)

    def _run(self, task: Task, engine: Engine, items: list[Item]) -> list[tuple[list[Item], Outputs]]:
        """Run one engine on a batch; when it fails, on each instance alone, so that one cannot fail the others."""
        images = _stacked(task, engine, items)
        try:
            return [(items, self._timed(task, engine, images))]
        except Transient as error:
            log.error("engine_failed", task=task.value, batch=len(items), exc_info=error)
        if len(items) > 1:
            return [pair for item in items for pair in self._run(task, engine, [item])]
        if engine.info.device != _CPU:
            self._check_device(task, engine)
            try:
                return [(items, self._timed(task, engine, images))]
            except Transient as error:
                log.error("engine_failed_again", task=task.value, exc_info=error)
        items[0].refusal = Unprocessable(Reason.ENGINE_UNAVAILABLE, f"{task.value} engine failed")
        return []

    def _timed(self, task: Task, engine: Engine, images: NDArray[np.float32]) -> Outputs:
        times = StageTimes()
        try:
            with times.measure(f"infer_{task.value}", whole_process=True):
                outputs = engine.run(images)
        finally:
            self._metrics.observe_times(times)
        self._metrics.observe_inputs(task, images)
        return outputs

    def _check_device(self, task: Task, engine: Engine) -> None:
        """See whether an engine that failed on one instance answers a blank image.

        Raises:
            DeviceLost: it does not, several times in a row.
        """
        spec = engine.manifest.input_spec
        blank = np.zeros((1, 1, spec.height, spec.width), np.float32)
        for probe in range(PROBES):
            if probe:
                self._pause(PROBE_PAUSE_S)
            try:
                engine.run(blank)
                return
            except Transient as error:
                failure = error
        log.error(
            "device_lost",
            task=task.value,
            provider=engine.info.provider,
            device=engine.info.device,
            failures=PROBES,
            advice="this process ends for its supervisor to start it anew; what is in hand stays in the spool",
            exc_info=failure,
        )
        raise DeviceLost(
            Reason.ENGINE_UNAVAILABLE, f"{engine.info.device} fails on blank images; start this process again"
        ) from failure


def _by_engine(
    batch: Iterable[Item], engine_of: Callable[[Item, Task], Engine | None]
) -> list[tuple[Task, Engine, list[Item]]]:
    """Group instances that have no answer yet by the engine to ask, task after task; around a swap a task has two."""
    groups: dict[tuple[Task, int], tuple[Task, Engine, list[Item]]] = {}
    for item in batch:
        for task in item.prepared.versions if item.prepared else ():
            engine = engine_of(item, task) if task not in item.answers else None
            if engine is not None:
                groups.setdefault((task, id(engine)), (task, engine, []))[2].append(item)
    return list(groups.values())


def _canary_of(item: Item, task: Task) -> Engine | None:
    """Give the canary where it is the one that an instance was prepared for."""
    engines = _engines(item, task)
    asked = engines.named(item.prepared.versions[task]) if item.prepared else None
    return None if asked is engines.active else asked


def _active_of(item: Item, task: Task) -> Engine:
    return _engines(item, task).active


def _engines(item: Item, task: Task) -> TaskEngines:
    return item.generation.tasks[task]


def _stacked(task: Task, engine: Engine, items: list[Item]) -> NDArray[np.float32]:
    """Give the inputs of instances for one engine: ``(N, 1, H, W) float32 in [0, 1]``."""
    images: NDArray[np.float32] = np.stack([_fed(item, task, engine)[0] for item in items])[:, np.newaxis]
    return images


def _fed(item: Item, task: Task, engine: Engine) -> tuple[NDArray[np.float32], SourceImage | None]:
    """Give what an engine is fed of an instance, ``(H, W) float32``, and what the reader of its answer must know."""
    prepared = item.prepared
    if prepared is None:
        raise Unprocessable(Reason.INTERNAL_ERROR, "inferred, but not prepared")
    fallback = prepared.fallbacks.get(task) if prepared.versions[task] != engine.manifest.version else None
    if fallback is not None:
        return fallback.array, fallback.image
    return prepared.inputs[task], prepared.image
