"""A worker at the queue without a pipeline, for tests."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry
from redis import Redis

from models.errors import Reason
from models.records.dicom import InstanceState
from models.requests import InferenceRequest
from worker.batch_worker import BatchWorker, WorkerTimes
from worker.maintenance import Maintenance
from worker.metrics import WorkerMetrics
from worker.settling import Done


class _InThread(BatchWorker):
    """A batch worker that a test runs in a thread, where Python takes no signal handlers."""

    def _install_signal_handlers(self) -> None:
        """No handlers."""

    def stop(self) -> None:
        """What SIGTERM does."""
        self._stop_requested = True


class Hand:
    """A worker with a pipeline that holds what it is given until the test says what became of it."""

    def __init__(self, redis: Redis, name: str, prefetch: int = 16, max_attempts: int = 3, **times: float) -> None:
        self.submitted: list[InferenceRequest] = []
        self.given_up: list[tuple[str, int]] = []
        self.give_up_errors: list[Exception] = []
        self.pipeline_alive = True
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.returned: bool | None = None
        defaults = {
            "poll_interval_s": 0.01,
            "heartbeat_interval_s": 0.1,
            "job_heartbeat_ttl_s": 30,
            "maintenance_interval_s": 0.1,
            "stop_grace_s": 10.0,
        }
        self.worker = _InThread(
            redis,
            name=name,
            prefetch=prefetch,
            times=WorkerTimes(**{**defaults, **times}),  # type: ignore[arg-type]
            submit=self.submitted.append,
            pipeline_alive=lambda: self.pipeline_alive,
            maintenance=Maintenance(max_attempts=max_attempts, give_up=self._give_up, metrics=self.metrics),
            metrics=self.metrics,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _give_up(self, request: InferenceRequest, attempts: int) -> None:
        if self.give_up_errors:
            raise self.give_up_errors.pop()
        self.given_up.append((request.sop_instance_uid, attempts))

    def _run(self) -> None:
        self.returned = self.worker.run()

    def start(self) -> Hand:
        self._thread.start()
        return self

    def end(self, *uids: str, state: InstanceState | None = InstanceState.DONE, reason: Reason | None = None) -> None:
        """Let the pipeline be done with instances."""
        for request in [request for request in self.submitted if request.sop_instance_uid in uids]:
            self.worker.on_done(Done(request, state, reason))

    def stop(self) -> bool | None:
        self.worker.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.returned

    def die(self) -> None:
        """Leave everything as it is, like a killed process."""
        # The loop ends by itself; what it held is neither finished nor given back.
        self.worker._leave = lambda: None  # type: ignore[method-assign]
        self.worker._times = WorkerTimes(0.01, 1000, 1, 1000, 0)
        self.stop()

    @property
    def uids(self) -> list[str]:
        return [request.sop_instance_uid for request in self.submitted]
