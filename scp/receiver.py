"""One receiving process: accepts connections on the shared listening socket and serves each in a thread.

It needs the spool and nothing else: neither Redis nor the database, nor a living parent for what it has accepted. It
stops, gracefully, on SIGTERM and when its parent is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity

from models.any_spool import open_spool
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.commitment_reports import open_reports
from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from models.records.identity import IdentityPolicy
from models.requests import InferenceRequest
from models.settings import Settings
from models.telemetry import configure_logging, get_logger
from scp.association import Desk, FeedAssociation
from scp.audit import ScpAudit
from scp.commitment_desk import CommitmentDesk
from scp.commitment_transactions import TransactionFolder
from scp.contexts import supported_contexts
from scp.ingest import Admission, Ingest
from scp.notices import send_notice
from scp.scoreboard import ASSOCIATIONS, AUDIT_DROPPED, CONNECTIONS, NOTICES_DROPPED, READY, Slot, outcome_name
from scp.settings import ScpSettings
from scp.statuses import AssociationOutcome, Rejection
from scp.tls import server_context

PATIENCE_S: Final = 0.004
"""How long a receiver with more associations than another leaves a new connection to that one."""

ACCEPT_PAUSE_S: Final = 0.5
"""Wait after an accept that failed for want of descriptors or memory."""

log = get_logger("scp.receiver")


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the parent hands to a receiver.

    Attributes:
        settings, scp_settings: as the parent loaded them.
        listener: the listening socket that all receivers share.
        notices: one end of a SOCK_SEQPACKET pair; stored instances are told here, and its end is the parent's death.
        slot: this receiver's place on the scoreboard.
        audit: where audit messages go; None: nowhere.
    """

    settings: Settings
    scp_settings: ScpSettings
    listener: socket.socket
    notices: socket.socket
    slot: Slot
    audit: AuditSettings | None = None

    def open_audit(self) -> ScpAudit:
        """Begin the audit of this process; the parent sends what it tells.

        Raises:
            ConfigurationError: it cannot be written.
        """
        name = multiprocessing.current_process().name
        trail = AuditTrail(
            self.settings, self.audit, name, on_drop=lambda: self.slot.add(AUDIT_DROPPED), delivers=False
        )
        return ScpAudit(trail.start(), IdentityPolicy.of(self.settings) if trail.is_on else None)


def run(equipment: Equipment) -> None:
    """Run a receiver to its end; the target of the process."""
    configure_logging(equipment.settings, f"scp-receiver-{equipment.slot.index}")
    _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom would format every PDU for logs that we discard
    receiver = Receiver(equipment)
    signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us
    receiver.serve()


