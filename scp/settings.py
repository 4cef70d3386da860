"""Settings of the SCP: prefix ``RADSTREAM_SCP_``, table ``[scp]`` of the TOML file."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from models.settings import AETitle, FileSettings

MEBIBYTE = 1 << 20


def _default_processes() -> int:
    return min(4, max(1, len(os.sched_getaffinity(0))))


class CommitmentPeer(BaseModel):
    """Where an application entity takes reports on storage commitment, which need not be where it sends from.

    Attributes:
        tls: use TLS; `tls_ca` alone checks the peer, certificate and key identify us, all PEM files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


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

    stow_port: int = Field(0, ge=0, le=65535, description="Port of the STOW-RS entry; 0: there is none.")
    stow_host: str = Field("127.0.0.1", description="Address that it listens on.")
    stow_path: str = Field(
        "/dicom-web", pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Base path; it takes POST <path>/studies."
    )
    stow_tokens: Path | None = Field(
        None, description="File of who may send by it: lines of a name, used as calling AE title, and a bearer token."
    )
    stow_open: bool = Field(False, description="Let anybody send by it, without a token, from other hosts too.")
    stow_tls_certificate: Path | None = Field(None, description="PEM certificate chain; https when it is set.")
    stow_tls_key: Path | None = Field(None, description="PEM private key; default: in the certificate file.")
    stow_max_requests: int = Field(16, ge=1, le=1024, description="Requests at once; more are answered 503.")
    stow_timeout_s: float = Field(30.0, gt=0, description="Silence allowed within a request, and before one.")

    commitment: bool = Field(
        False,
        description="Answer storage commitment requests. Only for senders that insist: we commit to have analysed or "
        "reported an instance, and do not keep it. Never where a sender deletes its own copy for it.",
    )
    commitment_reports: bool = Field(
        False, description="Take reports of archives on our outputs, and leave them to `python -m worker deliver`."
    )
    commitment_peers: dict[AETitle, CommitmentPeer] = Field(
        default_factory=dict,
        description="Where to report on a new association, by the AE title that asked: "
        '{"CR1": {"host": "10.0.0.5", "port": 104}}.',
    )
    commitment_first_retry_s: float = Field(5.0, gt=0, description="Wait after a report that failed; doubles.")
    commitment_longest_retry_s: float = Field(600.0, gt=0, description="Longest wait between reports.")
    commitment_give_up_s: float = Field(86400.0, gt=0, description="A report that fails so long is dropped.")

    telemetry_address: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    telemetry_port: int = Field(9108, ge=0, le=65535, description="Port of /metrics; 0 takes a free one.")
    stop_grace_s: float = Field(30.0, ge=0, description="How long a stop waits for open C-STOREs.")

    @field_validator("tls_certificate", "tls_key", "tls_ca", "stow_tokens", "stow_tls_certificate", "stow_tls_key")
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
        if self.stow_tls_key is not None and self.stow_tls_certificate is None:
            raise ValueError("stow_tls_key needs stow_tls_certificate")
        return self

    @model_validator(mode="after")
    def _stow_asks_who_it_is(self) -> Self:
        if self.stow_port and self.stow_tokens is None and not self.stow_open and not _is_loopback(self.stow_host):
            raise ValueError(
                "stow_host lets other hosts in: name who may send in stow_tokens, or set stow_open if anybody may"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
