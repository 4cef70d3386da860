"""TLS of the listening side."""

from __future__ import annotations

import ssl
from pathlib import Path

from models.errors import ConfigurationError
from scp.settings import ScpSettings


def server_context(settings: ScpSettings) -> ssl.SSLContext | None:
    """Make the TLS context, None when TLS is off.

    Follows BCP 195 as PS3.15 B.9 asks: TLS 1.2 or later.

    Raises:
        ConfigurationError: a file is not what it should be.
    """
    if settings.tls_certificate is None:
        return None
    context = _context(
        settings.tls_certificate, settings.tls_key, "RADSTREAM_SCP_TLS_CERTIFICATE, RADSTREAM_SCP_TLS_KEY"
    )
    if settings.tls_ca is not None:
        try:
            context.load_verify_locations(settings.tls_ca)
        except (OSError, ValueError) as error:
            raise ConfigurationError("RADSTREAM_SCP_TLS_CA: no PEM certificates in it") from error
        required = settings.tls_require_client_certificate
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def stow_context(settings: ScpSettings) -> ssl.SSLContext | None:
    """Make the TLS context of the STOW-RS entry, None when its TLS is off. Clients show tokens, not certificates.

    Raises:
        ConfigurationError: a file is not what it should be.
    """
    if settings.stow_tls_certificate is None:
        return None
    names = "RADSTREAM_SCP_STOW_TLS_CERTIFICATE, RADSTREAM_SCP_STOW_TLS_KEY"
    return _context(settings.stow_tls_certificate, settings.stow_tls_key, names)


def _context(certificate: Path, key: Path | None, names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{names}: not a PEM certificate and its unencrypted key") from error
    return context


def _no_password() -> str:
    # Without this, OpenSSL would ask on the terminal and a service would hang.
    raise ValueError("the key is encrypted")
