"""pynetdicom's upper layer without its polling.

pynetdicom gives each association two threads that look every millisecond whether there is something to do, and
copies each PDU several times. Here the thread of the association itself steps pynetdicom's state machine (PS3.8 9.2)
when there is an event, and waits in the kernel otherwise. P-DATA-TF PDUs never come by here: see `scp.wire`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pynetdicom.dul import DULServiceProvider

from scp.wire import P_DATA_TF, PDU_HEADER_BYTES, ConnectionLost, PduHeader, PeerSilent, Wire

if TYPE_CHECKING:
    from pynetdicom.association import Association

MAX_CONTROL_PDU_BYTES: Final = 1 << 20
"""An A-ASSOCIATE-RQ with 128 contexts of 40 syntaxes each has some 400 kB; all other control PDUs have a dozen."""

ASSOCIATE_RQ_TO_ABORT: Final = range(1, 8)

IDLE: Final = "Sta1"
AWAITING_RELEASE: Final = "Sta7"
AWAITING_CLOSE: Final = "Sta13"

CONNECTION_CLOSED: Final = "Evt17"
TIMER_EXPIRED: Final = "Evt18"
INVALID_PDU: Final = "Evt19"


class SteppedUpperLayer(DULServiceProvider):
    """The upper layer of one acceptor, stepped by the thread that uses it."""

    def __init__(self, association: Association, wire: Wire) -> None:
        super().__init__(association)
        self.wire = wire

    def start(self) -> None:
        """There is no thread to start; the association may go on."""
        self.assoc._dul_ready.set()

    def is_alive(self) -> bool:
        """There is no thread to wait for."""
        return False

    @property
    def state(self) -> str:
        """State of PS3.8 9.2.1, as `Sta6`."""
        return self.state_machine.current_state

    def send_pdu(self, primitive: Any) -> None:
        """Hand a primitive to the state machine, which sends its PDU at once."""
        super().send_pdu(primitive)
        self.settle()

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """Give the next primitive for the user; None when there is none in time or the connection is gone."""
        if wait:
            self.wire.set_deadline(timeout if timeout is not None else 3600.0)
            self.settle()
            while self.to_user_queue.empty() and self.state not in (IDLE, AWAITING_CLOSE):
                if not self._step():
                    break
        return super().receive_pdu(wait=False)

    def settle(self) -> None:
        """Step the state machine until no event and no primitive waits, or it has come to its end.

        Closing the connection leaves an event of its own, for which the idle state has no action.
        """
        while not self._kill_thread and (not self.event_queue.empty() or self._process_recv_primitive()):
            self.state_machine.do_action(self.event_queue.get_nowait())

    def happened(self, event: str) -> None:
        """Step the state machine by an event of the transport."""
        self.event_queue.put(event)
        self.settle()

    def take_pdu(self, header: PduHeader) -> None:
        """Read the body of a PDU, decode it and step the state machine by it."""
        if header.kind not in ASSOCIATE_RQ_TO_ABORT or header.length > MAX_CONTROL_PDU_BYTES:
            self.happened(INVALID_PDU)
            return
        body = self.wire.take(header.length)
        encoded = bytes((header.kind, 0)) + header.length.to_bytes(4, "big") + body
        try:
            pdu, event = self._decode_pdu(bytearray(encoded))
        except Exception:  # pynetdicom's decoders raise whatever a broken PDU leads them to
            self.happened(INVALID_PDU)
            return
        self._recv_pdu.put(pdu)
        self.happened(event)

    def _step(self) -> bool:
        """Take one PDU; False when none came."""
        try:
            head = self.wire.take(PDU_HEADER_BYTES)
            header = PduHeader(head[0], int.from_bytes(head[2:], "big"))
            if self.state == AWAITING_RELEASE and header.kind == P_DATA_TF:
                self.wire.skip(header.length)  # the peer began another message; nobody will serve it
            else:
                self.take_pdu(header)
        except PeerSilent:
            return False
        except ConnectionLost:
            self.happened(CONNECTION_CLOSED)
            return False
        return True
