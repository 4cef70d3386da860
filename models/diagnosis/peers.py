"""What the `doctor` of every process asks of DICOM peers, and how long certificates are still good.

A peer is asked in steps, name, connection, TLS, association, C-ECHO, so that a finding says which one fails.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association

from models.diagnosis.checks import Finding, failure, ok, warning
from models.requestor import requesting_entity, without_delay, without_races

VERIFICATION: Final = "1.2.840.10008.1.1"
ASKED_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
"""In which it is asked whether a peer takes a storage class."""
DOCTOR_AE_TITLE: Final = "RADSTREAM_DOCTOR"
EXPIRES_SOON_DAYS: Final = 30
CALLING_UNKNOWN: Final = (1, 3)
CALLED_UNKNOWN: Final = (1, 7)
"""Source and diagnostic of a rejection, PS3.8 9.3.4."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity to be asked.

    Attributes:
        settings: what is to be corrected when it does not answer, for remedies.
        tls: context for TLS, None for none.
        storage_classes: that it should take, by name.
        expected_implementation: implementation class UID that it should have, None for any.
    """

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    settings: str
    tls: ssl.SSLContext | None = None
    storage_classes: dict[str, str] = field(default_factory=dict)
    expected_implementation: str | None = None

    @property
    def place(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"


def check_peer(peer: Peer, timeout_s: float) -> Iterator[Finding]:
    """Ask a peer step by step; the first that fails ends it."""
    unreachable = check_connection(peer.host, peer.port, peer.settings, timeout_s)
    if unreachable is not None:
        yield unreachable
        return
    if peer.tls is not None:
        failed = check_handshake(peer.host, peer.port, peer.tls, peer.settings, timeout_s)
        yield from failed
        if any(finding.severity == "failure" for finding in failed):
            return
    yield from _associate(peer, timeout_s)


def check_connection(host: str, port: int, settings: str, timeout_s: float) -> Finding | None:
    """Connect; None when that works."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except socket.gaierror:
        return failure(
            f"the name {host} is not known", f"correct the host in {settings}, or the DNS (getent hosts {host})"
        )
    except ConnectionRefusedError:
        return failure(f"nothing listens on {host}:{port}", f"start it there, or correct host and port in {settings}")
    except TimeoutError:
        return failure(
            f"{host}:{port} gives no answer within {timeout_s:g} s",
            f"let the firewall pass TCP to {host}:{port} (nc -vz {host} {port}), or correct {settings}",
        )
    except OSError as error:
        return failure(f"{host}:{port} cannot be reached ({error.strerror})", f"see the network, or correct {settings}")
    return None


# TLS


def check_handshake(host: str, port: int, context: ssl.SSLContext, settings: str, timeout_s: float) -> list[Finding]:
    """Shake hands; tell the days that the peer's certificate is still good, or why it is not taken."""
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
            # TLS 1.3: a server that refuses our certificate says so only with the first read.
            secured.settimeout(0.3)
            with suppress(TimeoutError):
                secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        # The reason is OpenSSL's own word, from a fixed list.
        return [
            failure(
                f"the certificate of {host}:{port} is not trusted: {error.verify_message}",
                f"renew it there, or name its authority (tls_ca) and its very host name in {settings}",
            )
        ]
    except ssl.SSLError as error:
        return [
            failure(
                f"no TLS with {host}:{port} ({error.reason or 'closed'})",
                f"see whether it speaks TLS 1.2 and knows our certificate; tls_certificate and tls_key in {settings}",
            )
        ]
    except OSError:
        return [
            failure(
                f"{host}:{port} does not answer in TLS",
                f"see whether it speaks TLS on this port, or take tls out of {settings}",
            )
        ]
    if certificate is None:
        return []
    return list(
        _validity(x509.load_der_x509_certificate(certificate), f"the certificate of {host}:{port}", "renew it there")
    )


