"""The process `deliver`: puts together what delivers outputs, asks for their commitment, and summarises studies."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType

from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import open_spool
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.commitment_reports import open_reports
from models.errors import ConfigurationError
from models.records.outputs import OutputKind
from models.records.sessions import open_database, session_factory
from models.settings import Settings
from models.telemetry import get_logger
from worker.audit import DeliveryAudit
from worker.commitment import Asker, CommitmentQueue
from worker.commitment_inbox import ReportListener, ReportRecorder
from worker.commitment_records import CommitmentRecords
from worker.delivery import Deliverer, DestinationQueue, Queue
from worker.metrics import DeliveryMetrics
from worker.outbox import open_outbox
from worker.running import be_present, check_schema, database_failure, serve_telemetry, tell_life
from worker.sender import OutputSender, Sender
from worker.settings import AnyDestination, Destination, StowDestination, WorkerSettings
from worker.stow_sender import StowSender
from worker.summary_queue import SummaryQueue
from worker.summary_source import SummarySource

log = get_logger("worker.delivering")


def deliver(settings: Settings, own: WorkerSettings, audit: AuditSettings | None = None) -> int:
    """Deliver outputs until SIGTERM or SIGINT; give the exit status.

    Raises:
        ConfigurationError: there is no destination, a port or file of the settings cannot be had, or the database is
            not for this code.
    """
    if not own.destinations:
        raise ConfigurationError("RADSTREAM_WORKER_DESTINATIONS: no destination is set, there is nowhere to deliver to")
    senders = {to.name: _sender(to, settings, own) for to in own.destinations}
    asking = [to for to in own.destinations if isinstance(to, Destination) and to.commitment]
    database = open_database(settings)
    with suppress(SQLAlchemyError):  # away: waited for as at any other time, and looked at again by `be_present`
        check_schema(database)
    sessions = session_factory(database)
    outbox = open_outbox(settings)
    outbox.prepare()
    registry = CollectorRegistry()
    metrics = DeliveryMetrics(registry)
    asked = {to.name for to in asking}
    trail = AuditTrail(settings, audit, "delivery", metrics=metrics.audit)
    queues: list[Queue] = [
        DestinationQueue(
            senders[to.name],
            sessions,
            outbox,
            own,
            metrics,
            asks_commitment=to.name in asked,
            audit=DeliveryAudit(trail, to, sessions),
        )
        for to in own.destinations
    ]
    with ExitStack() as closing:
        closing.callback(database.dispose)
        if asking:
            queues += _commitment(settings, own, asking, sessions, metrics, closing)
        if any(OutputKind.STUDY_SUMMARY in to.outputs for to in own.destinations):
            source = SummarySource(outbox, open_spool(settings), settings.phi)
            queues.append(SummaryQueue(sessions, source, own.destinations, own, metrics))
        deliverer = Deliverer(queues, sessions, outbox, own.outbox_keep_days)

        def stop(signum: int, frame: FrameType | None) -> None:
            deliverer.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        checks = {"database": lambda: database_failure(database)}
        be_present(database, "delivery", closing)
        telemetry = serve_telemetry(own.telemetry_address, own.delivery_telemetry_port, registry, checks)
        closing.callback(telemetry.stop)
        tell_life(trail, closing)
        log.info("delivery_started", destinations=list(senders), commitment=sorted(asked))
        deliverer.run()
    log.info("delivery_stopped")
    return 0


def _sender(to: AnyDestination, settings: Settings, own: WorkerSettings) -> OutputSender:
    if isinstance(to, StowDestination):
        return StowSender(to, own.delivery_timeout_s)
    return Sender(to, settings.ae_title, own.delivery_timeout_s)


def _commitment(
    settings: Settings,
    own: WorkerSettings,
    asking: Sequence[Destination],
    sessions: sessionmaker[Session],
    metrics: DeliveryMetrics,
    closing: ExitStack,
) -> list[Queue]:
    folder = open_reports(settings)
    try:
        folder.prepare()
    except OSError as error:
        raise ConfigurationError(f"RADSTREAM_SPOOL_DIR: cannot use {settings.spool_path}: {error.strerror}") from error
    if own.commitment_port:
        listener = ReportListener(settings.ae_title, own.commitment_address, own.commitment_port, folder.put)
        listener.start()
        closing.callback(listener.stop)
    records = CommitmentRecords(sessions, own)
    queues: list[Queue] = [
        CommitmentQueue(Asker(to, settings.ae_title, own), records, folder.put, own, metrics) for to in asking
    ]
    return [*queues, ReportRecorder(folder, records, metrics)]
