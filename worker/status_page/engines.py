"""What the status page shows of this worker's engines: what its metrics say runs, and what was refused."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Gauge

from models.tasks import Task
from worker.engine_set import EngineSet, TaskEngines
from worker.metrics import WorkerMetrics
from worker.status_page.facts import EngineFacts

_ROLES = ("active", "canary", "shadow")


def read_engines(metrics: WorkerMetrics, engines: EngineSet) -> tuple[EngineFacts, ...]:
    """Give the engines that run, by task and role, and then the versions that cannot be loaded."""
    tasks = engines.current.tasks
    running = [_running(labels, tasks.get(Task(labels["task"]))) for labels in _shown(metrics.engine_info)]
    refused = [EngineFacts(labels["task"], labels["version"], "refused") for labels in _shown(metrics.engine_refused)]
    return (*sorted(running, key=lambda one: (one.task, _ROLES.index(one.role))), *refused)


def in_hand(metrics: WorkerMetrics) -> int:
    """Give the jobs that this worker has in hand."""
    return int(sum(sample.value for metric in metrics.in_hand.collect() for sample in metric.samples))


def _shown(gauge: Gauge) -> Iterator[dict[str, str]]:
    for metric in gauge.collect():
        yield from (dict(sample.labels) for sample in metric.samples if sample.value)


def _running(labels: dict[str, str], serving: TaskEngines | None) -> EngineFacts:
    role, version = labels["role"], labels["version"]
    device, percent = "", 100.0
    for engine in serving.engines if serving is not None else ():
        if engine.manifest.version == version:
            device = engine.info.device
    if serving is not None and role == "canary":
        percent = serving.canary_percent
    return EngineFacts(labels["task"], version, role, labels["provider"], labels["precision"], device, percent)
