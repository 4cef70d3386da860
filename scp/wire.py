"""Bytes of one connection, and the presentation data values (PDVs) in them, without copying datasets.

`Wire` buffers what the socket gives. `MessageReader` takes P-DATA-TF PDUs apart (PS3.8 9.3.5 and annex E) and hands a
dataset on in pieces that lie in that buffer. Both leave every other PDU to the upper layer.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

PDU_HEADER_BYTES: Final = 6
PDV_HEADER_BYTES: Final = 6
P_DATA_TF: Final = 0x04
BUFFER_BYTES: Final = 1 << 19
"""Fits the second-level cache of a core, so that hashing and writing find the bytes there."""

QUICK_ACKNOWLEDGE: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
"""Linux only."""

IS_COMMAND: Final = 0x01
IS_LAST: Final = 0x02


class ConnectionLost(Exception):
    """The peer closed or reset the connection."""


class PeerSilent(Exception):
    """The peer sent nothing, or took nothing, for longer than allowed."""


class ProtocolError(Exception):
    """What came is not what PS3.8 allows here; the association is aborted."""


class Interrupted(Exception):
    """A PDU of another type (release, abort) came within a message."""


class Wait(Enum):
    """Why `Wire.wait` returned."""

    DATA = auto()
    STOPPING = auto()
    TIMEOUT = auto()


class Wire:
    """A connected socket with a fixed receive buffer.

    Args:
        connection: the socket, plain or TLS.
        stopping_descriptor: becomes readable when the process stops.
    """

    def __init__(self, connection: socket.socket, stopping_descriptor: int) -> None:
        self._socket = connection
        self._stopping = stopping_descriptor
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._deadline: float | None = None
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(stopping_descriptor, select.POLLIN)

    @property
    def buffered(self) -> int:
        """Bytes that can be had without the socket."""
        return self._end - self._start

    def allow_silence(self, timeout_s: float) -> None:
        """From now on each read and write may wait so long."""
        self._deadline = None
        if self._socket.gettimeout() != timeout_s:
            self._socket.settimeout(timeout_s)

    def set_deadline(self, timeout_s: float) -> None:
        """All reads together may take so long: a peer that trickles bytes gains nothing."""
        self._deadline = time.monotonic() + timeout_s

    def wait(self, timeout_s: float) -> Wait:
        """Wait for the next bytes, unless the process stops."""
        if self.buffered or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return Wait.DATA
        ready = {descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)}
        if self._stopping in ready:
            return Wait.STOPPING
        return Wait.DATA if ready else Wait.TIMEOUT

    def take(self, count: int) -> bytes:
        """Take exactly `count` bytes.

        Raises:
            ConnectionLost, PeerSilent: they did not come.
        """
        taken = bytearray()
        while len(taken) < count:
            taken += self.piece(count - len(taken))
        return bytes(taken)

    def piece(self, limit: int) -> memoryview:
        """Take 1 to `limit` bytes as a view that holds until `buffered` is 0 and more is read.

        Raises:
            ConnectionLost, PeerSilent: nothing came.
        """
        if self._start == self._end:
            self._fill()
        start = self._start
        self._start = min(self._end, start + limit)
        return self._buffer[start : self._start]

    def skip(self, count: int) -> None:
        """Discard exactly `count` bytes."""
        while count:
            count -= len(self.piece(count))

    def _fill(self) -> None:
        self._start = self._end = 0
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise PeerSilent
            self._socket.settimeout(left_s)
        try:
            count = self._socket.recv_into(self._buffer)
        except TimeoutError as error:
            raise PeerSilent from error
        except OSError as error:
            raise ConnectionLost from error
        if count == 0:
            raise ConnectionLost
        self._end = count
        if count < BUFFER_BYTES:
            self._acknowledge()

    def _acknowledge(self) -> None:
        # A sender with Nagle's algorithm (DCMTK, among many) holds the tail of a PDU back until all before it is
        # acknowledged, and the kernel delays acknowledgements by 40 ms. The option does not stay: it sends the
        # acknowledgement that is due now.
        if QUICK_ACKNOWLEDGE is not None:
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGE, 1)
            except OSError:
                return  # the peer has reset the connection; the next read says so

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            ConnectionLost, PeerSilent: the peer does not take it.
        """
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise PeerSilent from error
        except OSError as error:
            raise ConnectionLost from error

    def drain(self, timeout_s: float) -> None:
        """Say that no more will be sent, and discard what comes until the peer closes, for at most `timeout_s`.

        Closing with unread bytes would reset the connection, and the peer might never see our last PDU.
        """
        self.set_deadline(timeout_s)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the connection is gone already
        try:
            while True:
                self._fill()
        except (ConnectionLost, PeerSilent):
            return


