"""TLS of the listening side."""

from __future__ import annotations

import ssl

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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "RADSTREAM_SCP_TLS_CERTIFICATE, RADSTREAM_SCP_TLS_KEY: not a PEM certificate and its unencrypted key"
        ) from error
    if settings.tls_ca is not None:
        try:
            context.load_verify_locations(settings.tls_ca)
        except (OSError, ValueError) as error:
            raise ConfigurationError("RADSTREAM_SCP_TLS_CA: no PEM certificates in it") from error
        required = settings.tls_require_client_certificate
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    # Without this, OpenSSL would ask on the terminal and a service would hang.
    raise ValueError("the key is encrypted")
