"""Taking P-DATA apart, on a loopback connection: any cut gives the same message, and any nonsense an error."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scp.wire import BUFFER_BYTES, ConnectionLost, Interrupted, MessageReader, PeerSilent, ProtocolError, Wait, Wire


def pdv(control: int, data: bytes, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def pdu(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


class Line:
    """A wire with somebody who writes to its other end."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.far = socket.create_connection(server.getsockname())
            near, _ = server.accept()
        self._near = near
        self._stopping, self.stop_signal = os.pipe()
        self.wire = Wire(near, self._stopping)
        self.wire.allow_silence(5.0)
        self.reader = MessageReader(self.wire)

    def write(self, data: bytes) -> None:
        """Write from a thread, because the other end may read late; then close."""
        threading.Thread(target=self._write, args=(data,)).start()

    def _write(self, data: bytes) -> None:
        try:
            self.far.sendall(data)
        except OSError:
            return  # the test has seen enough and closed
        self.far.close()

    def close(self) -> None:
        self.far.close()
        self._near.close()
        for descriptor in (self._stopping, self.stop_signal):
            try:
                os.close(descriptor)
            except OSError:
                continue


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def read_dataset(reader: MessageReader) -> bytes:
    # Each batch is copied before the next is asked for, as its pieces are valid only until then.
    return b"".join(b"".join(bytes(piece) for piece in batch) for batch in reader.dataset(1))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 3 * BUFFER_BYTES),
    seed=st.integers(0, 2**32),
    cuts=st.integers(0, 30),
    grouping=st.integers(1, 5),
)
def test_any_cut_gives_the_same_dataset(length, seed, cuts, grouping):
    chance = random.Random(seed)
    data = chance.randbytes(length)
    sizes = [chance.randrange(0, max(1, length // 4)) for _ in range(cuts)]
    pieces = cut(data, sizes)
    pdvs = [pdv(2 if index == len(pieces) - 1 else 0, piece) for index, piece in enumerate(pieces)]
    pdus = [pdu(*pdvs[start : start + grouping]) for start in range(0, len(pdvs), grouping)]
    line = Line()
    try:
        line.write(b"".join(pdus))
        assert read_dataset(line.reader) == data
    finally:
        line.close()


def test_two_messages_in_one_pdu_are_two(line):
    line.write(pdu(pdv(3, b"command"), pdv(2, b"dataset"), pdv(3, b"next")))
    first = line.reader.next_pdv()
    assert line.reader.command(first, 100) == b"command"
    assert read_dataset(line.reader) == b"dataset"
    assert line.reader.within_pdu
    assert line.reader.command(line.reader.next_pdv(), 100) == b"next"
    assert not line.reader.within_pdu


def test_an_empty_pdu_is_passed_over(line):
    line.write(pdu() + pdu(pdv(2, b"dataset")))
    assert read_dataset(line.reader) == b"dataset"


def test_another_pdu_is_left_to_the_upper_layer(line):
    line.write(pdu(pdv(0, b"data")) + bytes.fromhex("07000000000400000201"))
    with pytest.raises(Interrupted):
        read_dataset(line.reader)
    assert line.reader.other_pdu == (7, 4)
    assert line.wire.take(4) == bytes.fromhex("00000201")


@pytest.mark.parametrize(
    "nonsense",
    [
        pdu(pdv(0, b"x"), pdv(3, b"command")),
        pdu(pdv(0, b"x"), pdv(2, b"y", context_id=3)),
        struct.pack(">BxI", 4, 5) + b"abcde",
        struct.pack(">BxIIBB", 4, 6, 1, 1, 2),
        struct.pack(">BxIIBB", 4, 6, 3, 1, 2) + b"x",
        struct.pack(">BxIIBB", 4, 8, 0xFFFFFFFF, 1, 2) + b"xx",
    ],
    ids=["a command between", "another context", "no PDV fits", "too short", "too long", "far too long"],
)
def test_a_dataset_that_breaks_the_rules_is_an_error(nonsense, line):
    line.write(nonsense)
    with pytest.raises(ProtocolError):
        read_dataset(line.reader)


@pytest.mark.parametrize(
    "nonsense",
    [
        pdu(pdv(1, b"x"), pdv(0, b"y")),
        pdu(pdv(1, b"x"), pdv(3, b"y", context_id=3)),
        pdu(pdv(1, bytes(99)), pdv(3, b"xx")),
    ],
)
def test_a_command_that_breaks_the_rules_is_an_error(nonsense, line):
    line.write(nonsense)
    with pytest.raises(ProtocolError):
        line.reader.command(line.reader.next_pdv(), 100)


def test_the_end_of_the_connection_is_an_error_within_a_message(line):
    line.write(pdu(pdv(0, b"data"))[:-1])
    with pytest.raises(ConnectionLost):
        read_dataset(line.reader)


def test_silence_is_an_error(line):
    line.wire.allow_silence(0.05)
    with pytest.raises(PeerSilent):
        line.wire.take(1)


def test_trickled_bytes_do_not_move_a_deadline(line):
    line.wire.set_deadline(0.3)
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            line.far.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(PeerSilent):
        line.wire.take(100_000)
    stop.set()
    thread.join()


def test_a_stop_ends_the_wait_even_when_bytes_have_come(line):
    assert line.wire.wait(0.01) is Wait.TIMEOUT
    line.far.send(b"x")
    assert line.wire.wait(1.0) is Wait.DATA
    os.close(line.stop_signal)
    assert line.wire.wait(1.0) is Wait.STOPPING
