"""The parent process of the SCP: owns the port, keeps the receivers alive, registers, sweeps, and tells how it goes.

It never touches an association. When it dies, its receivers finish their open messages and end; what they accepted
lies in the spool for the next start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry
from sqlalchemy.orm import Session, sessionmaker

from migrations.compatibility import SchemaGate
from migrations.presence import Presence
from models.any_spool import open_spool, warn_of_sqlite
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.commitment_reports import open_reports
from models.errors import ConfigurationError, ObjectStoreUnavailable, Reason
from models.queues import Queues
from models.records.identity import IdentityPolicy
from models.records.sessions import open_database, session_factory
from models.settings import Settings
from models.spool_archive import ArchiveLimits
from models.telemetry import TelemetryServer, get_logger
from scp import receiver
from scp.commitment_reporter import CommitmentReporter
from scp.commitment_transactions import TransactionFolder
from scp.custody import Custody
from scp.listening import listen
from scp.metrics import ParentMetrics, SharedMetrics
from scp.notices import NoticeReader, notice_pair
from scp.registrar import Dependency, Registrar
from scp.scoreboard import READY, STOW_READY, Scoreboard, Slot
from scp.settings import ScpSettings
from scp.stow.clients import Clients
from scp.sweeper import Sweeper
from scp.tls import server_context, stow_context

FIRST_BACKOFF_S: Final = 0.2
LAST_BACKOFF_S: Final = 15.0
LONG_LIFE_S: Final = 30.0
"""A receiver that lived so long is started again at once."""
KILL_MARGIN_S: Final = 5.0
"""Beyond the grace, for a receiver to end by itself."""
DRAIN_S: Final = 10.0
"""For the last notices to reach ledger and queue; the next start sweeps up the rest."""

log = get_logger("scp.supervisor")


@dataclass(slots=True)
class _Place:
    """One child, dead or alive: what it runs on which socket, when to start it, and how long its next pause is."""

    name: str
    target: Callable[[receiver.Equipment], None]
    listener: socket.socket
    process: SpawnProcess | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S


class Supervisor:
    """Runs the whole SCP until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: from the constructor, one line on what cannot be had (port, spool, certificate…).
    """

    def __init__(self, settings: Settings, scp_settings: ScpSettings, audit: AuditSettings | None = None) -> None:
        self._settings = settings
        self._audit_settings = audit
        self._scp_settings = scp_settings
        server_context(scp_settings)  # each receiver makes its own; here only to refuse a wrong one early
        self._spool = open_spool(settings)
        warn_of_sqlite(settings)
        try:
            self._spool.prepare()
        except OSError as error:
            raise ConfigurationError(f"RADSTREAM_SPOOL_DIR: cannot use {self._spool.root}: {error.strerror}") from error
        Clients(scp_settings.stow_tokens)
        stow_context(scp_settings)
        self._scoreboard = Scoreboard(scp_settings.processes + (1 if scp_settings.stow_port else 0))
        self._wire_up(settings, scp_settings)
        self._signalled, self._signal = os.pipe()
        self._stopping = False
        self._listener = listen(scp_settings.host, scp_settings.port, "")
        self._places = [
            _Place(f"receiver-{index}", receiver.run, self._listener) for index in range(scp_settings.processes)
        ]
        if scp_settings.stow_port:
            listener = listen(scp_settings.stow_host, scp_settings.stow_port, "STOW_")
            self._places.append(_Place("stow", _run_stow, listener))

    def _wire_up(self, settings: Settings, scp_settings: ScpSettings) -> None:
        registry = CollectorRegistry()
        metrics = ParentMetrics(registry)
        self._audit = AuditTrail(settings, self._audit_settings, "scp", metrics=metrics.audit)
        if self._audit.is_on:
            IdentityPolicy.of(settings)  # the receivers need it; here only to refuse a wrong key early
        redis = Dependency(metrics.redis_up, Reason.REDIS_UNAVAILABLE)
        database = Dependency(metrics.database_up, Reason.DATABASE_UNAVAILABLE)
        queues = Queues(settings.redis_url.get_secret_value())
        results = open_database(settings)
        sessions = session_factory(results)
        gate = SchemaGate(results)
        # Success needs no database, so one that is not for our code is waited for like one that is away.
        self._presence = Presence(results, "scp", leave=None)
        self._registrar = Registrar(
            self._spool,
            sessions,
            queues,
            settings.duplicate_policy,
            redis,
            database,
            metrics.registrar_lag.observe,
            gate.check_now_and_then,
        )
        self._sweeper = Sweeper(
            self._spool,
            queues,
            self._registrar,
            self._scoreboard,
            redis,
            scp_settings.sweep_interval_s,
            recount_above=scp_settings.max_pending * 9 // 10,
            # Twice what makes us refuse, so that the archive gives way before anybody is refused.
            trim_archive=partial(self._spool.trim_archive, ArchiveLimits.of(settings), 2 * scp_settings.min_free_bytes),
        )
        self._reporter = self._commitment_reporter(sessions, database, gate, registry)
        self._notices = NoticeReader(self._registrar.submit)
        registry.register(SharedMetrics(self._scoreboard, self._spool, self._sweeper))
        checks = {"receivers": self._check_receivers, "space": self._check_space, "spool": self._check_spool}
        if scp_settings.stow_port:
            checks["stow"] = self._check_stow
        try:
            self._telemetry = TelemetryServer(
                scp_settings.telemetry_address, scp_settings.telemetry_port, registry, checks
            )
        except OSError as error:
            raise ConfigurationError(
                f"RADSTREAM_SCP_TELEMETRY_PORT: cannot listen on "
                f"{scp_settings.telemetry_address}:{scp_settings.telemetry_port}: {error.strerror}"
            ) from error

    def _commitment_reporter(
        self, sessions: sessionmaker[Session], database: Dependency, gate: SchemaGate, registry: CollectorRegistry
    ) -> CommitmentReporter | None:
        settings = self._scp_settings
        folder = TransactionFolder(self._spool.root)
        try:
            folder.prepare()
            open_reports(self._settings).prepare()
        except OSError as error:
            raise ConfigurationError(f"RADSTREAM_SPOOL_DIR: cannot use {self._spool.root}: {error.strerror}") from error
        if not settings.commitment:
            return None
        custody = Custody(self._spool, sessions, database, gate.check_now_and_then)
        return CommitmentReporter(folder, custody, self._settings.ae_title, settings, registry)

    def _check_receivers(self) -> str | None:
        return None if self._scoreboard.total(READY) else "no_receiver"

    def _check_stow(self) -> str | None:
        return None if self._scoreboard.total(STOW_READY) else "no_stow"

    def _check_space(self) -> str | None:
        try:
            full = self._spool.free_bytes() < self._scp_settings.min_free_bytes
        except OSError:
            full = True
        return Reason.OUT_OF_SPACE.value if full or self._is_at_limit() else None

    def _check_spool(self) -> str | None:
        try:
            self._spool.check()
        except ObjectStoreUnavailable as error:
            return error.reason.value
        return None

    def _is_at_limit(self) -> bool:
        return self._scoreboard.pending() >= self._scp_settings.max_pending

    # Life

    def run(self) -> None:
        """Serve until told to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        with suppress(ObjectStoreUnavailable):  # receivers refuse until it is back, and the first sweep counts
            self._sweeper.count()  # the first receiver must know how full the spool is
        self._telemetry.start()
        self._notices.start()
        self._registrar.start()
        self._sweeper.start()
        self._presence.start()
        self._audit.start()
        self._audit.say_started()
        if self._reporter is not None:
            self._reporter.start()
        host, port = self._listener.getsockname()[:2]
        log.info(
            "listening",
            host=host,
            port=port,
            ae_title=self._settings.ae_title,
            processes=self._scp_settings.processes,
            stow_port=self._scp_settings.stow_port or None,
            tls=self._scp_settings.tls_certificate is not None,
            telemetry_port=self._telemetry.port,
        )
        while not self._stopping:
            self._start_due()
            self._wait_for_change()
        self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            os.write(self._signal, b"!")

    def _start_due(self) -> None:
        now = time.monotonic()
        for index, place in enumerate(self._places):
            if place.process is None and place.start_at <= now:
                self._start(index, place)

    def _start(self, index: int, place: _Place) -> None:
        ours, theirs = notice_pair()
        equipment = receiver.Equipment(
            self._settings,
            self._scp_settings,
            place.listener,
            theirs,
            Slot(self._scoreboard, index),
            self._audit_settings,
        )
        # Spawn, not fork: by now this process has threads, and a fork would copy their locks in any state.
        place.process = multiprocessing.get_context("spawn").Process(
            target=place.target, args=(equipment,), name=f"scp-{place.name}"
        )
        place.process.start()
        place.started_at = time.monotonic()
        theirs.close()
        self._notices.attach(ours)

    def _wait_for_change(self) -> None:
        alive = {place.process.sentinel: index for index, place in enumerate(self._places) if place.process is not None}
        due = [place.start_at for place in self._places if place.process is None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for sentinel in wait([*alive, self._signalled], timeout):
            if isinstance(sentinel, int) and sentinel in alive:
                self._bury(alive[sentinel])

    def _bury(self, index: int) -> None:
        place = self._places[index]
        process = place.process
        if process is None:
            return
        process.join()
        now = time.monotonic()
        if now - place.started_at >= LONG_LIFE_S:
            place.backoff_s = FIRST_BACKOFF_S
        log.error(
            "receiver_died", receiver=index, name=place.name, exit_code=process.exitcode, restart_in_s=place.backoff_s
        )
        self._scoreboard.vacate(index)
        place.process = None
        place.start_at = now + place.backoff_s
        place.backoff_s = min(2 * place.backoff_s, LAST_BACKOFF_S)

    def _stop(self) -> None:
        log.info("stopping", grace_s=self._scp_settings.stop_grace_s)
        for place in self._places:
            place.listener.close()
        processes = [place.process for place in self._places if place.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._scp_settings.stop_grace_s + KILL_MARGIN_S
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.error("receiver_killed")
                process.kill()
                process.join()
        if self._reporter is not None:
            self._reporter.stop(DRAIN_S)
        self._sweeper.stop(DRAIN_S)
        self._notices.stop(DRAIN_S)
        self._registrar.stop(DRAIN_S)
        self._presence.stop()
        self._audit.say_stopping()
        self._audit.stop()
        self._telemetry.stop()
        log.info("stopped")


def _run_stow(equipment: receiver.Equipment) -> None:
    from scp.stow import server  # an HTTP server, which nobody needs who has no such entry

    server.run(equipment)