def check_certificate(path: Path, what: str, settings: str) -> Iterator[Finding]:
    """Tell the days that a PEM file's first certificate is still good."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        yield failure(f"{what} {path} cannot be read ({error.strerror})", f"put it there, or correct {settings}")
        return
    except ValueError:
        yield failure(f"{what} {path} holds no PEM certificate", f"correct {settings}")
        return
    yield from _validity(certificate, f"{what} {path}", f"renew it (openssl x509 -in {path} -noout -enddate)")


def _validity(certificate: x509.Certificate, what: str, remedy: str) -> Iterator[Finding]:
    now = datetime.now(UTC)
    if certificate.not_valid_before_utc > now:
        yield failure(
            f"{what} is good only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "see the clock of this host (date -u); if it is right, wait or renew",
        )
        return
    days = (certificate.not_valid_after_utc - now).days
    if days < 0:
        yield failure(f"{what} expired {-days} days ago", remedy)
    elif days < EXPIRES_SOON_DAYS:
        yield warning(f"{what} expires in {days} days", remedy)
    else:
        yield ok(f"{what} is good for {days} days")


# DICOM


def _associate(peer: Peer, timeout_s: float) -> Iterator[Finding]:
    entity = requesting_entity(peer.calling_ae_title, timeout_s)
    entity.add_requested_context(VERIFICATION)
    for sop_class in peer.storage_classes.values():
        entity.add_requested_context(sop_class, list(ASKED_SYNTAXES))
    tls: dict[str, Any] = {} if peer.tls is None else {"tls_args": (peer.tls, peer.host)}
    started = time.perf_counter()
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=without_delay(), **tls)
    try:
        if not association.is_established:
            yield _refusal(association, peer, timeout_s)
            return
        without_races(association)
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        yield from _foreign(association, peer)
        if VERIFICATION in accepted:
            yield _echo(association, peer, started, timeout_s)
        else:
            yield warning(
                f"{peer.ae_title} at {peer.place} associates, but takes no C-ECHO", "allow Verification there"
            )
        yield from _not_taken(accepted, peer)
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _refusal(association: Association, peer: Peer, timeout_s: float) -> Finding:
    if not association.is_rejected:
        return failure(
            f"{peer.place} connects, but does not answer an association within {timeout_s:g} s",
            f"see whether a DICOM service listens there and is not hung; or correct the port in {peer.settings}",
        )
    answer = association.acceptor.primitive
    source, diagnostic = getattr(answer, "result_source", 0), getattr(answer, "diagnostic", 0)
    if (source, diagnostic) == CALLING_UNKNOWN:
        return failure(
            f"{peer.ae_title} at {peer.place} does not know our AE title {peer.calling_ae_title}",
            f"enter {peer.calling_ae_title} with this host's address there, or set calling_ae_title in {peer.settings}",
        )
    if (source, diagnostic) == CALLED_UNKNOWN:
        return failure(f"{peer.place} is not {peer.ae_title}", f"correct ae_title in {peer.settings}; capitals count")
    if source == 3:  # PS3.8 9.3.4: the presentation layer, congestion or a limit
        return failure(
            f"{peer.ae_title} at {peer.place} has no association left for us", "raise its limit, or end idle ones there"
        )
    return failure(
        f"{peer.ae_title} at {peer.place} rejects our association (source {source}, reason {diagnostic})",
        f"see its log; it may want this host's address beside {peer.calling_ae_title}, or TLS",
    )


def _foreign(association: Association, peer: Peer) -> Iterator[Finding]:
    theirs = association.acceptor.implementation_class_uid
    if peer.expected_implementation is not None and theirs != peer.expected_implementation:
        yield failure(
            f"what answers as {peer.ae_title} at {peer.place} is another program, not radstream",
            f"end it, or correct {peer.settings}",
        )


def _echo(association: Association, peer: Peer, started: float, timeout_s: float) -> Finding:
    try:
        status = association.send_c_echo().get("Status")
    except (RuntimeError, ValueError, OSError):
        status = None
    milliseconds = (time.perf_counter() - started) * 1000
    who = f"{peer.ae_title} at {peer.place}"
    if status == 0:
        return ok(f"{who} answers C-ECHO of {peer.calling_ae_title} in {milliseconds:.0f} ms")
    if status is None:
        return failure(
            f"{who} associates, but does not answer C-ECHO within {timeout_s:g} s", "restart it; see its log"
        )
    return failure(f"{who} answers C-ECHO with status 0x{status:04X}", "see its log")


def _not_taken(accepted: Collection[str], peer: Peer) -> Iterator[Finding]:
    refused = [name for name, sop_class in peer.storage_classes.items() if sop_class not in accepted]
    if refused:
        yield failure(
            f"{peer.ae_title} does not take {', '.join(refused)}",
            f"allow these storage classes there, or take them out of outputs in {peer.settings}",
        )
