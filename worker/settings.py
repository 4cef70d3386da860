"""Settings of the worker and of the delivery process (prefix ``RADSTREAM_WORKER_``, TOML table ``[worker]``)."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_settings import SettingsConfigDict

from models.records.outputs import OutputKind
from models.settings import AETitle, FileSettings


class RemoteEntity(BaseModel):
    """An application entity that we call.

    Attributes:
        tls: use TLS; the files are PEM, `tls_ca` alone checks the peer, certificate and key identify us.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    ae_title: AETitle
    calling_ae_title: AETitle | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class Recipient(BaseModel):
    """What receives outputs, by whatever way.

    Attributes:
        name: our name for it, in records and metrics.
        outputs: the kinds of output that it gets.
        not_analysed: whether it also gets a report of each instance that was not analysed, with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    outputs: tuple[OutputKind, ...] = (OutputKind.SECONDARY_CAPTURE, OutputKind.STRUCTURED_REPORT)
    not_analysed: bool = False


class Destination(RemoteEntity, Recipient):
    """An application entity that receives outputs by C-STORE.

    Attributes:
        commitment: ask it to commit to what was delivered (storage commitment, PS3.4 annex J).
    """

    commitment: bool = False


class StowDestination(Recipient):
    """An origin server that receives outputs by STOW-RS (PS3.18 10.5).

    Attributes:
        url: base of its DICOMweb services; ``/studies`` is added.
        bearer_token_file: file with the token, read for every output, so that it may be renewed.
        username, password_file: basic authentication instead.
        timeout_s: longest silence while connecting, sending and waiting; None for `delivery_timeout_s`.
        tls_ca: PEM file that alone checks the server; None for the certificate authorities of the system.
        tls_certificate, tls_key: identify us.
        cleartext_credentials: send the token or password over http to another host.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")]
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    cleartext_credentials: bool = False

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.bearer_token_file is not None and self.username is not None:
            raise ValueError("give either bearer_token_file or username and password_file")
        secret = self.bearer_token_file is not None or self.username is not None
        host = urlsplit(self.url).hostname or ""
        if secret and not self.url.startswith("https:") and not self.cleartext_credentials and not is_loopback(host):
            raise ValueError("credentials over http can be read on the way: use https, or set cleartext_credentials")
        return self


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this very host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _way_of(value: object) -> str:
    # Chosen by one key, so that an error speaks of the one way that is meant and not of both.
    return "<stow>" if isinstance(value, StowDestination) or (isinstance(value, dict) and "url" in value) else "<dimse>"


AnyDestination = Annotated[
    Annotated[Destination, Tag("<dimse>")] | Annotated[StowDestination, Tag("<stow>")], Discriminator(_way_of)
]


