"""What the `doctor` of every process asks of the audit trail, where one is set. No message is sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from models.audit.settings import Address, AuditSettings, Way
from models.audit.syslog import client_context
from models.diagnosis.checks import Finding, failure, ok, skipped
from models.diagnosis.host import check_private
from models.diagnosis.peers import check_certificate, check_connection, check_handshake

WHERE: Final = "RADSTREAM_AUDIT_REPOSITORY"


def check_audit(audit: AuditSettings, timeout_s: float) -> Iterator[Finding]:
    """See whether the repository takes connections, its TLS holds, and the file can be written and is private."""
    if not audit.is_on:
        yield skipped("no audit trail is set (RADSTREAM_AUDIT_REPOSITORY, RADSTREAM_AUDIT_FILE)")
        return
    if audit.file is not None:
        yield from _file(audit.file)
    if audit.tls_certificate is not None:
        yield from check_certificate(audit.tls_certificate, "certificate", "RADSTREAM_AUDIT_TLS_CERTIFICATE")
    if audit.tls_key is not None:
        yield from check_private(audit.tls_key, "key")
    if audit.address is not None:
        yield from _repository(audit, audit.address, timeout_s)


def _file(path: Path) -> Iterator[Finding]:
    if path.exists():
        yield from check_private(path, "audit file")
    elif os.access(path.parent, os.W_OK | os.X_OK):
        yield ok(f"audit file {path} will be made with the first message")
    else:
        yield failure(
            f"audit file {path} cannot be made by user {os.geteuid()}",
            f"sudo install -d -o {os.geteuid()} {path.parent}, or set RADSTREAM_AUDIT_FILE",
        )


def _repository(audit: AuditSettings, to: Address, timeout_s: float) -> Iterator[Finding]:
    place = f"{to.way}://{to.host}:{to.port}"
    if to.way is Way.UDP:
        try:
            socket.getaddrinfo(to.host, to.port, type=socket.SOCK_DGRAM)
        except socket.gaierror:
            yield failure(f"the name {to.host} is not known", f"correct {WHERE}, or the DNS (getent hosts {to.host})")
        else:
            yield ok(f"{place} is sent to; whether it arrives is not told by UDP")
        return
    unreachable = check_connection(to.host, to.port, WHERE, timeout_s)
    if unreachable is not None:
        yield unreachable
        return
    context = client_context(audit)
    if context is not None:
        yield from check_handshake(to.host, to.port, context, WHERE, timeout_s)
    else:
        yield ok(f"{place} takes connections")
