"""An RQ worker that holds many jobs at once and hands them to a pipeline.

RQ's own worker runs one job at a time in a forked process. This one takes jobs as the pipeline has room, tells RQ
that they are started, keeps their heartbeats while the pipeline works, and ends each job on its own when the pipeline
is done with it. `rq info`, rq-dashboard, `rq suspend`, the failed registry and warm shutdown work as with any worker.

Nothing rests on Redis: the spool holds the work and the database the results. A Redis that is away or was flushed
delays taking new jobs; the sweeper of the SCP queues again whatever lies in the spool and in no queue.
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, worker_registration
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from models.errors import Reason, Unprocessable
from models.queues import REDIS_TIMEOUT_S
from models.records.dicom import InstanceState
from models.requests import QUEUE_NAMES, InferenceRequest
from models.telemetry import get_logger
from worker.maintenance import ABANDONED_META_KEY, Maintenance, put_back, take_jobs
from worker.metrics import WorkerMetrics
from worker.settling import Done

log = get_logger("worker.batch_worker")

REDIS_RETRY_S: Final = 1.0
SUSPENSION_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class WorkerTimes:
    """Times in seconds; see `worker.settings.WorkerSettings`."""

    poll_interval_s: float
    heartbeat_interval_s: float
    job_heartbeat_ttl_s: int
    maintenance_interval_s: float
    stop_grace_s: float


@dataclass(slots=True)
class _Held:
    job: Job
    queue: Queue
    execution: Execution


class BatchWorker(BaseWorker):
    """Takes up to `prefetch` jobs, `stat` before `routine`, and ends each as the pipeline is done with it.

    A job whose worker died before (its meta says how often) is run alone, so that an instance which kills its worker
    takes no neighbour with it.
    """

    def __init__(
        self,
        connection: Redis,
        *,
        name: str,
        prefetch: int,
        times: WorkerTimes,
        submit: Callable[[InferenceRequest], None],
        pipeline_alive: Callable[[], bool],
        maintenance: Maintenance,
        metrics: WorkerMetrics,
    ) -> None:
        super().__init__(
            list(QUEUE_NAMES),
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=max(60, times.job_heartbeat_ttl_s),
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._prefetch = prefetch
        self._times = times
        self._submit = submit
        self._pipeline_alive = pipeline_alive
        self._maintenance = maintenance
        self._metrics = metrics
        self._held: dict[str, _Held] = {}
        self._suspect: InferenceRequest | None = None
        self._alone = False
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._registered = False
        self._redis_up = True
        self._suspended = False
        self._heartbeat_due = self._maintenance_due = self._suspension_check_due = 0.0

    @property
    def redis_up(self) -> bool:
        """Whether Redis answered last time."""
        return self._redis_up

    def on_done(self, done: Done) -> None:
        """Take note that the pipeline is done with an instance; called from its threads."""
        self._done.put(done)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop taking jobs and finish those in hand; a second signal ends the process at once."""
        self._shutdown_requested_date = now()
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self._stop_requested = True

    def run(self) -> bool:
        """Work until told to stop.

        Returns:
            True when every job in hand was finished, False when some are left to other workers.
        """
        self._install_signal_handlers()  # type: ignore[no-untyped-call]  # RQ is typed in part
        log.info("worker_started", name=self.name, pid=os.getpid())
        while not self._stop_requested:
            if not self._pipeline_alive():
                log.error("pipeline_died")
                return False
            if not self._turn():
                time.sleep(self._times.poll_interval_s)
        log.info("worker_stopping", in_hand=len(self._held))
        deadline = time.monotonic() + self._times.stop_grace_s
        while self._held and time.monotonic() < deadline:
            self._turn(take=False)
            time.sleep(self._times.poll_interval_s)
        self._leave()
        return not self._held

    def _turn(self, take: bool = True) -> bool:
        """One round of the loop; True when there was something to do."""
        try:
            self._keep_registered()
            busy = self._end_done_jobs()
            if take:
                self._maintain()
                busy = self._take() or busy
            self._say_redis(up=True)
            return busy
        except RedisError as error:
            self._say_redis(up=False, error=error)
            self._forget_done_jobs()
            time.sleep(REDIS_RETRY_S)
            return False

    def _say_redis(self, up: bool, error: RedisError | None = None) -> None:
        self._metrics.redis_up.set(up)
        if up != self._redis_up:
            if up:
                log.info("redis_back")
            else:
                log.warning("redis_unavailable", reason=Reason.REDIS_UNAVAILABLE.value, exc_info=error)
                self._registered = False
        self._redis_up = up

    @property
    def connection_timeout(self) -> int:
        """Longest wait for Redis, s: RQ's own is that of a blocking pop, and here nothing blocks."""
        return int(REDIS_TIMEOUT_S)

    # Registration and heartbeats

    def _keep_registered(self) -> None:
        if time.monotonic() < self._heartbeat_due and self._registered:
            return
        state = WorkerStatus.BUSY if self._held else WorkerStatus.IDLE
        with self.connection.pipeline() as pipeline:
            if not self._registered:
                self.birth_date = now()
                worker_registration.register(self, pipeline)
            self.last_heartbeat = now()
            # The whole mapping each time: after a flush of Redis the worker shows up again.
            pipeline.hset(self.key, mapping=self.serialize())
            self.set_state(state, pipeline=pipeline)
            worker_registration.register(self, pipeline)
            pipeline.expire(self.key, self._times.job_heartbeat_ttl_s + 60)
            for held in self._held.values():
                held.execution.heartbeat(held.queue.started_job_registry, self._times.job_heartbeat_ttl_s, pipeline)
                held.job.heartbeat(self.last_heartbeat, self._times.job_heartbeat_ttl_s, pipeline)
            pipeline.execute()
        if not self._registered:
            self.subscribe()
        self._registered = True
        self._heartbeat_due = time.monotonic() + self._times.heartbeat_interval_s
        self._metrics.in_hand.set(len(self._held))

    def _leave(self) -> None:
        try:
            self.unsubscribe()  # type: ignore[no-untyped-call]
            self.register_death()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("redis_unavailable", reason=Reason.REDIS_UNAVAILABLE.value, exc_info=error)
        log.info("worker_stopped", left_in_hand=len(self._held))

    def subscribe(self) -> None:
        """Listen to RQ's commands (`rq.command`), once."""
        listener: Any = self.pubsub_thread
        if listener is None or not listener.is_alive():
            super().subscribe()  # type: ignore[no-untyped-call]

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        time.sleep(REDIS_RETRY_S)  # the thread tries again by itself; the main loop logs the outage once

    def _maintain(self) -> None:
        if time.monotonic() < self._maintenance_due:
            return
        self._maintenance.run(self)
        self._maintenance_due = time.monotonic() + self._times.maintenance_interval_s

    # Taking

    def _take(self) -> bool:
        if self._is_suspended():
            return False
        if self._suspect is not None or self._alone:
            return self._run_suspect()
        room = self._prefetch - len(self._held)
        taken = take_jobs(self.connection, self.queues, room) if room > 0 else []
        for place, (job, origin) in enumerate(taken):
            if job.meta.get(ABANDONED_META_KEY):
                # Were the others taken along, the next death would be counted against them too.
                put_back(taken[place + 1 :])
                self._suspect = self._start(job, origin)
                break
            request = self._start(job, origin)
            if request is not None:
                self._submit(request)
        return bool(taken)

    def _run_suspect(self) -> bool:
        """Run the suspect when nothing else is in hand; take nothing until it is done."""
        if self._suspect is not None and len(self._held) == 1:
            self._submit(self._suspect)
            self._suspect, self._alone = None, True
        elif not self._held:
            self._suspect, self._alone = None, False
        return False

    def _is_suspended(self) -> bool:
        if time.monotonic() >= self._suspension_check_due:
            self._suspended = bool(is_suspended(self.connection, self))
            self._suspension_check_due = time.monotonic() + SUSPENSION_CHECK_S
        return self._suspended

    def _start(self, job: Job, origin: Queue) -> InferenceRequest | None:
        """Tell RQ that a job is started; give its request, None when it holds none."""
        self._hold(job, origin)
        try:
            (payload,) = job.args
            return InferenceRequest.from_payload(payload)
        except (Unprocessable, DeserializationError, ValueError, TypeError):
            # Not one of our payloads (another version's, or somebody else's): the sweeper makes a new job if need be.
            log.error("job_refused", job_id=job.id, reason=Reason.MALFORMED_DATASET.value)
            self._end(job.id, InstanceState.FAILED, Reason.MALFORMED_DATASET)
            return None

    def _hold(self, job: Job, origin: Queue) -> None:
        with self.connection.pipeline() as pipeline:
            execution = Execution.create(job, self._times.job_heartbeat_ttl_s, pipeline, worker_name=self.name)
            job.prepare_for_execution(self.name, pipeline)
            pipeline.lrem(origin.intermediate_queue_key, 1, job.id)
            self.set_current_job_id(job.id, pipeline=pipeline)
            pipeline.execute()
        self._held[job.id] = _Held(job, origin, execution)

    # Ending

    def _end_done_jobs(self) -> bool:
        ended = False
        while True:
            try:
                done = self._done.get_nowait()
            except queue.Empty:
                return ended
            ended = True
            try:
                self._end(done.request.job_id, done.state, done.reason)
            except RedisError:
                self._done.put(done)
                raise

    def _end(self, job_id: str, state: InstanceState | None, reason: Reason | None) -> None:
        held = self._held.get(job_id)
        if held is None:
            return
        job = held.job
        job.ended_at = now()
        self.execution = held.execution
        if state is InstanceState.FAILED:
            # RQ stores this text in Redis: a reason code, never a traceback.
            job._status = JobStatus.FAILED
            self.handle_job_failure(job, held.queue, exc_string=reason.value if reason else Reason.INTERNAL_ERROR.value)
        else:
            job._status = JobStatus.FINISHED
            job._result = state.value if state else "already_settled"
            self.handle_job_success(job, held.queue, held.queue.started_job_registry)
        del self._held[job_id]
        self._metrics.in_hand.set(len(self._held))

    def _forget_done_jobs(self) -> None:
        """While Redis is away, let go of settled jobs: their results are in the database, Redis only kept the list."""
        while True:
            try:
                self._held.pop(self._done.get_nowait().request.job_id, None)
            except queue.Empty:
                return
