"""Section 6 of the statement: configuration, from the classes that read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from deploy.conformance.attribute_docs import documented_attributes
from deploy.conformance.markdown import paragraphs, table
from models.audit.settings import AuditSettings
from models.settings import FileSettings, Settings
from scp.settings import CommitmentPeer, ScpSettings
from worker.settings import Destination, RemoteEntity, StowDestination, WorkerSettings

_ROOT: Final = Path(__file__).parents[2]
_WITHIN: Final = ("engine_", "shadow_", "heartbeat_", "job_", "maintenance_", "telemetry_", "decode")
_WITHIN_EXACTLY: Final = ("max_batch", "max_delay_s", "prefetch", "max_attempts", "poll_interval_s", "routing_file")
"""What a peer never notices: engines, batches, processes."""
_LIMITS: Final = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

_INTRODUCTION: Final = """\
## 6 Configuration

Every parameter is read at start, from the environment or from the TOML file that `RADSTREAM_CONFIG` names; a name that
is not known, or a value out of range, is an error at start. A change needs a restart of the process, but files of
tokens and passwords are read again when they change."""


def render() -> str:
    """Give the section."""
    return paragraphs(
        _INTRODUCTION,
        "### 6.1 General configuration parameters",
        _settings(Settings),
        "### 6.2 Configuration of DIMSE services",
        "#### 6.2.1 RECEIVER: Storage, Verification and Storage Commitment as SCP",
        _settings(ScpSettings, but=("stow_",)),
        "Each of `commitment_peers`:",
        _members(CommitmentPeer),
        "#### 6.2.2 DELIVERY and RETRIEVAL: SCU",
        _settings(WorkerSettings, but=_WITHIN),
        "Each of `destinations` that is an application entity:",
        _members(Destination),
        "`backfill_source`, where instances are fetched:",
        _members(RemoteEntity),
        "### 6.3 Configuration of DICOM Web Services",
        "#### 6.3.1 RECEIVER: STOW-RS origin server",
        _settings(ScpSettings, only=("stow_",)),
        "#### 6.3.2 DELIVERY: STOW-RS user agent",
        "Each of `destinations` that is an origin server:",
        _members(StowDestination),
        "### 6.4 Configuration of media storage and real-time video services",
        "Not applicable.",
        "### 6.5 Configuration of audit trail",
        _settings(AuditSettings),
    )


def _settings(settings: type[FileSettings], but: tuple[str, ...] = (), only: tuple[str, ...] = ("",)) -> str:
    prefix = str(settings.model_config.get("env_prefix"))
    rows = (
        (f"`{prefix}{name.upper()}`", _default(of), _limits(of), of.description or "")
        for name, of in settings.model_fields.items()
        if name.startswith(only) and not (but and (name.startswith(but) or name in _WITHIN_EXACTLY))
    )
    return table(("parameter", "default", "range", "meaning"), rows)


def _members(of: type[BaseModel]) -> str:
    docs = documented_attributes(of)
    return table(("member", "default", "range", "meaning"), _member_rows(of.model_fields, docs))


def _member_rows(fields: Mapping[str, FieldInfo], docs: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for name, of in fields.items():
        default = "required" if of.is_required() else _default(of)
        yield f"`{name}`", default, _limits(of), of.description or docs.get(name, "")


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        made = field.default_factory()  # type: ignore[call-arg]
        # What depends on the machine has no place in this document.
        return "none" if made == {} else "by the machine"
    return _text(field.default)


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, Path) and value.is_relative_to(_ROOT):
        value = value.relative_to(_ROOT).as_posix()
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limits(field: FieldInfo) -> str:
    told = []
    for rule in field.metadata:
        told += [
            f"{words} {getattr(rule, name)}" for name, words in _LIMITS.items() if getattr(rule, name, None) is not None
        ]
    return ", ".join(told)
