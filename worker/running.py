"""The process `run`: puts a batch worker together, and keeps `deliver` (see `worker.delivering`) as its child."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

from prometheus_client import CollectorRegistry
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine as DatabaseEngine
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from migrations.compatibility import SchemaGate
from migrations.presence import Presence
from models.any_spool import AnySpool, open_spool, warn_of_sqlite
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.engines.providers import PRECISIONS, PROVIDERS, load_engine
from models.errors import ConfigurationError, Reason, Transient, Unprocessable
from models.pixels.limits import PixelLimits
from models.queues import open_redis
from models.records.dicom import InstanceState
from models.records.outputs import OutputKind
from models.records.sessions import open_database, session_factory
from models.requests import InferenceRequest
from models.settings import Settings
from models.store.store import ModelStore
from models.telemetry import Page, TelemetryServer, get_logger
from worker.batch_worker import BatchWorker, WorkerTimes
from worker.engine_set import EngineSet
from worker.engine_watch import EngineWatch, Load
from worker.maintenance import Maintenance
from worker.metrics import WorkerMetrics
from worker.outbox import AnyOutbox, open_outbox
from worker.pipeline import Pipeline, PipelineLimits
from worker.routing import Routing
from worker.settings import WorkerSettings
from worker.settlement import Outcome, Settlement, known_revision
from worker.settling import Done
from worker.shadow import ShadowRunner
from worker.source import IdentityPolicy
from worker.stages import StageContext
from worker.status_page.pages import pages_of_worker

log = get_logger("worker.running")

WAIT_FOR_SERVICES_S = 2.0
DELIVERY_RESTART_S = 5.0


def engine_loader(own: WorkerSettings) -> Load:
    """Say how versions become engines here.

    Raises:
        ConfigurationError: no provider or precision has the name that is set.
    """
    if own.engine_provider not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise ConfigurationError(
            f"RADSTREAM_WORKER_ENGINE_PROVIDER: {own.engine_provider} is unknown; known are {known}"
        )
    if own.engine_precision not in PRECISIONS:
        raise ConfigurationError(
            f"RADSTREAM_WORKER_ENGINE_PRECISION: {own.engine_precision} is unknown; known are {', '.join(PRECISIONS)}"
        )
    threads = own.engine_threads or None
    return partial(load_engine, provider=own.engine_provider, threads=threads, precision=own.engine_precision)


def connect_redis(settings: Settings) -> Redis:
    """Make a Redis client that fails soon, so that its callers decide how to wait.

    Raises:
        ConfigurationError: the URL is not one.
    """
    return open_redis(settings.redis_url.get_secret_value())


def check_schema(database: DatabaseEngine) -> None:
    """See that this code may use the database: it is migrated, and not made for newer code alone.

    Raises:
        ConfigurationError: it may not, and what to type.
        SQLAlchemyError: it does not answer.
    """
    SchemaGate(database).check()


def be_present(database: DatabaseEngine, kind: str, closing: ExitStack) -> None:
    """Say in the database that this process is there; stop it in good order when it is too old for it."""
    presence = Presence(database, kind, leave=lambda: os.kill(os.getpid(), signal.SIGTERM))
    presence.start()
    closing.callback(presence.stop)


def tell_life(trail: AuditTrail, closing: ExitStack) -> None:
    """Begin an audit trail, tell that this process has started, and at its end that it stops."""
    closing.callback(trail.stop)
    closing.callback(trail.say_stopping)
    trail.start()
    trail.say_started()


def run(
    settings: Settings,
    own: WorkerSettings,
    with_delivery: bool,
    name: str | None = None,
    audit: AuditSettings | None = None,
) -> int:
    """Work until SIGTERM or SIGINT; give the exit status."""
    stopping = _stop_on_signal()
    context = stage_context(settings, own)
    database = open_database(settings)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    trail = AuditTrail(settings, audit, "worker", metrics=metrics.audit)
    spool = open_spool(settings, metrics.observe_object_store)
    warn_of_sqlite(settings)
    outbox = open_outbox(settings, metrics.observe_object_store)
    spool.prepare()
    outbox.prepare()
    sessions = session_factory(database)
    with ExitStack() as closing:
        closing.callback(database.dispose)
        shadows = ShadowRunner(sessions, metrics, max_batch=own.max_batch, max_waiting=own.shadow_waiting)
        closing.callback(shadows.stop, own.decode_timeout_s)
        engines, load = EngineSet(), engine_loader(own)
        watch = EngineWatch(
            ModelStore(settings.model_store), engines, load, metrics, poll_s=own.engine_poll_s, shadows=shadows
        )
        watch.load_first()
        redis = connect_redis(settings)
        if not _wait_for_services(redis, database, stopping):
            return 0
        be_present(database, "worker", closing)
        tell_life(trail, closing)

        settlement = Settlement(sessions, settings.duplicate_policy, own.destinations)
        done_listeners: list[Callable[[Done], None]] = []
        pipeline = Pipeline(
            spool=spool,
            outbox=outbox,
            engines=engines,
            context=context,
            settlement=settlement,
            revision_of=lambda request: _revision(sessions, request),
            limits=pipeline_limits(own),
            metrics=metrics,
            on_done=lambda done: done_listeners[0](done),
            shadows=shadows,
        )
        closing.callback(pipeline.stop, own.decode_timeout_s)
        watch.start()
        closing.callback(watch.stop, own.decode_timeout_s)
        maintenance = Maintenance(
            max_attempts=own.max_attempts,
            give_up=lambda request, attempts: _give_up(settlement, pipeline, spool, outbox, request, attempts),
            metrics=metrics,
        )
        worker = _batch_worker(redis, own, name, pipeline, maintenance, metrics)
        done_listeners.append(worker.on_done)
        checks = {
            "redis": lambda: None if worker.redis_up else Reason.REDIS_UNAVAILABLE.value,
            "database": lambda: database_failure(database),
            "pipeline": lambda: None if pipeline.alive else Reason.INTERNAL_ERROR.value,
            "object_store": lambda: None if pipeline.object_store_up else Reason.OBJECT_STORE_UNAVAILABLE.value,
        }
        pages = pages_of_worker(settings, own, worker.name, redis, sessions, metrics, engines, checks)
        telemetry = serve_telemetry(own.telemetry_address, own.telemetry_port, registry, checks, pages)
        closing.callback(telemetry.stop)
        if with_delivery and own.destinations:
            closing.callback(_DeliveryProcess().stop)
        # From here on the worker has the signals; one that came while all this was built is not lost.
        clean = stopping.is_set() or worker.run()
    return 0 if clean else 1


def stage_context(settings: Settings, own: WorkerSettings) -> StageContext:
    """Say what every preparation needs, by the settings."""
    kinds = frozenset(kind for to in own.destinations for kind in to.outputs)
    return StageContext(
        routing=Routing.read(own.routing_file),
        identity=IdentityPolicy.of(settings),
        limits=PixelLimits(max_rows_columns=own.max_pixels, max_decoded_bytes=own.max_decoded_bytes),
        own_ae_titles=frozenset(settings.own_ae_titles),
        overlay_max_side=own.overlay_max_side if OutputKind.SECONDARY_CAPTURE in kinds else 0,
        kinds=kinds,
        reports_refusals=any(to.not_analysed for to in own.destinations),
    )


def pipeline_limits(own: WorkerSettings) -> PipelineLimits:
    """Say the sizes and times of a pipeline, by the settings."""
    return PipelineLimits(
        max_batch=own.max_batch,
        max_delay_s=own.max_delay_s,
        decoders=own.decoders or os.cpu_count() or 1,
        decode_timeout_s=own.decode_timeout_s,
    )


def _batch_worker(
    redis: Redis,
    own: WorkerSettings,
    name: str | None,
    pipeline: Pipeline,
    maintenance: Maintenance,
    metrics: WorkerMetrics,
) -> BatchWorker:
    return BatchWorker(
        redis,
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        prefetch=own.prefetch,
        times=WorkerTimes(
            own.poll_interval_s,
            own.heartbeat_interval_s,
            own.job_heartbeat_ttl_s,
            own.maintenance_interval_s,
            own.stop_grace_s,
        ),
        submit=pipeline.submit,
        pipeline_alive=lambda: pipeline.alive,
        maintenance=maintenance,
        metrics=metrics,
    )


class _DeliveryProcess:
    """`python -m worker deliver` as a child of `run`, started again when it ends."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="delivery-keeper", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        command = [sys.executable, "-m", "worker", "deliver", "--parent-pid", str(os.getpid())]
        while not self._stopping.is_set():
            # In a session of its own: Ctrl-C reaches this process, which then ends the child in good order.
            self._child = subprocess.Popen(command, start_new_session=True)
            while self._child.poll() is None and not self._stopping.wait(0.5):
                pass
            if not self._stopping.is_set():
                log.error("delivery_died", exit_status=self._child.returncode)
                self._stopping.wait(DELIVERY_RESTART_S)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(60)
        except subprocess.TimeoutExpired:
            self._child.kill()


