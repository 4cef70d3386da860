"""Every metric that radstream shows, read from the registries of its own processes; nothing is listed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from scp.commitment_reporter import CommitmentReporter
from scp.metrics import ParentMetrics, SharedMetrics
from scp.scoreboard import Scoreboard
from scp.settings import ScpSettings
from worker.metrics import DeliveryMetrics, WorkerMetrics


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as Prometheus has it.

    Attributes:
        name: as in expressions, with ``_total`` for a counter, without ``_bucket``, ``_sum`` and ``_count``.
        kind: counter, gauge or histogram.
        help: what it means.
        labels: names of its labels, without ``le``.
        job: the job of `deploy/prometheus/prometheus.yml` that has it.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    job: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names that an expression may use."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)


@cache
def catalogue() -> dict[str, Family]:
    """Give the families of all processes by name."""
    registries = {"radstream-scp": _scp(), "radstream-worker": _worker(), "radstream-delivery": _delivery()}
    families = [family for job, registry in registries.items() for family in _families(registry, job)]
    return {family.name: family for family in families}


def _scp() -> CollectorRegistry:
    registry = CollectorRegistry()
    ParentMetrics(registry)
    unused = cast(Any, None)
    CommitmentReporter(unused, unused, "RADSTREAM", ScpSettings.model_construct(), registry)
    spool = cast(Any, SimpleNamespace(free_bytes=lambda: 0))
    sweeper = cast(Any, SimpleNamespace(sweeps=0, swept=0, oldest_age_s=lambda: 0.0, spool_up=True))
    registry.register(SharedMetrics(Scoreboard(1), spool, sweeper))
    return registry


def _worker() -> CollectorRegistry:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    return registry


def _delivery() -> CollectorRegistry:
    registry = CollectorRegistry()
    DeliveryMetrics(registry)
    return registry


def _families(registry: CollectorRegistry, job: str) -> Iterator[Family]:
    # A metric with labels has no samples before its first event, so that its labels are asked of the collector.
    collectors = dict.fromkeys(registry._collector_to_names)
    for collector in collectors:
        for metric in collector.collect():
            names = getattr(collector, "_labelnames", None)
            labels = tuple(names) if names is not None else _labels_of(metric)
            name = metric.name + ("_total" if metric.type == "counter" else "")
            yield Family(name, metric.type, metric.documentation, labels, job)


def _labels_of(metric: Metric) -> tuple[str, ...]:
    found = {label for sample in metric.samples for label in sample.labels}
    return tuple(sorted(found - {"le"}))
