"""Reads what the receivers tell: one JSON request per message, and their end as end of file."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Final

from models.errors import Unprocessable
from models.requests import InferenceRequest
from models.telemetry import get_logger

MAX_NOTICE_BYTES: Final = 65_536
BUFFER_BYTES: Final = 1 << 20

log = get_logger("scp.notices")


def notice_pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends: the parent's and the receiver's. Messages keep their borders."""
    parent, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (parent, receiver):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return parent, receiver


def send_notice(end: socket.socket, request: InferenceRequest) -> bool:
    """Tell the parent of an accepted instance; False when it is slow or gone, and its sweeper will find the file."""
    try:
        end.send(json.dumps(request.to_payload()).encode(), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


class NoticeReader:
    """Reads all receivers in one thread and hands each request on."""

    def __init__(self, deliver: Callable[[InferenceRequest], None]) -> None:
        self._deliver = deliver
        self._selector = selectors.DefaultSelector()
        self._stopping, self._stop_signal = socket.socketpair()
        self._selector.register(self._stopping, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def attach(self, end: socket.socket) -> None:
        """Read this receiver too, from now on; it is closed when the receiver has closed its end."""
        end.setblocking(False)
        self._selector.register(end, selectors.EVENT_READ)

    def stop(self, timeout_s: float) -> None:
        """Read what the receivers, all of them gone, have left, then end."""
        self._stop_signal.close()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            ready = [key.fileobj for key, _ in self._selector.select()]
            ends = [end for end in ready if isinstance(end, socket.socket) and end is not self._stopping]
            for end in ends:
                self._read(end)
            if not ends:
                return  # only the stop signal is left to be read

    def _read(self, end: socket.socket) -> None:
        while True:
            try:
                message = end.recv(MAX_NOTICE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._selector.unregister(end)
                end.close()
                return
            try:
                request = InferenceRequest.from_payload(json.loads(message))
            except (Unprocessable, ValueError):
                log.error("notice_unreadable")
                continue
            self._deliver(request)
