"""Settings of the audit trail: prefix ``RADSTREAM_AUDIT_``, table ``[audit]`` of the TOML file. Off unless set."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from models.settings import FileSettings


class Way(StrEnum):
    """How syslog messages travel to the audit record repository."""

    TLS = "tls"
    TCP = "tcp"
    UDP = "udp"


DEFAULT_PORTS = {Way.TLS: 6514, Way.TCP: 601, Way.UDP: 514}
"""RFC 5425 section 4.1, RFC 6587 section 3.4.1, RFC 5426 section 3.3."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an audit record repository listens."""

    way: Way
    host: str
    port: int


def read_address(url: str) -> Address:
    """Read an address like ``tls://host:6514``.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(url)
        way, host, port = Way(parts.scheme), parts.hostname, parts.port
    except ValueError:
        way, host, port = Way.TLS, None, None
    if not host or parts.path.strip("/") or parts.query or parts.username is not None:
        raise ValueError("use tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT")
    return Address(way, host, DEFAULT_PORTS[way] if port is None else port)


class AuditSettings(FileSettings):
    """Where audit messages go, and as whose."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_AUDIT_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "audit"

    repository: str | None = Field(
        None,
        description="Audit record repository: tls://HOST:6514, tcp://HOST:PORT or udp://HOST:514. None: none is sent.",
    )
    file: Path | None = Field(
        None, description="File that every message is appended to, one a line, readable by its owner alone."
    )
    source_id: str = Field(
        default_factory=lambda: f"radstream@{socket.gethostname()}",
        min_length=1,
        description="Audit source ID, by which a repository knows this system; default radstream@<host name>.",
    )
    enterprise_site_id: str | None = Field(None, description="Audit enterprise site ID: the hospital or site.")
    tls_ca: Path | None = Field(None, description="PEM certificates that alone check the repository's.")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain that identifies us to it.")
    tls_key: Path | None = Field(None, description="PEM private key; default: in the certificate file.")
    max_waiting: int = Field(
        100_000, ge=1, description="Messages that wait on disk for a repository that is away; more are dropped."
    )
    timeout_s: float = Field(10, gt=0, le=600, description="Longest wait for the repository to take what is sent.")

    @property
    def is_on(self) -> bool:
        """Whether any message is made at all."""
        return self.repository is not None or self.file is not None

    @property
    def address(self) -> Address | None:
        """Where messages are sent; None when they are not."""
        return read_address(self.repository) if self.repository is not None else None

    @field_validator("repository")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            read_address(url)
        return url

    @field_validator("tls_ca", "tls_certificate", "tls_key")
    @classmethod
    def _must_exist(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("no such file")
        return path

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = self.tls_ca or self.tls_certificate or self.tls_key
        if given and (self.address is None or self.address.way is not Way.TLS):
            raise ValueError("TLS settings need a repository of tls://")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key needs tls_certificate")
        return self
