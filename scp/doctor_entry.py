"""The SCP's own doors for its `doctor`: DICOM port, calling AE titles, TLS files and the STOW-RS entry."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from models.diagnosis.checks import Finding, failure, ok, skipped, warning
from models.diagnosis.host import check_private
from models.diagnosis.peers import DOCTOR_AE_TITLE, Peer, check_certificate, check_connection, check_peer
from models.errors import ConfigurationError
from models.identity import IMPLEMENTATION_CLASS_UID
from models.settings import Settings
from scp.listening import listen
from scp.settings import ScpSettings
from scp.stow.clients import Clients
from scp.tls import server_context, stow_context

ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def check_port(settings: Settings, own: ScpSettings, timeout_s: float) -> Iterator[Finding]:
    """See whether the DICOM port is free, or answers C-ECHO as our SCP."""
    if own.port == 0:
        yield skipped("any free port is taken (RADSTREAM_SCP_PORT=0)")
        return
    host = ANY_ADDRESS.get(own.host, own.host)
    if check_connection(host, own.port, "RADSTREAM_SCP_PORT", timeout_s) is not None:
        yield from _free(own)
        return
    if own.tls_require_client_certificate:
        yield ok(f"something listens on {host}:{own.port}; it takes nobody without a certificate, so it is not asked")
        return
    peer = Peer(
        host=host,
        port=own.port,
        ae_title=settings.ae_title,
        calling_ae_title=_allowed_caller(own, host),
        settings="RADSTREAM_SCP_PORT and RADSTREAM_AE_TITLE",
        tls=_own_context() if own.tls_certificate is not None else None,
        expected_implementation=str(IMPLEMENTATION_CLASS_UID),
    )
    yield from check_peer(peer, timeout_s)


def _free(own: ScpSettings) -> Iterator[Finding]:
    try:
        listen(own.host, own.port, "").close()
    except ConfigurationError as error:
        yield failure(str(error), f"see what listens (ss -ltnp 'sport = :{own.port}'), or set RADSTREAM_SCP_PORT")
    else:
        yield ok(f"port {own.port} is free; the SCP does not run on this host")


def _own_context() -> ssl.SSLContext:
    # To our own host, whose certificate says another name than 127.0.0.1: only whether it speaks TLS is asked.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _allowed_caller(own: ScpSettings, host: str) -> str:
    """Give an AE title that may associate from this host, where there is one."""
    address = ip_address(host) if host.replace(".", "").isdigit() or ":" in host else ip_address("127.0.0.1")
    for title in own.allowed_calling_ae_titles:
        networks = own.allowed_calling_addresses.get(title)
        if networks is None or any(address in network for network in networks):
            return title
    return DOCTOR_AE_TITLE


def check_callers(settings: Settings, own: ScpSettings) -> Iterator[Finding]:
    """Look for AE titles that are named in one list and shut out by another."""
    allowed = frozenset(own.allowed_calling_ae_titles)
    if allowed:
        named = {
            "RADSTREAM_SCP_STAT_AE_TITLES": frozenset(own.stat_ae_titles),
            "RADSTREAM_SCP_ALLOWED_CALLING_ADDRESSES": frozenset(own.allowed_calling_addresses),
            "RADSTREAM_SCP_COMMITMENT_PEERS": frozenset(own.commitment_peers),
        }
        for setting, titles in named.items():
            for title in sorted(titles - allowed):
                yield warning(
                    f"{setting} names {title}, which may not associate",
                    "add it to RADSTREAM_SCP_ALLOWED_CALLING_AE_TITLES, or take it out there",
                )
        folded = {title.casefold(): title for title in allowed}
        if len(folded) < len(allowed):
            yield warning("two allowed AE titles differ only in capitals", "capitals count: keep the one that is sent")
        yield ok(f"{len(allowed)} AE titles may associate")
    elif _is_local(own.host):
        yield ok("anybody on this host may associate")
    elif own.tls_require_client_certificate:
        yield ok("who has a certificate may associate, under any AE title")
    else:
        yield warning(
            "anybody in the network may associate and send",
            "set RADSTREAM_SCP_ALLOWED_CALLING_AE_TITLES, and for each its RADSTREAM_SCP_ALLOWED_CALLING_ADDRESSES",
        )
    for title in sorted(frozenset(settings.own_ae_titles) & (allowed | frozenset(own.stat_ae_titles))):
        yield warning(
            f"{title} is in RADSTREAM_OWN_AE_TITLES, so that nothing it sends is ever analysed",
            "take it out there, unless it only sends our own outputs back",
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_certificates(own: ScpSettings) -> Iterator[Finding]:
    """See that the TLS files fit together, and how long they are good."""
    server_context(own)  # refuses with what to do
    stow_context(own)
    files = {
        "RADSTREAM_SCP_TLS_CERTIFICATE": own.tls_certificate,
        "RADSTREAM_SCP_TLS_CA": own.tls_ca,
        "RADSTREAM_SCP_STOW_TLS_CERTIFICATE": own.stow_tls_certificate,
    }
    if not any(files.values()):
        yield skipped("TLS is off; DICOM and STOW-RS can be read on the way")
    for setting, path in files.items():
        if path is not None:
            yield from check_certificate(path, "certificate", setting)
    for key in (own.tls_key, own.stow_tls_key):
        if key is not None:
            yield from check_private(key, "key")
    for peer_title, peer in own.commitment_peers.items():
        where = f"RADSTREAM_SCP_COMMITMENT_PEERS ({peer_title})"
        for path in (peer.tls_certificate, peer.tls_ca):
            if path is not None:
                yield from check_certificate(path, "certificate", where)


def check_stow(own: ScpSettings) -> Iterator[Finding]:
    """Look at the tokens of the STOW-RS entry, and whether they can be read on the way."""
    if not own.stow_port:
        yield skipped("there is no STOW-RS entry (RADSTREAM_SCP_STOW_PORT)")
        return
    if own.stow_tokens is None:
        if _is_local(own.stow_host):
            yield ok("anybody on this host may send by STOW-RS")
        else:
            yield warning("anybody in the network may send by STOW-RS", "name who may in RADSTREAM_SCP_STOW_TOKENS")
        return
    yield from _tokens(own.stow_tokens)
    if own.stow_tls_certificate is None and not _is_local(own.stow_host):
        yield warning(
            "tokens of STOW-RS can be read on the way, because its TLS is off",
            "set RADSTREAM_SCP_STOW_TLS_CERTIFICATE, or put a TLS proxy in front and RADSTREAM_SCP_STOW_HOST=127.0.0.1",
        )


def _tokens(path: Path) -> Iterator[Finding]:
    Clients(path)  # refuses with what to do
    yield from check_private(path, "file of tokens")
