"""Metrics of the SCP, prefix ``radstream_scp_``: one registry in the parent sees every process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from models.any_spool import AnySpool
from models.audit.trail import AuditMetrics
from scp import scoreboard as board
from scp.statuses import AssociationOutcome, StoreStatus
from scp.sweeper import Sweeper

LAG_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)


class ParentMetrics:
    """What the parent itself measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.redis_up = Gauge("radstream_scp_redis_up", "1 when Redis answered last.", registry=registry)
        self.database_up = Gauge("radstream_scp_database_up", "1 when the database answered last.", registry=registry)
        self.audit = AuditMetrics(registry, "radstream_scp")
        self.registrar_lag = Histogram(
            "radstream_scp_registrar_lag_seconds",
            "From the durable file to ledger and queue.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )


class SharedMetrics(Collector):
    """What the receivers count on the scoreboard, and the state of spool and sweeper; read when scraped."""

    def __init__(self, scoreboard: board.Scoreboard, spool: AnySpool, sweeper: Sweeper) -> None:
        self._board = scoreboard
        self._spool = spool
        self._sweeper = sweeper

    def collect(self) -> Iterator[Metric]:
        """Give all families."""
        yield self._associations()
        yield self._instances()
        yield self._stow_requests()
        asked = self._board.total(board.COMMITMENTS_ASKED)
        yield _counter("commitment_requests", "Storage commitment requests that were taken.", asked)
        yield self._store_seconds()
        yield _counter("bytes", "Bytes of accepted datasets.", self._board.total(board.BYTES))
        dropped = self._board.total(board.NOTICES_DROPPED)
        yield _counter("notices_dropped", "Stored instances left to the sweeper at once.", dropped)
        lost = self._board.total(board.AUDIT_DROPPED)
        yield _counter("receiver_audit_dropped", "Audit messages that receivers lost.", lost)
        yield _counter("sweeps", "Sweeps of the spool.", self._sweeper.sweeps)
        yield _counter("swept_instances", "Instances queued by sweeps.", self._sweeper.swept)
        open_now = self._board.total(board.ASSOCIATIONS)
        yield _gauge("open_associations", "Associations open now.", open_now)
        yield _gauge("receivers", "Receiving processes that accept.", self._board.total(board.READY))
        yield _gauge("spool_pending", "Accepted, unfinished instances.", self._board.pending())
        spool_up = self._sweeper.spool_up
        yield _gauge("object_store_up", "1 when the last sweep could list the bucket, or there is none.", spool_up)
        oldest = self._sweeper.oldest_age_s()
        yield _gauge("spool_oldest_seconds", "Age of the oldest accepted, unfinished instance.", oldest)
        try:
            yield _gauge("spool_free_bytes", "Bytes free on the disk of the spool.", self._spool.free_bytes())
        except OSError:
            return  # absent says that the disk does not answer; a number would be a lie

    def _associations(self) -> Metric:
        family = CounterMetricFamily(
            "radstream_scp_associations", "Connections that ended, by outcome.", labels=["outcome"]
        )
        for outcome in AssociationOutcome:
            family.add_metric([outcome.value], self._board.total(board.outcome_name(outcome)))
        return family

    def _instances(self) -> Metric:
        family = CounterMetricFamily(
            "radstream_scp_instances", "Instances answered, by status; C-STORE and STOW-RS.", labels=["status"]
        )
        for status in StoreStatus:
            family.add_metric([status.label], self._board.total(board.status_name(status)))
        return family

    def _stow_requests(self) -> Metric:
        family = CounterMetricFamily("radstream_scp_stow_requests", "STOW-RS answers, by HTTP status.", labels=["code"])
        for answer in (*board.STOW_ANSWERS, board.OTHER_ANSWER):
            family.add_metric([str(answer)], self._board.total(board.answer_name(answer)))
        return family

    def _store_seconds(self) -> Metric:
        bounds = [*map(str, board.STORE_SECONDS_BOUNDS), "+Inf"]
        counts = [self._board.total(board.bucket_name(index)) for index in range(len(bounds))]
        return HistogramMetricFamily(
            "radstream_scp_store_seconds",
            "From the command set of a C-STORE, or the start of a part of STOW-RS, to its answer.",
            buckets=list(zip(bounds, accumulate(counts), strict=True)),
            sum_value=self._board.total(board.STORE_MICROSECONDS) / 1e6,
        )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"radstream_scp_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"radstream_scp_{name}", text, value=value)