def end_with_parent(parent_pid: int) -> None:
    """End this process in good order when its parent is gone (killed, so that it could not tell us)."""

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def serve_telemetry(
    address: str,
    port: int,
    registry: CollectorRegistry,
    checks: dict[str, Callable[[], str | None]],
    pages: dict[str, Callable[[], Page]] | None = None,
) -> TelemetryServer:
    """Serve metrics, health and pages of a process.

    Raises:
        ConfigurationError: the port cannot be opened.
    """
    try:
        telemetry = TelemetryServer(address, port, registry, checks, pages)
    except OSError as error:
        raise ConfigurationError(
            f"telemetry port {port} on {address} cannot be opened ({error.strerror}); "
            "choose another, or 0 for any free one"
        ) from error
    telemetry.start()
    log.info("telemetry_started", address=address, port=telemetry.port)
    return telemetry


def _stop_on_signal() -> threading.Event:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: stopping.set())
    return stopping


def _wait_for_services(redis: Redis, database: DatabaseEngine, stopping: threading.Event) -> bool:
    """Wait until Redis and the database answer; False when told to stop meanwhile."""
    waiting_for = ""
    while not stopping.is_set():
        try:
            redis.ping()
            check_schema(database)
            return True
        except RedisError as error:
            failing, cause = Reason.REDIS_UNAVAILABLE.value, error
        except SQLAlchemyError as error:
            failing, cause = Reason.DATABASE_UNAVAILABLE.value, error  # type: ignore[assignment]
        if failing != waiting_for:
            log.warning("waiting", reason=failing, exc_info=cause)
            waiting_for = failing
        stopping.wait(WAIT_FOR_SERVICES_S)
    return False