class Receiver:
    """Accepts, serves and finally drains connections."""

    def __init__(self, equipment: Equipment) -> None:
        self._settings = equipment.scp_settings
        self._listener = equipment.listener
        self._notices = equipment.notices
        self._slot = equipment.slot
        self._tls = server_context(self._settings)
        self._stopping, self._stop_signal = os.pipe()
        self._stopped = False
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        spool = open_spool(equipment.settings)
        admission = Admission(spool, self._slot.scoreboard, self._settings)
        commitment = CommitmentDesk(
            transactions=TransactionFolder(spool.root) if self._settings.commitment else None,
            reports=open_reports(equipment.settings) if self._settings.commitment_reports else None,
            slot=self._slot,
        )
        self._audit = equipment.open_audit()
        self._desk = Desk(
            ae=_application_entity(equipment.settings, self._settings),
            contexts=supported_contexts(self._settings.accept_all_storage, commitment.is_offered),
            ingest=Ingest(spool, admission, self._slot, self._settings),
            admit=self._admit,
            stored=self._tell,
            commitment=commitment,
            audit=self._audit,
            stopping_descriptor=self._stopping,
            idle_timeout_s=self._settings.idle_timeout_s,
            dimse_timeout_s=self._settings.dimse_timeout_s,
        )

    def stop(self) -> None:
        """Accept nothing more; associations end after their open message. Safe in a signal handler."""
        if not self._stopped:
            self._stopped = True
            os.close(self._stop_signal)  # the read end becomes readable for every association

    def serve(self) -> None:
        """Accept until stopped, then wait for open messages."""
        self._listener.setblocking(False)
        poll = select.poll()
        for descriptor in (self._listener, self._notices, self._stopping):
            poll.register(descriptor, select.POLLIN)
        self._slot.scoreboard.put(self._slot.index, READY, 1)
        while not self._stopped:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._notices.fileno() in ready:  # the parent never writes, so this is its end
                log.error("parent_gone")
                self.stop()
            elif self._listener.fileno() in ready and not self._stopped:
                self._accept()
        self._slot.scoreboard.put(self._slot.index, READY, 0)
        self._listener.close()
        self._drain()
        self._audit.stop()

    def _accept(self) -> None:
        if self._is_busier_than_another():
            time.sleep(PATIENCE_S)
        try:
            connection, peer = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # another receiver took it, or the peer is gone
        except OSError as error:
            log.error("cannot_accept", exc_info=error)
            time.sleep(ACCEPT_PAUSE_S)  # out of descriptors or memory: the connection waits, so must we
            return
        if len(self._connections) >= 2 * self._settings.max_associations + 16:
            connection.close()  # connections that never became associations
            return
        thread = threading.Thread(target=self._serve_connection, args=(connection, peer), daemon=True)
        with self._lock:
            self._connections[thread] = connection
        thread.start()

    def _is_busier_than_another(self) -> bool:
        board = self._slot.scoreboard
        mine = board.get(self._slot.index, CONNECTIONS)
        others = [board.get(slot, CONNECTIONS) for slot in range(board.slots) if board.get(slot, READY)]
        return mine > min(others, default=mine)

    def _serve_connection(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        outcome = AssociationOutcome.FAILED
        association: FeedAssociation | None = None
        self._slot.add(CONNECTIONS)
        try:
            connection.settimeout(self._settings.acse_timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            association = FeedAssociation(self._desk, connection, peer)
            outcome = association.serve()
        except ssl.SSLError:
            outcome = AssociationOutcome.TLS_FAILED
        except OSError:
            outcome = AssociationOutcome.LOST
        except Exception:
            log.exception("association_failed")
        finally:
            connection.close()
            self._slot.add(CONNECTIONS, -1)
            if association is not None and association.admitted:
                self._slot.add(ASSOCIATIONS, -1)
            self._slot.add(outcome_name(outcome))
            calling = str(association.requestor.ae_title) if association is not None else ""
            self._audit.connection_ended(outcome, str(peer[0]) if peer else "", calling)
            with self._lock:
                self._connections.pop(threading.current_thread(), None)

    def _admit(self, calling_ae_title: str, called_ae_title: str, address: str) -> Rejection | None:
        settings = self._settings
        if settings.allowed_calling_ae_titles and calling_ae_title not in settings.allowed_calling_ae_titles:
            return Rejection.CALLING_AE_TITLE
        networks = settings.allowed_calling_addresses.get(calling_ae_title)
        if networks is not None and not _is_within(address, networks):
            return Rejection.CALLING_AE_TITLE
        if settings.check_called_ae_title and called_ae_title != self._desk.ae.ae_title:
            return Rejection.CALLED_AE_TITLE
        if self._stopped:
            return Rejection.STOPPING
        # Count first, then look: two processes that admit at the same time may both refuse, never both exceed.
        self._slot.add(ASSOCIATIONS)
        if self._slot.scoreboard.total(ASSOCIATIONS) > settings.max_associations:
            self._slot.add(ASSOCIATIONS, -1)
            return Rejection.LIMIT
        return None

    def _tell(self, request: InferenceRequest) -> None:
        if not send_notice(self._notices, request):
            self._slot.add(NOTICES_DROPPED)

    def _drain(self) -> None:
        deadline = time.monotonic() + self._settings.stop_grace_s
        for thread in list(self._connections):
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = dict(self._connections)
        for thread, connection in left.items():
            log.warning("association_cut_off")
            _cut(connection)
            thread.join(1.0)


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


def _application_entity(settings: Settings, scp_settings: ScpSettings) -> ApplicationEntity:
    entity = ApplicationEntity(settings.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = scp_settings.max_pdu_bytes
    entity.acse_timeout = scp_settings.acse_timeout_s
    return entity


def _is_within(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # a dual-stack listener sees IPv4 peers so
    return any(parsed in network for network in networks)