class PduHeader(NamedTuple):
    """Type and length of a PDU."""

    kind: int
    length: int


class Pdv(NamedTuple):
    """Header of a presentation data value; `length` counts the data that follows it, in bytes."""

    context_id: int
    control: int
    length: int

    @property
    def is_command(self) -> bool:
        """Part of a command set, else of a dataset."""
        return bool(self.control & IS_COMMAND)

    @property
    def is_last(self) -> bool:
        """The last fragment of its command set or dataset."""
        return bool(self.control & IS_LAST)


class MessageReader:
    """Takes the P-DATA-TF PDUs of one association apart.

    Fragments may be cut anywhere: several PDVs in one PDU, one message over many PDUs, a dataset that begins in the
    PDU of its command.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pdu_left = 0
        self.other_pdu: PduHeader | None = None
        """Header of the PDU that ended a message; its body is still on the wire."""

    @property
    def within_pdu(self) -> bool:
        """Whether a P-DATA-TF PDU has PDVs left."""
        return self._pdu_left > 0

    def next_pdv(self) -> Pdv | None:
        """Read the next PDV header; None when a PDU of another type came, see `other_pdu`.

        Raises:
            ProtocolError: lengths contradict each other.
        """
        while self._pdu_left == 0:
            kind, length = struct.unpack(">BxI", self._wire.take(PDU_HEADER_BYTES))
            if kind != P_DATA_TF:
                self.other_pdu = PduHeader(kind, length)
                return None
            self._pdu_left = length
        if self._pdu_left < PDV_HEADER_BYTES:
            raise ProtocolError("a PDU is too short for its PDV")
        item_length, context_id, control = struct.unpack(">IBB", self._wire.take(PDV_HEADER_BYTES))
        # The item length counts context ID and control header, but not itself (PS3.8 9.3.5.1).
        if not 2 <= item_length <= self._pdu_left - 4:
            raise ProtocolError("a PDV is longer than its PDU")
        self._pdu_left -= 4 + item_length
        return Pdv(context_id, control, item_length - 2)

    def command(self, first: Pdv, limit: int) -> bytes:
        """Read a command set whose first PDV header was just read.

        Raises:
            ProtocolError: it is longer than `limit`, changes its context, or a dataset fragment comes between.
            Interrupted: another PDU came.
        """
        collected = bytearray()
        pdv: Pdv | None = first
        while True:
            if pdv is None:
                raise Interrupted
            if not pdv.is_command or pdv.context_id != first.context_id:
                raise ProtocolError("a command set is mixed with other fragments")
            if len(collected) + pdv.length > limit:
                raise ProtocolError("a command set is too long")
            collected += self._wire.take(pdv.length)
            if pdv.is_last:
                return bytes(collected)
            pdv = self.next_pdv()

    def dataset(self, context_id: int) -> Iterator[list[memoryview]]:
        """Read a dataset; each batch of pieces is valid until the next one is asked for.

        Raises:
            ProtocolError: a fragment of a command or of another context comes between.
            Interrupted: another PDU came.
        """
        batch: list[memoryview] = []
        while True:
            if batch and self._wire.buffered < PDU_HEADER_BYTES + PDV_HEADER_BYTES:
                yield batch  # the next header may refill the buffer that these pieces lie in
                batch = []
            pdv = self.next_pdv()
            if pdv is None:
                raise Interrupted
            if pdv.is_command or pdv.context_id != context_id:
                raise ProtocolError("a dataset is mixed with other fragments")
            left = pdv.length
            while left:
                if batch and not self._wire.buffered:
                    yield batch
                    batch = []
                piece = self._wire.piece(left)
                batch.append(piece)
                left -= len(piece)
            if pdv.is_last:
                break
        if batch:
            yield batch
