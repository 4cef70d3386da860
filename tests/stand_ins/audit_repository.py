"""An audit record repository that keeps what it is sent: TLS or TCP with octet counting, or datagrams; and a schema."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lxml import etree

SCHEMA = etree.RelaxNG(etree.parse(str(Path(__file__).parent / "audit_message.rng")))
HEADER = re.compile(
    rb"<(?P<priority>\d{1,3})>1 (?P<time>\S+) (?P<host>\S+) radstream (?P<pid>\d+) DICOM\+RFC3881 - (?P<xml><.*)"
)


class Heard:
    """One message, checked against the schema as it came."""

    def __init__(self, xml: bytes, priority: int | None = None, pid: int | None = None) -> None:
        self.xml = xml
        self.priority, self.pid = priority, pid
        self.root = etree.fromstring(xml)
        SCHEMA.assertValid(self.root)

    @classmethod
    def of_syslog(cls, message: bytes) -> Heard:
        """Take the header off (RFC 5424)."""
        match = HEADER.fullmatch(message)
        assert match is not None, message[:200]
        return cls(match["xml"], int(match["priority"]), int(match["pid"]))

    @property
    def event(self) -> str:
        """Meaning of EventID."""
        return str(self.root.find("EventIdentification/EventID").get("originalText"))

    @property
    def types(self) -> list[str]:
        """Meanings of EventTypeCode."""
        return [each.get("originalText") for each in self.root.iterfind("EventIdentification/EventTypeCode")]

    @property
    def head(self) -> dict[str, str]:
        """Action and outcome."""
        of = self.root.find("EventIdentification").attrib
        return {"action": of["EventActionCode"], "outcome": of["EventOutcomeIndicator"]}

    def participant(self, role: str) -> dict[str, str]:
        """Attributes of the one with a role; by its code."""
        (found,) = self.root.xpath(f"ActiveParticipant[RoleIDCode/@csd-code='{role}']")
        return dict(found.attrib)

    def objects(self, id_type: str) -> list[Any]:
        """Objects whose ID is of a type; by its code."""
        return self.root.xpath(f"ParticipantObjectIdentification[ParticipantObjectIDTypeCode/@csd-code='{id_type}']")

    def studies(self) -> dict[str, dict[str, int]]:
        """Number of instances by study and SOP class."""
        return {
            study.get("ParticipantObjectID"): {
                each.get("UID"): int(each.get("NumberOfInstances")) for each in study.iter("SOPClass")
            }
            for study in self.objects("110180")
        }

    def patients(self) -> list[str]:
        """Identifiers of the patients."""
        return [patient.get("ParticipantObjectID") for patient in self.objects("2")]

    def detail(self, name: str) -> str:
        """A detail of whatever object has it."""
        (value,) = self.root.xpath(f"//ParticipantObjectDetail[@type='{name}']/@value")
        return base64.b64decode(value).decode()


def heard_in(file: Path) -> list[Heard]:
    """The messages of an audit file."""
    return [Heard(line) for line in file.read_bytes().splitlines()]


class AuditRepository:
    """Listens on loopback; can go away and come back on the same port."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._context = context
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = port
        self.raw: list[bytes] = []
        self.heard: list[Heard] = []
        self.faults: list[BaseException] = []

    def __enter__(self) -> AuditRepository:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()
        assert self.faults == []

    def listen(self) -> None:
        """Be there."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._run(self._accept, self._listener)

    def go_away(self) -> None:
        """Cut every connection and refuse new ones."""
        assert self._listener is not None
        for each in (self._listener, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._connections, self._threads = [], []

    def _run(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                try:
                    if self._context is not None:
                        connection = self._context.wrap_socket(connection, server_side=True)
                except OSError:
                    connection.close()
                    continue
                self._connections.append(connection)
                self._run(self._receive, connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream, suppress(OSError, EOFError):
                for message in frames(stream):
                    self.raw.append(message)
                    self.heard.append(Heard.of_syslog(message))
        except BaseException as error:
            self.faults.append(error)


def frames(stream: Any) -> Iterator[bytes]:
    """Read octet-counted messages (RFC 6587 section 3.4.1) until the end."""
    while True:
        digits = b""
        while (sign := stream.read(1)) not in (b" ", b""):
            assert sign.isdigit(), sign
            digits += sign
        if not sign:
            return
        message = stream.read(int(digits))
        if len(message) < int(digits):
            return
        yield message
