"""Runs a batch of prepared instances through the engines that each was prepared for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.engines.engine import Engine, Outputs
from models.errors import Reason, Transient, Unprocessable
from models.tasks import Task
from models.telemetry import get_logger
from worker.findings import read_finding
from worker.item import Answer, Item
from worker.metrics import WorkerMetrics
from worker.stages import StageTimes

log = get_logger("worker.inference")


class BatchInference:
    """Fills in the answers of instances, or why there are none; one batch at a time."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def infer(self, batch: Iterable[Item]) -> None:
        """Infer instances without a refusal; those whose engine fails or answers nonsense get one."""
        for engine, items in _by_engine(batch):
            for group, outputs in self._run(engine, items):
                for index, item in enumerate(group):
                    self._read(item, engine, outputs, index)

    def _read(self, item: Item, engine: Engine, outputs: Outputs, index: int) -> None:
        task = engine.manifest.task
        image = item.prepared.image if item.prepared else None
        try:
            if image is None:
                raise Unprocessable(Reason.INTERNAL_ERROR, "inferred, but not prepared")
            finding = read_finding(engine.manifest, outputs, index, image)
            item.answers[task] = Answer(engine.manifest, engine.info, finding)
            self._metrics.observe_score(task, finding.score)
            self._metrics.observe_review(task, finding)
        except Unprocessable as refusal:
            item.refusal = refusal

    def _run(self, engine: Engine, items: list[Item]) -> list[tuple[list[Item], Outputs]]:
        """Run one engine on a batch; when it fails, on each instance alone, so that one cannot fail the others."""
        task = engine.manifest.task
        images = np.stack([item.prepared.inputs[task] for item in items if item.prepared])[:, np.newaxis]
        self._metrics.observe_inputs(task, images)
        times = StageTimes()
        try:
            with times.measure(f"infer_{task.value}", whole_process=True):
                outputs = engine.run(images)
            return [(items, outputs)]
        except Transient as error:
            log.error("engine_failed", task=task.value, batch=len(items), exc_info=error)
            if len(items) == 1:
                items[0].refusal = Unprocessable(Reason.ENGINE_UNAVAILABLE, f"{task.value} engine failed")
                return []
            return [pair for item in items for pair in self._run(engine, [item])]
        finally:
            self._metrics.observe_times(times)


def _by_engine(batch: Iterable[Item]) -> list[tuple[Engine, list[Item]]]:
    """Group instances by the engine that answers, task after task; around a swap a task has two."""
    groups: dict[tuple[Task, int], tuple[Engine, list[Item]]] = {}
    for item in batch:
        for task, version in item.prepared.versions.items() if item.prepared else ():
            engine = item.generation.tasks[task].named(version)
            groups.setdefault((task, id(engine)), (engine, []))[1].append(item)
    return list(groups.values())
