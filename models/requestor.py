"""What every pynetdicom association that we request needs: who we are, no delayed packets, no races."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_QUICK_ACKNOWLEDGE: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux


LONGEST_CONNECT_S: Final = 10.0
"""Wait for a TCP connection, where the other waits are longer."""


def requesting_entity(ae_title: str, timeout_s: float) -> AE:
    """Give an application entity that calls others; it proposes nothing yet.

    Args:
        ae_title: by which we call.
        timeout_s: of every wait for the peer but that for the connection.
    """
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = min(timeout_s, LONGEST_CONNECT_S)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    return entity


def without_delay() -> list[Any]:
    """Give event handlers for ``AE.associate`` that take two waits of 40 ms out of every C-STORE.

    Our last packet of an instance is not full: by Nagle's algorithm it would wait until the peer has acknowledged the
    one before. And peers that write the header and the rest of a response apart (DCMTK) wait for our acknowledgement
    of the header, which Linux puts off unless told anew after everything sent.
    """
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _set, [socket.TCP_NODELAY])]
    if _QUICK_ACKNOWLEDGE is not None:
        handlers.append((evt.EVT_DATA_SENT, _set, [_QUICK_ACKNOWLEDGE]))
    return handlers


def _set(event: Event, option: int) -> None:
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):  # the peer has reset the connection; the next read says so
            connection.socket.setsockopt(socket.IPPROTO_TCP, option, 1)


def without_races(association: Association) -> None:
    """Take two races with pynetdicom's threads out of an association that is established.

    Its reactor thread looks for requests of the peer about every millisecond. ``send_c_store`` pauses it first, yet a
    reactor that has just passed its checkpoint takes the response from the queue ("Received unexpected C-STORE service
    message"), and the sender waits for the whole DIMSE timeout. A peer sends no requests to a requestor that
    negotiated only the SCU role, so the reactor has nothing to look for.

    And a peer that falls silent is aborted by the sender, whose DIMSE timeout is over, and by the reactor, whose
    network timeout is, in the same moment. ``abort`` means to do so once, but both may pass its check; the second
    A-ABORT then meets a state machine that has no action for it (PS3.8 table 9-10, Evt15 in Sta13), and ends its thread
    with ``InvalidEventError``.
    """
    get_msg, abort, one_at_a_time = association.dimse.get_msg, association.abort, threading.RLock()

    def only_for_those_who_wait(block: bool = False) -> Any:
        return get_msg(block=True) if block else (None, None)

    def once(block: bool = True) -> None:
        with one_at_a_time:
            abort(block)

    association.dimse.get_msg = only_for_those_who_wait  # type: ignore[method-assign]
    association.abort = once  # type: ignore[method-assign]
