"""Audit messages as syslog messages (RFC 5424), and the three ways on which they travel (PS3.15 A.6 and A.7).

TLS (RFC 5425) and TCP (RFC 6587) carry each message after the count of its octets; UDP (RFC 5426) carries one in a
datagram. Syslog knows no answer: a message counts as taken when the kernel of the repository has acknowledged its
bytes and the connection still stands. What was sent on a connection that broke is sent again, so that one may come
twice and none is left out.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from models.audit.settings import Address, AuditSettings, Way
from models.errors import ConfigurationError

FACILITY: Final = 10
"""Security and authorisation messages (PS3.15 A.6)."""
NOTICE: Final = 5
WARNING: Final = 4
MESSAGE_ID: Final = "DICOM+RFC3881"
APPLICATION_NAME: Final = "radstream"
POLL_S: Final = 0.005
CLOSE_S: Final = 1.0
"""For the repository to answer our closing."""


def syslog_message(xml: bytes, *, at: datetime, host: str, pid: int, is_failure: bool) -> bytes:
    """Put a header before the XML of an audit message."""
    priority = FACILITY * 8 + (WARNING if is_failure else NOTICE)
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # HOSTNAME is at most 255 printable characters (RFC 5424 section 6).
    name = "".join(sign for sign in host if "!" <= sign <= "~")[:255] or "-"
    return f"<{priority}>1 {moment} {name} {APPLICATION_NAME} {pid} {MESSAGE_ID} - ".encode("ascii") + xml


def client_context(settings: AuditSettings) -> ssl.SSLContext | None:
    """Make the TLS context; None for another way.

    Raises:
        ConfigurationError: a file is not what it should be.
    """
    address = settings.address
    if address is None or address.way is not Way.TLS:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
    except (OSError, ValueError) as error:
        raise ConfigurationError("RADSTREAM_AUDIT_TLS_CA: no PEM certificates in it") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls_certificate is not None:
        try:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                "RADSTREAM_AUDIT_TLS_CERTIFICATE, RADSTREAM_AUDIT_TLS_KEY: not a PEM certificate and its "
                "unencrypted key"
            ) from error
    return context


SENT_TOGETHER: Final = 32


class TooLong(Exception):
    """A message does not fit into a datagram."""


class Repository:
    """The way to an audit record repository; connects when needed and holds the connection. For one thread."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, timeout_s: float) -> None:
        self._address = address
        self._context = context
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    @property
    def most_at_once(self) -> int:
        """How many messages one `send` takes at most: of datagrams one, so that one too long stops no other."""
        return 1 if self._address.way is Way.UDP else SENT_TOGETHER

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages; when this returns they are taken.

        Raises:
            OSError: they are not, all or some; the connection is closed.
            TooLong: the datagram cannot be so long.
        """
        try:
            if self._connection is not None and self._is_over(self._connection):
                self.close()
            if self._connection is None:
                self._connection = self._connect()
            if self._address.way is Way.UDP:
                self._send_datagrams(self._connection, messages)
            else:
                self._connection.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))
                self._await_taken(self._connection)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if there is one; over TLS with the alert that RFC 5425 section 4.4 asks for."""
        if self._connection is None:
            return
        if isinstance(self._connection, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # it may be broken
                self._connection.settimeout(CLOSE_S)
                self._connection.unwrap()
        self._connection.close()
        self._connection = None

    def _connect(self) -> socket.socket:
        address = (self._address.host, self._address.port)
        if self._address.way is Way.UDP:
            family, kind, protocol, _, found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
            datagrams = socket.socket(family, kind, protocol)
            datagrams.connect(found)
            return datagrams
        connection = socket.create_connection(address, self._timeout_s)
        if self._context is None:
            return connection
        try:
            return self._context.wrap_socket(connection, server_hostname=self._address.host)
        except BaseException:
            connection.close()
            raise

    def _send_datagrams(self, connection: socket.socket, messages: Sequence[bytes]) -> None:
        for message in messages:
            try:
                connection.send(message)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    raise TooLong from error
                raise

    def _await_taken(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + self._timeout_s
        while _bytes_on_the_way(connection):
            if time.monotonic() > deadline:
                raise TimeoutError("the repository takes nothing")
            time.sleep(POLL_S)
        if self._is_over(connection):
            raise ConnectionError("the repository has closed the connection")

    def _is_over(self, connection: socket.socket) -> bool:
        """Look whether the repository has closed; it never says anything else that matters."""
        if self._address.way is Way.UDP:
            return False
        connection.setblocking(False)
        try:
            while connection.recv(4096):
                pass
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            connection.settimeout(self._timeout_s)


def _bytes_on_the_way(connection: socket.socket) -> int:
    # SIOCOUTQ of tcp(7), which has the number of TIOCOUTQ: written and not yet acknowledged.
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    (count,) = struct.unpack("i", answer)
    return int(count)


def _no_password() -> str:
    # Without this, OpenSSL would ask on the terminal and a service would hang.
    raise ValueError("the key is encrypted")
