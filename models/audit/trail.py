"""The audit trail of one process: takes messages at once, keeps them on disk, and has them sent.

Nothing waits for it and nothing fails with it. A message goes into a bounded queue in memory; a thread writes it to
the file of the settings and to the spool of waiting messages. Where the process delivers, another thread sends what
waits, its own messages and those of every other process of the data directory, if it is the first to do so.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from models.audit.events import Process, application_activity
from models.audit.messages import AuditMessage, AuditSource, Outcome, to_xml
from models.audit.settings import AuditSettings
from models.audit.spool import AuditSpool
from models.audit.syslog import Repository, TooLong, client_context, syslog_message
from models.errors import ConfigurationError
from models.settings import Settings
from models.telemetry import get_logger

QUEUE_SIZE: Final = 4096
"""Messages in memory that wait for the disk."""
LOOK_S: Final = 1.0
"""How often other processes' messages are looked for."""
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 60.0
STOP_S: Final = 5.0
"""For what waits at the end; the rest is sent by the next process."""
SAY_AGAIN_S: Final = 60.0
"""Between two log lines about dropped messages."""

log = get_logger("audit")


class AuditMetrics:
    """What a process shows of its audit trail; `prefix` is that of its other metrics."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self.sent = Counter(f"{prefix}_audit_sent", "Audit messages that the repository took.", registry=registry)
        self.dropped = Counter(
            f"{prefix}_audit_dropped", "Audit messages lost: too many waited, or the disk failed.", registry=registry
        )
        self.waiting = Gauge(
            f"{prefix}_audit_waiting", "Audit messages on disk that wait for the repository.", registry=registry
        )


class AuditTrail:
    """Takes the messages of a process; without a repository and a file it does nothing.

    Args:
        settings: of the data directory and our AE title.
        audit: where messages go; None: nowhere.
        name: of the process, as in its logs.
        metrics: of the process, if it shows any.
        on_drop: is told of each message that is lost.
        delivers: whether this process may be the one that sends.

    Raises:
        ConfigurationError: the directory, the file or a certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        audit: AuditSettings | None,
        name: str,
        *,
        metrics: AuditMetrics | None = None,
        on_drop: Callable[[], None] | None = None,
        delivers: bool = True,
    ) -> None:
        self.process = Process.this(name, settings.ae_title)
        self._audit = audit if audit is not None and audit.is_on else None
        self._metrics = metrics
        self._on_drop = on_drop
        self._said_at = -SAY_AGAIN_S
        self._queue: queue.Queue[AuditMessage | None] = queue.Queue(QUEUE_SIZE)
        self._writer: threading.Thread | None = None
        self._courier: _Courier | None = None
        if self._audit is None:
            return
        self._source = AuditSource(self._audit.source_id, self._audit.enterprise_site_id)
        self._spool = self._prepare(settings, self._audit)
        address = self._audit.address
        if delivers and address is not None and self._spool is not None:
            repository = Repository(address, client_context(self._audit), self._audit.timeout_s)
            self._courier = _Courier(self._spool, repository, metrics, self._drop)
        self._writer = threading.Thread(target=self._work, name="audit-writer", daemon=True)

    @property
    def is_on(self) -> bool:
        """Whether messages go anywhere; who would have to gather facts for one need not, else."""
        return self._audit is not None

    def _prepare(self, settings: Settings, audit: AuditSettings) -> AuditSpool | None:
        try:
            if audit.file is not None:
                _append(audit, b"")
        except OSError as error:
            raise ConfigurationError(f"RADSTREAM_AUDIT_FILE: cannot write {audit.file}: {error.strerror}") from error
        if audit.address is None:
            return None
        spool = AuditSpool(settings.data_dir, audit.max_waiting)
        try:
            spool.prepare()
        except OSError as error:
            raise ConfigurationError(f"RADSTREAM_DATA_DIR: cannot use {spool.root}: {error.strerror}") from error
        return spool

    def start(self) -> AuditTrail:
        """Begin to keep and send."""
        if self._writer is not None:
            self._writer.start()
        if self._courier is not None:
            self._courier.start()
        return self

    def say_started(self) -> None:
        """Tell that the process has started."""
        self.tell(application_activity(self.process, starts=True))

    def say_stopping(self) -> None:
        """Tell that the process stops."""
        self.tell(application_activity(self.process, starts=False))

    def tell(self, message: AuditMessage, *, patience_s: float = 0.0) -> None:
        """Take a message; never raises, and waits at most so long where very many come at once."""
        if self._writer is None:
            return
        try:
            self._queue.put(message, block=patience_s > 0, timeout=patience_s or None)
        except queue.Full:
            self._drop("queue_full")

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Keep what was told, and try for a short while to have it sent."""
        if self._writer is None or not self._writer.is_alive():
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._writer.join(timeout_s)
        if self._courier is not None:
            self._courier.stop(timeout_s)

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                self._keep(message)
            except OSError as error:
                self._drop("disk", error)
            except Exception as error:
                # The thread must live on; a message that cannot be encoded is our own mistake.
                self._drop("encoding", error)

    def _keep(self, message: AuditMessage) -> None:
        if self._audit is None:
            return
        xml = to_xml(message, self._source)
        if self._audit.file is not None:
            _append(self._audit, xml + b"\n")
        if self._spool is None:
            return
        failed = message.outcome is not Outcome.SUCCESS
        told = syslog_message(xml, at=message.at, host=self.process.host, pid=self.process.pid, is_failure=failed)
        if not self._spool.put(told):
            self._drop("too_many_wait")
        elif self._courier is not None:
            self._courier.wake()

    def _drop(self, why: str, error: BaseException | None = None) -> None:
        if self._metrics is not None:
            self._metrics.dropped.inc()
        if self._on_drop is not None:
            self._on_drop()
        if time.monotonic() - self._said_at >= SAY_AGAIN_S:
            self._said_at = time.monotonic()
            log.error("audit_message_dropped", why=why, exc_info=error)


def _append(audit: AuditSettings, line: bytes) -> None:
    # Opened anew for each line, so that a file that was rotated away is not written to; one write, so that the lines
    # of two processes do not mix.
    if audit.file is None:
        return
    descriptor = os.open(audit.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if line and os.write(descriptor, line) != len(line):
            raise OSError("the audit file took only a part of a line")
    finally:
        os.close(descriptor)


class _Courier:
    """Sends what waits, in its order, while no other process does."""

    def __init__(
        self, spool: AuditSpool, repository: Repository, metrics: AuditMetrics | None, drop: Callable[[str], None]
    ) -> None:
        self._spool = spool
        self._repository = repository
        self._metrics = metrics
        self._drop = drop
        self._is_away = False
        self._pause_s = FIRST_RETRY_S
        self._retry_at = 0.0
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="audit-courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._awake.set()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._awake.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            self._awake.wait(LOOK_S)
            self._awake.clear()
            is_last = self._stopping.is_set()
            if is_last or time.monotonic() >= self._retry_at:
                self._turn()
            if is_last:
                break
        self._repository.close()
        self._spool.leave_lead()

    def _turn(self) -> None:
        try:
            names = self._spool.names()
            if self._metrics is not None:
                self._metrics.waiting.set(len(names))
            if not names or not self._spool.take_lead():
                return
            # Only now is nobody else at it.
            names = self._spool.names()
            for start in range(0, len(names), self._repository.most_at_once):
                self._send(names[start : start + self._repository.most_at_once])
        except OSError as error:
            self._note_away(error)
        except Exception as error:
            # The thread must live on: nobody else sends while we hold the lead.
            log.error("audit_courier_failed", exc_info=error)
            self._note_away(error)
        else:
            self._note_back()
        if self._metrics is not None:
            self._metrics.waiting.set(len(self._spool.names()))

    def _send(self, names: list[str]) -> None:
        messages = {name: told for name in names if (told := self._spool.read(name)) is not None}
        try:
            self._repository.send(list(messages.values()))
        except TooLong:
            self._drop("too_long_for_a_datagram")
            for name in messages:
                self._spool.remove(name)
        else:
            self._take_out(list(messages))

    def _take_out(self, names: list[str]) -> None:
        for name in names:
            self._spool.remove(name)
        if self._metrics is not None:
            self._metrics.sent.inc(len(names))

    def _note_away(self, error: BaseException) -> None:
        if not self._is_away:
            log.warning("audit_repository_away", exc_info=error)
        self._is_away = True
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_RETRY_S)

    def _note_back(self) -> None:
        if self._is_away:
            log.info("audit_repository_back")
        self._is_away = False
        self._pause_s, self._retry_at = FIRST_RETRY_S, 0.0