def database_failure(database: DatabaseEngine) -> str | None:
    """Say why the database does not answer; None when it does."""
    try:
        with database.connect() as connection:
            connection.execution_options(read_only=True).execute(text("SELECT 1"))
    except SQLAlchemyError:
        return Reason.DATABASE_UNAVAILABLE.value
    return None


def _revision(sessions: sessionmaker[Session], request: InferenceRequest) -> int:
    try:
        with sessions() as session:
            session.connection(execution_options={"read_only": True})
            return known_revision(session, request.sop_instance_uid)
    except SQLAlchemyError as error:
        raise Transient(Reason.DATABASE_UNAVAILABLE) from error


def _give_up(
    settlement: Settlement,
    pipeline: Pipeline,
    spool: AnySpool,
    outbox: AnyOutbox,
    request: InferenceRequest,
    attempts: int,
) -> None:
    refusal = Unprocessable(Reason.WORKER_DIED, f"{attempts} workers died with it in hand")
    with suppress(Unprocessable):  # gone: then there is no report, and the failure is recorded all the same
        spool.fetch(request.spool_key)
    reports = pipeline.report_refusal(request, refusal)
    outbox.publish(report.written.file_name for report in reports)
    (state,) = settlement.settle([Outcome(request, None, refusal, deaths=attempts, reports=reports)])
    # None: the last of the dead had settled it, and only the file was left.
    end = {InstanceState.FAILED: spool.set_aside, None: spool.finish}.get(state)
    if end is not None:
        with suppress(OSError):
            end(request.spool_key)