class WorkerSettings(FileSettings):
    """What only the worker and the delivery process read."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_WORKER_", extra="forbid", frozen=True)
    table_name = "worker"

    max_batch: int = Field(8, ge=1, le=256, description="Instances that one engine call takes at most.")
    max_delay_s: float = Field(0.05, ge=0, le=10, description="Longest wait for a fuller batch after the first.")
    prefetch: int = Field(16, ge=1, le=1024, description="Jobs in hand at once, in all stages together.")
    decoders: int = Field(0, ge=0, le=256, description="Decoding processes; 0 means one per core.")
    decode_timeout_s: float = Field(20, gt=0, le=600, description="A decode that takes longer is given up.")
    engine_provider: str = Field("onnxruntime", description="Runs the engines: onnxruntime, tensorrt, tensorrt_rtx.")
    engine_precision: str = Field("auto", description="fp32, fp16, int8, or auto: what was fastest when it was built.")
    engine_poll_s: float = Field(2, gt=0, le=60, description="How often active.json of each task is looked at.")
    engine_threads: int = Field(0, ge=0, le=256, description="Threads of the engine; 0 means one per core.")
    shadow_waiting: int = Field(32, ge=1, le=4096, description="Instances that wait for a shadow; more are dropped.")
    max_pixels: int = Field(100_000_000, ge=4096, description="Largest Rows x Columns that is decoded.")
    max_decoded_bytes: int = Field(512 * 2**20, ge=2**20, description="Largest decoded pixel data.")
    overlay_max_side: int = Field(1024, ge=256, le=4096, description="Longest side of overlay pictures, pixels.")
    routing_file: Path | None = Field(None, description="Routing rules (TOML); default the shipped rules.")
    destinations: tuple[AnyDestination, ...] = Field((), description="Where outputs go; none means none are made.")

    backfill_source: RemoteEntity | None = Field(
        None, description="PACS that `backfill` fetches instances from (C-GET) which the spool archive does not hold."
    )
    backfill_timeout_s: float = Field(60, gt=0, le=3600, description="Longest wait for that PACS's next message.")
    backfill_idle_only: bool = Field(True, description="`backfill` works only while the queues are empty.")
    backfill_poll_s: float = Field(3, gt=0, le=600, description="How often it looks whether they are.")

    poll_interval_s: float = Field(0.02, gt=0, le=5, description="How often an idle worker looks at the queues.")
    heartbeat_interval_s: float = Field(5, gt=0, le=60)
    job_heartbeat_ttl_s: int = Field(30, ge=5, le=600, description="Jobs of a worker silent this long are requeued.")
    maintenance_interval_s: float = Field(10, gt=0, le=600)
    max_attempts: int = Field(3, ge=1, le=20, description="Worker deaths after which an instance has failed.")
    stop_grace_s: float = Field(60, ge=1, le=3600, description="Time for jobs in hand after SIGTERM.")

    delivery_poll_interval_s: float = Field(0.5, gt=0, le=60)
    delivery_first_retry_s: float = Field(5, gt=0, description="Wait after the first failed attempt; doubles.")
    delivery_longest_retry_s: float = Field(1800, gt=0, description="Longest wait between attempts.")
    delivery_give_up_s: float = Field(3 * 86400, gt=0, description="Unreachable this long: dead letter.")
    delivery_max_refusals: int = Field(5, ge=1, description="Refused as unacceptable this often: dead letter.")
    delivery_timeout_s: float = Field(30, gt=0, description="Longest wait for a destination's answer.")
    commitment_group_s: float = Field(
        5, ge=0, description="How long delivered outputs gather before commitment is asked."
    )
    commitment_wait_s: float = Field(
        10, ge=0, description="How long the association stays open for the report, before one of the peer's is awaited."
    )
    commitment_timeout_s: float = Field(3600, gt=0, description="Without a report for so long: asked again.")
    commitment_give_up_s: float = Field(3 * 86400, gt=0, description="Not committed this long: dead letter.")
    commitment_max_failures: int = Field(
        3, ge=1, description="Sent again after a report that says failed, and dead after so many."
    )
    commitment_port: int = Field(
        0, ge=0, le=65535, description="Port on which `deliver` takes reports on new associations; 0 takes none."
    )
    commitment_address: str = Field("0.0.0.0", description="Address of that port.")
    study_quiet_s: float = Field(
        120, ge=0, le=86400, description="A study of which nothing was settled for so long is summarised."
    )
    study_longest_wait_s: float = Field(
        3600, gt=0, description="After so long it is, also where instances still come or wait."
    )
    outbox_keep_days: float = Field(7, gt=0, description="How long delivered outputs stay re-sendable.")

    retain_studies_days: float = Field(
        0,
        ge=0,
        description="`retain` deletes all records of a study this long after its last instance was received; 0 never.",
    )
    retain_set_aside_days: float = Field(
        0, ge=0, description="`retain` removes instances that were set aside this long ago; 0 never."
    )
    retain_dead_deliveries_days: float = Field(
        0, ge=0, description="`retain` forgets deliveries given up this long ago, so that their files can go; 0 never."
    )
    retain_shadow_days: float = Field(
        0, ge=0, description="`retain` deletes what versions in the shadow found this long ago; 0 never."
    )
    retain_commitments_days: float = Field(
        0, ge=0, description="`retain` deletes our commitment requests of this long ago; 0 never."
    )
    retain_keep_file: Path | None = Field(
        None, description="File of Study Instance UIDs, one a line, that `retain` leaves alone (legal hold)."
    )

    telemetry_address: str = "127.0.0.1"
    telemetry_port: int = Field(9109, ge=0, le=65535, description="Metrics and health of `run`; 0 takes a free port.")
    status_page: bool = Field(True, description="Whether `run` shows its status page on that port, at `/`.")
    delivery_telemetry_port: int = Field(9110, ge=0, le=65535, description="The same of `deliver`.")

    @property
    def longest_delivery_timeout_s(self) -> float:
        """The longest that any destination may be silent."""
        own = [to.timeout_s for to in self.destinations if isinstance(to, StowDestination) and to.timeout_s]
        return max([self.delivery_timeout_s, *own])

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        if self.retain_commitments_days and self.retain_commitments_days * 86400 < self.commitment_give_up_s:
            raise ValueError("retain_commitments_days must not be less than commitment_give_up_s: reports may come")
        if self.heartbeat_interval_s * 2 > self.job_heartbeat_ttl_s:
            raise ValueError("job_heartbeat_ttl_s must be at least twice heartbeat_interval_s")
        return self
