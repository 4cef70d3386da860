"""Metrics of the worker and of the delivery process. Labels come from closed sets; UIDs never are labels."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from models.audit.trail import AuditMetrics
from models.errors import Reason
from models.pixels.lung_fields import LungFields
from models.records.dicom import InstanceState
from models.requests import InferenceRequest
from models.tasks import Task
from worker.findings import Finding
from worker.spine_finding import LandmarkFinding
from worker.stages import StageTimes

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
SCORES: Final = tuple(round(step / 20, 2) for step in range(1, 21))


class WorkerMetrics:
    """What `python -m worker run` shows of itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.audit = AuditMetrics(registry, "radstream_worker")
        self.batch_size = Histogram(
            "radstream_worker_batch_size",
            "Instances per engine call.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "radstream_worker_stage_seconds", "Wall time by stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self.stage_cpu_seconds = Counter(
            "radstream_worker_stage_cpu_seconds", "CPU time by stage.", ["stage"], registry=registry
        )
        self.queue_wait = Histogram(
            "radstream_worker_queue_wait_seconds",
            "From the C-STORE response to being taken in hand.",
            buckets=SECONDS,
            registry=registry,
        )
        self.feed_latency = Histogram(
            "radstream_worker_feed_latency_seconds",
            "From the C-STORE response to settled.",
            buckets=SECONDS,
            registry=registry,
        )
        self.instances = Counter(
            "radstream_worker_instances",
            "Instances settled, by outcome and reason code.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.inferences = Counter("radstream_worker_inferences", "Findings by task.", ["task"], registry=registry)
        self.scores = Histogram(
            "radstream_worker_score",
            "Probability of the positive label; of csi, mean CSI as a part of 3, the largest; of landmarks, their mean"
            " confidence.",
            ["task"],
            buckets=SCORES,
            registry=registry,
        )
        self.input_means = Histogram(
            "radstream_worker_input_mean",
            "Mean grey value of inputs in [0, 1]; a shift means another scanner or another windowing.",
            ["task"],
            buckets=SCORES,
            registry=registry,
        )
        self.lungs_not_found = Counter(
            "radstream_worker_lungs_not_found",
            "Instances on which a task asked for the lungs and none were found: its zones divide the whole image.",
            registry=registry,
        )
        self.reviews = Counter(
            "radstream_worker_reviews",
            "Findings that a person should look at: landmarks of low confidence or of no plausible spine.",
            ["task"],
            registry=registry,
        )
        self.outputs_failed = Counter(
            "radstream_worker_outputs_failed", "Findings whose output could not be made.", ["task"], registry=registry
        )
        self.in_hand = Gauge("radstream_worker_jobs_in_hand", "Jobs in any stage.", registry=registry)
        self.queue_depth = Gauge(
            "radstream_queue_depth", "Jobs by queue and state.", ["queue", "state"], registry=registry
        )
        self.requeued = Counter(
            "radstream_worker_requeued", "Jobs of dead workers put back in their queue.", registry=registry
        )
        self.engine_info = Gauge(
            "radstream_worker_engine_info",
            "1 for each engine that runs; its role is active, canary or shadow.",
            ["task", "version", "provider", "precision", "role"],
            registry=registry,
        )
        self.engine_refused = Gauge(
            "radstream_worker_engine_refused",
            "1 for each version that is to serve and cannot be loaded, while another serves in its place or none; the"
            " version is empty where active.json itself cannot be read.",
            ["task", "version"],
            registry=registry,
        )
        self.swaps = Counter(
            "radstream_worker_swaps",
            "By outcome: swapped or withdrawn, of the active and the canary version; refused, of any that is to run.",
            ["task", "outcome"],
            registry=registry,
        )
        self.canary_fallbacks = Counter(
            "radstream_worker_canary_fallbacks",
            "Instances that the active version answered because the canary failed on them.",
            ["task"],
            registry=registry,
        )
        self.shadow_findings = Counter(
            "radstream_worker_shadow_findings",
            "Instances for a version in the shadow, by outcome: recorded, dropped (it was behind, or not fed) or"
            " failed.",
            ["task", "outcome"],
            registry=registry,
        )
        self.redis_up = Gauge("radstream_worker_redis_up", "1 while Redis answers.", registry=registry)
        self.database_up = Gauge("radstream_worker_database_up", "1 while the database answers.", registry=registry)
        self.object_store_up = Gauge(
            "radstream_worker_object_store_up",
            "1 while the bucket of the spool answers, or there is none.",
            registry=registry,
        )
        self.object_store_up.set(1)
        self.object_store_seconds = Histogram(
            "radstream_worker_object_store_seconds",
            "What one operation on the bucket of spool and outbox took, failed ones too.",
            labelnames=["operation"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0),
            registry=registry,
        )

    def observe_object_store(self, operation: str, seconds: float) -> None:
        """Add one operation on the bucket."""
        self.object_store_seconds.labels(operation=operation).observe(seconds)

    def observe_times(self, times: StageTimes) -> None:
        """Add the stages of one instance or batch."""
        for stage, seconds in times.wall_s.items():
            self.stage_seconds.labels(stage=stage).observe(seconds)
        for stage, seconds in times.cpu_s.items():
            self.stage_cpu_seconds.labels(stage=stage).inc(seconds)

    def observe_inputs(self, task: Task, images: NDArray[np.float32]) -> None:
        """Add a batch of inputs, ``(N, 1, H, W) float32 in [0, 1]``."""
        for mean in images.mean(axis=(1, 2, 3)):
            self.input_means.labels(task=task.value).observe(float(mean))

    def observe_score(self, task: Task, score: float | None) -> None:
        """Add one answer, in [0, 1]; None for an answer without a score, which counts as a finding all the same."""
        self.inferences.labels(task=task.value).inc()
        if score is not None:
            self.scores.labels(task=task.value).observe(score)

    def observe_review(self, task: Task, finding: Finding) -> None:
        """Add a finding that a person should look at; others do not count."""
        if isinstance(finding, LandmarkFinding) and finding.review:
            self.reviews.labels(task=task.value).inc()

    def observe_lungs(self, fields: LungFields | None) -> None:
        """Add where the lungs of an instance are; None where no task asked."""
        if fields is not None and not fields.found:
            self.lungs_not_found.inc()

    def observe_outcome(
        self, request: InferenceRequest, state: InstanceState | None, reason: Reason | None, tasks: list[Task]
    ) -> None:
        """Add one settled instance."""
        outcome = state.value if state else "already_settled"
        self.instances.labels(outcome=outcome, reason=reason.value if reason else "").inc()
        self.feed_latency.observe(max(0.0, time.time() - request.received_at))


class DeliveryMetrics:
    """What `python -m worker deliver` shows of itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.audit = AuditMetrics(registry, "radstream_delivery")
        self.attempts = Counter(
            "radstream_delivery_attempts",
            "Attempts by destination and outcome (delivered, retry, dead).",
            ["destination", "outcome"],
            registry=registry,
        )
        self.commitments = Counter(
            "radstream_delivery_commitments",
            "Outputs by destination and what became of their commitment (asked, retry, committed, sent_again, dead).",
            ["destination", "outcome"],
            registry=registry,
        )
        self.summaries = Counter(
            "radstream_delivery_summaries",
            "Study summaries by outcome (made, known, overtaken, skipped, failed).",
            ["outcome"],
            registry=registry,
        )
        self.summary_seconds = Histogram(
            "radstream_delivery_summary_seconds",
            "Wall time of making one study summary.",
            buckets=SECONDS,
            registry=registry,
        )
        self.pending = Gauge("radstream_delivery_pending", "Outputs to be sent.", ["destination"], registry=registry)
        self.dead = Gauge("radstream_delivery_dead", "Outputs given up.", ["destination"], registry=registry)
        self.oldest = Gauge(
            "radstream_delivery_oldest_pending_seconds",
            "Age of the oldest output to be sent.",
            ["destination"],
            registry=registry,
        )
        self.latency = Histogram(
            "radstream_delivery_latency_seconds",
            "From the C-STORE response to the sender to delivered.",
            ["destination"],
            buckets=SECONDS,
            registry=registry,
        )
        self.send_seconds = Histogram(
            "radstream_delivery_send_seconds", "Wall time of one C-STORE.", buckets=SECONDS, registry=registry
        )
