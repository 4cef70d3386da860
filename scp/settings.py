"""Settings of the SCP: prefix ``RADSTREAM_SCP_``, table ``[scp]`` of the TOML file."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from models.settings import AETitle, FileSettings

MEBIBYTE = 1 << 20


def _default_processes() -> int:
    return min(4, max(1, len(os.sched_getaffinity(0))))


class ScpSettings(FileSettings):
    """How the SCP listens, whom it serves, and when it refuses."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_SCP_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "scp"

    host: str = Field("0.0.0.0", description="Address to listen on; :: for IPv6 and IPv4.")
    port: int = Field(11112, ge=0, le=65535, description="Port of the SCP; 0 takes a free one.")
    processes: int = Field(default_factory=_default_processes, ge=1, le=64, description="Receiving processes.")
    max_associations: int = Field(64, ge=1, description="Open associations of the whole SCP; more are rejected.")

    allowed_calling_ae_titles: tuple[AETitle, ...] = Field((), description="Who may associate; empty: anyone.")
    allowed_calling_addresses: dict[AETitle, tuple[IPv4Network | IPv6Network, ...]] = Field(
        default_factory=dict,
        description='Addresses or networks from which an AE title may come: {"CR1": ["10.0.0.5", "10.1.0.0/16"]}.',
    )
    check_called_ae_title: bool = Field(True, description="Reject who does not call us by our AE title.")
    stat_ae_titles: tuple[AETitle, ...] = Field((), description="AE titles whose instances are always urgent.")
    accept_all_storage: bool = Field(False, description="Accept every storage class, not only radiographs.")

    max_pdu_bytes: int = Field(131_072, ge=4096, le=16 * MEBIBYTE, description="Largest PDU that we ask peers for.")
    acse_timeout_s: float = Field(30.0, gt=0, description="For a connection to become an association, and to end.")
    dimse_timeout_s: float = Field(60.0, gt=0, description="Silence allowed within a message.")
    idle_timeout_s: float = Field(300.0, gt=0, description="Silence allowed between messages.")

    min_free_bytes: int = Field(1024 * MEBIBYTE, ge=0, description="Refuse (A700) when the disk has less free.")
    max_pending: int = Field(100_000, ge=1, description="Refuse (A700) when so many instances are unfinished.")
    max_instance_bytes: int = Field(2048 * MEBIBYTE, ge=1, description="Refuse (C002) larger instances.")
    sweep_interval_s: float = Field(15.0, gt=0, description="How often unqueued instances are looked for.")

    tls_certificate: Path | None = Field(None, description="PEM certificate chain; TLS is on when it is set.")
    tls_key: Path | None = Field(None, description="PEM private key; default: in the certificate file.")
    tls_ca: Path | None = Field(None, description="PEM certificates that client certificates are checked against.")
    tls_require_client_certificate: bool = Field(False, description="Mutual TLS: refuse peers without a certificate.")

    telemetry_address: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    telemetry_port: int = Field(9108, ge=0, le=65535, description="Port of /metrics; 0 takes a free one.")
    stop_grace_s: float = Field(30.0, ge=0, description="How long a stop waits for open C-STOREs.")

    @field_validator("tls_certificate", "tls_key", "tls_ca")
    @classmethod
    def _must_exist(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("no such file")
        return path

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.tls_certificate is None and (self.tls_key or self.tls_ca or self.tls_require_client_certificate):
            raise ValueError("TLS settings need tls_certificate")
        if self.tls_require_client_certificate and self.tls_ca is None:
            raise ValueError("tls_require_client_certificate needs tls_ca")
        return self
