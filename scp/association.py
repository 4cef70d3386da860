"""One association, from its connection to its end.

pynetdicom negotiates, releases, aborts and answers C-ECHO; its state machine (PS3.8 9.2) rules throughout. The data
transfer phase is ours: a C-STORE goes from the socket to the spool without a copy and without a whole PDU in memory.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from models.requests import InferenceRequest
from models.telemetry import get_logger
from scp import commands
from scp.audit import ScpAudit, sending_entity
from scp.commitment_desk import REPORT_POLL_S, CommitmentDesk, CommitmentTalk
from scp.commitment_messages import MAX_DATASET_BYTES, N_EVENT_REPORT_RSP, PUSH_MODEL, command_field
from scp.contexts import prefer_senders_order
from scp.ingest import Ingest, Sender
from scp.statuses import AssociationOutcome, Rejection
from scp.upper_layer import AWAITING_CLOSE, CONNECTION_CLOSED, IDLE, INVALID_PDU, SteppedUpperLayer
from scp.wire import (
    IS_COMMAND,
    IS_LAST,
    P_DATA_TF,
    PDV_HEADER_BYTES,
    ConnectionLost,
    Interrupted,
    MessageReader,
    PeerSilent,
    ProtocolError,
    Wait,
    Wire,
)

MODE_ACCEPTOR: Final = "acceptor"
C_ECHO_RQ: Final = 0x0030
RELEASE_TIMEOUT_S: Final = 3.0
"""How long a peer may take to answer our release when we stop."""
CLOSE_TIMEOUT_S: Final = 5.0
"""How long a peer may take to close the connection after the last PDU (the ARTIM timer of PS3.8 9.1.5)."""
SMALLEST_PDU_BYTES: Final = 128

log = get_logger("scp.association")


@dataclass(frozen=True, slots=True)
class Desk:
    """What every association of one process works with.

    Attributes:
        ae: pynetdicom's description of us: titles, timeouts, PDU size.
        contexts: what we accept.
        ingest: stores instances.
        admit: says whether an association is refused, by calling and called AE title and address.
        stored: is told of each accepted instance, after the response.
        commitment: storage commitment, asked of us and reported to us.
        audit: is told of what was received.
        stopping_descriptor: becomes readable when the process stops.
        idle_timeout_s, dimse_timeout_s: silence allowed between and within messages.
    """

    ae: ApplicationEntity
    contexts: list[PresentationContext]
    ingest: Ingest
    admit: Callable[[str, str, str], Rejection | None]
    stored: Callable[[InferenceRequest], None]
    commitment: CommitmentDesk
    audit: ScpAudit
    stopping_descriptor: int
    idle_timeout_s: float
    dimse_timeout_s: float


class FeedAssociation(Association):
    """An acceptor; `serve` runs it to its end in the calling thread."""

    def __init__(self, desk: Desk, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        super().__init__(desk.ae, MODE_ACCEPTOR)
        self._desk = desk
        self._wire = Wire(connection, desk.stopping_descriptor)
        self._reader = MessageReader(self._wire)
        self.outcome: AssociationOutcome | None = None
        self.rejection: Rejection | None = None
        self.stored_count = 0
        self._commitment = CommitmentTalk(desk.commitment)
        self._transfers = desk.audit.transfers()
        self.admitted = False
        """Whether `desk.admit` counted this association."""
        self._upper = SteppedUpperLayer(self, self._wire)
        self.dul = self._upper
        # These set timers of the upper layer, which was replaced just now.
        self.acse_timeout = desk.ae.acse_timeout
        self.network_timeout = desk.idle_timeout_s
        self.set_socket(AssociationSocket(self, client_socket=connection))
        self.acceptor.maximum_length = desk.ae.maximum_pdu_size
        self.acceptor.ae_title = desk.ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.acceptor.implementation_class_uid = desk.ae.implementation_class_uid
        self.acceptor.implementation_version_name = desk.ae.implementation_version_name
        self.acceptor.supported_contexts = desk.contexts
        self.requestor.address_info = AddressInformation.from_tuple(peer)
        self.bind(evt.EVT_REQUESTED, self._on_requested)

    def serve(self) -> AssociationOutcome:
        """Negotiate, transfer, end; say how it ended."""
        began = time.monotonic()
        try:
            self.run_reactor()
        except (ConnectionLost, PeerSilent):
            self.outcome = AssociationOutcome.LOST
        finally:
            self._commitment.end()
            self._transfers.end()
        if self._upper.state == AWAITING_CLOSE:
            self._wire.drain(CLOSE_TIMEOUT_S)
            self._upper.happened(CONNECTION_CLOSED)
        outcome = self.outcome or self._natural_outcome()
        log.info(
            "association_ended",
            outcome=outcome.value,
            calling_ae_title=str(self.requestor.ae_title),
            address=self._address or None,
            stored=self.stored_count,
            seconds=round(time.monotonic() - began, 3),
        )
        return outcome

    @property
    def _address(self) -> str:
        return self.requestor.address_info.address if self.requestor.address_info else ""

    def _natural_outcome(self) -> AssociationOutcome:
        if self.rejection is not None:
            return AssociationOutcome(f"rejected_{self.rejection.name.lower()}")
        if self.is_released:
            return AssociationOutcome.RELEASED
        if self.is_aborted:
            return AssociationOutcome.ABORTED
        return AssociationOutcome.LOST if self._upper.state == IDLE else AssociationOutcome.INVALID

    def _on_requested(self, event: evt.Event) -> None:
        request = self.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            return
        calling = printable(str(request.calling_ae_title))
        self.requestor.ae_title = calling
        self.rejection = self._desk.admit(calling, str(request.called_ae_title).strip(), self._address)
        if self.rejection is not None:
            self.acse.send_reject(*self.rejection.value)
            return
        self.admitted = True
        prefer_senders_order(request.presentation_context_definition_list)

    # Data transfer

    def _run_reactor(self) -> None:
        """Take the place of pynetdicom's polling loop."""
        if not self.admitted:  # pynetdicom swallows what its handlers raise; a failed check must not admit
            self.acse.send_abort(0x00)
        try:
            while self.is_established:
                self._wire.allow_silence(self._desk.dimse_timeout_s)
                self._serve_next()
        except Interrupted:
            self._take_other_pdu()
        except (ProtocolError, commands.MalformedCommand):
            self.outcome = AssociationOutcome.INVALID
            self._upper.happened(INVALID_PDU)
        except PeerSilent:
            self.outcome = AssociationOutcome.TIMED_OUT
            self.acse.send_abort(0x00)
        except ConnectionLost:
            self.outcome = AssociationOutcome.LOST
            self._upper.happened(CONNECTION_CLOSED)
        self._notice_end()

    def _serve_next(self) -> None:
        if not self._reader.within_pdu:
            waited = self._wait()
            if waited is Wait.STOPPING:
                self.acse_timeout = RELEASE_TIMEOUT_S
                self.acse.negotiate_release()
                return
            if waited is Wait.TIMEOUT:
                raise PeerSilent
        first = self._reader.next_pdv()
        if first is None:
            self._take_other_pdu()
            return
        context = self._accepted_cx.get(first.context_id)
        if context is None or not first.is_command:
            raise ProtocolError("a fragment that belongs nowhere")
        command_set = self._reader.command(first, commands.MAX_COMMAND_BYTES)
        values = commands.elements(command_set)
        request = commands.store_request(values)
        if request is not None:
            self._store(first.context_id, context, request)
        elif context.abstract_syntax == PUSH_MODEL:
            self._serve_commitment(first.context_id, context, values)
        else:
            self._serve_with_pynetdicom(first.context_id, command_set)

    def _wait(self) -> Wait:
        """Wait for the next message; what became known of a commitment meanwhile is reported."""
        until = time.monotonic() + self._desk.idle_timeout_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            waited = self._wire.wait(min(left_s, REPORT_POLL_S) if self._commitment.awaits_verdict else left_s)
            if waited is not Wait.TIMEOUT or time.monotonic() >= until:
                return waited
            for report in self._commitment.reports_due():
                self._send(report.context_id, report.command_set, IS_COMMAND)
                self._send(report.context_id, report.dataset, 0)

    def _store(self, context_id: int, context: PresentationContext, request: commands.StoreRequest) -> None:
        sender = Sender(
            calling_ae_title=self.requestor.ae_title,
            called_ae_title=self.acceptor.ae_title,
            abstract_syntax=str(context.abstract_syntax),
            transfer_syntax=str(context.transfer_syntax[0]),
        )
        stored = self._desk.ingest.store(request, sender, self._reader.dataset(context_id))
        if stored.request is None:
            log.warning("instance_refused", status=stored.status.label, calling_ae_title=sender.calling_ae_title)
        try:
            self._send(context_id, commands.store_response(request, stored.status), IS_COMMAND)
        finally:
            # The instance is on disk and will be processed even if the peer never hears of it.
            if stored.request is not None:
                self.stored_count += 1
                self._desk.stored(stored.request)
                self._transfers.add(
                    stored.head,
                    stored.request.sop_class_uid,
                    sender.transfer_syntax,
                    sending_entity(sender.calling_ae_title, self._address),
                )

    def _serve_commitment(self, context_id: int, context: PresentationContext, values: dict[int, bytes]) -> None:
        dataset = bytearray()
        if commands.has_dataset(values):
            for pieces in self._reader.dataset(context_id):
                for piece in pieces:
                    dataset += piece
                if len(dataset) > MAX_DATASET_BYTES:
                    raise ProtocolError("a commitment message is too long")
        if command_field(values) == N_EVENT_REPORT_RSP:
            if not self._commitment.answered(values):
                raise ProtocolError("a response to nothing")
            return
        syntax = context.transfer_syntax[0]
        answer = self._commitment.serve(values, context_id, syntax, self.requestor.ae_title, bytes(dataset))
        self._send(context_id, answer, IS_COMMAND)

    def _serve_with_pynetdicom(self, context_id: int, command_set: bytes) -> None:
        values = commands.elements(command_set)
        if values.get(commands.COMMAND_FIELD) != struct.pack("<H", C_ECHO_RQ) or commands.has_dataset(values):
            raise ProtocolError("a service that was not offered")
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context_id, bytes((IS_COMMAND | IS_LAST,)) + command_set]]  # type: ignore[list-item]
        self.dimse.receive_primitive(primitive)
        self._upper.settle()
        _, message = self.dimse.get_msg(block=False)
        if message is not None and self.is_established:
            self._serve_request(message, context_id)

    def _send(self, context_id: int, message: bytes, kind: int) -> None:
        """Send a command set (`IS_COMMAND`) or dataset (0), cut as the peer wants it."""
        # The peer names the largest PDU it takes, 0 for any (PS3.8 D.1); the length does not count the PDU header.
        limit = max(self.requestor.maximum_length or len(message) + PDV_HEADER_BYTES, SMALLEST_PDU_BYTES)
        step = limit - PDV_HEADER_BYTES
        pdus = bytearray()
        for start in range(0, len(message), step):
            part = message[start : start + step]
            control = kind | (IS_LAST if start + step >= len(message) else 0)
            pdus += struct.pack(">BxIIBB", P_DATA_TF, len(part) + 6, len(part) + 2, context_id, control) + part
        self._wire.send(bytes(pdus))

    def _take_other_pdu(self) -> None:
        header = self._reader.other_pdu
        if header is not None:
            self._upper.take_pdu(header)
        self._notice_end()

    def _notice_end(self) -> None:
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
        elif self.acse.is_aborted():
            self._upper.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False


def printable(ae_title: str) -> str:
    """Give an AE title as it may be stored and queued: some peers put control or other characters into it."""
    return "".join(character if " " <= character <= "~" else "?" for character in ae_title.strip())[:16]
