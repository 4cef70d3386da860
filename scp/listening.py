"""Listening sockets of the SCP, opened by the parent and shared by its children."""

from __future__ import annotations

import errno
import socket
from typing import Final

from models.errors import ConfigurationError

BACKLOG: Final = 128
"""Connections that wait for a receiver."""


def listen(host: str, port: int, entry: str) -> socket.socket:
    """Open a listening socket.

    Args:
        host: address; ``::`` for IPv6 and IPv4.
        port: 0 takes a free one.
        entry: what stands before HOST and PORT in the names of its settings, for errors.

    Raises:
        ConfigurationError: the address is not ours, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"RADSTREAM_SCP_{entry}HOST: {host} is not an address of this host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            option = "" if entry else " with --port"
            raise ConfigurationError(
                f"RADSTREAM_SCP_{entry}PORT: {where} is in use; is another SCP running? Choose another{option}"
            ) from error
        raise ConfigurationError(f"RADSTREAM_SCP_{entry}PORT: cannot listen on {where}: {error.strerror}") from error
    return listener
