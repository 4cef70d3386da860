"""The queue payload for one instance, its versioned JSON codec, and the queue and job names.

This is the whole contract between the SCP, which enqueues, and the worker, which infers. It holds UIDs and
technical facts only, nothing of the patient: Redis never holds patient data.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from models.errors import Reason, Unprocessable

JOB_NAME: Final = "worker.jobs.infer_instance"
"""Dotted name of the job function, given to RQ as a string so that the SCP need not import the worker."""

REQUEST_VERSION: Final = 1

JobPayload = dict[str, str | int | float]

_UID: Final = r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*"
_FORMS: Final = {
    "spool_key": re.compile(r"[0-9]+(\.[0-9]+)*_[0-9a-f]{16}"),
    "sop_instance_uid": re.compile(_UID),
    "sop_class_uid": re.compile(_UID),
    "transfer_syntax_uid": re.compile(_UID),
    "content_sha256": re.compile(r"[0-9a-f]{64}"),
    "calling_ae_title": re.compile(r"[ -~]{0,16}"),
}
"""What the text fields look like. Whoever can write to Redis can queue anything, and these become paths and rows."""

_LATEST: Final = 253_402_300_800.0
"""POSIX time of the year 10000, which no database column takes."""


class Lane(StrEnum):
    """Urgency of an instance, and the name of the RQ queue that carries it."""

    STAT = "stat"
    ROUTINE = "routine"


QUEUE_NAMES: Final = (Lane.STAT.value, Lane.ROUTINE.value)
"""RQ queues in the order in which a worker takes from them."""


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One accepted instance, as queued.

    Attributes:
        spool_key: name of the instance in the spool, see `models.spool.SpoolEntry`.
        sop_instance_uid, sop_class_uid, transfer_syntax_uid: as negotiated and announced on the wire.
        content_sha256: hex digest of the encoded dataset, 64 characters.
        calling_ae_title: AE title of the sender.
        lane: `stat` or `routine`.
        received_at: POSIX time of the C-STORE response, seconds.
    """

    spool_key: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content_sha256: str
    calling_ae_title: str
    lane: Lane
    received_at: float

    @property
    def job_id(self) -> str:
        """RQ job id, derived from SOP Instance UID and content, so that one instance is queued once."""
        return job_id_for(self.spool_key)

    def to_payload(self) -> JobPayload:
        """Give the JSON object that is queued."""
        payload: JobPayload = {"version": REQUEST_VERSION, **asdict(self)}
        payload["lane"] = self.lane.value
        return payload

    @classmethod
    def from_payload(cls, payload: Any) -> InferenceRequest:
        """Read a queued JSON object.

        Raises:
            Unprocessable: the payload is not an object of this version with exactly the known fields, or one of them
                is not what it should be.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(payload, dict) or payload.get("version") != REQUEST_VERSION:
            raise Unprocessable(Reason.MALFORMED_DATASET, "queued request has an unknown version")
        if set(payload) != names | {"version"}:
            raise Unprocessable(Reason.MALFORMED_DATASET, "queued request has unknown or missing fields")
        wrong = [name for name, form in _FORMS.items() if not _has_form(payload[name], form)]
        if wrong:
            raise Unprocessable(Reason.MALFORMED_DATASET, f"queued request has a wrong {wrong[0]}")
        values = {name: payload[name] for name in names}
        if values["spool_key"] != f"{values['sop_instance_uid']}_{values['content_sha256'][:16]}":
            raise Unprocessable(Reason.MALFORMED_DATASET, "queued request has a wrong spool_key")
        values["lane"] = _lane(values["lane"])
        values["received_at"] = _posix_time(values["received_at"])
        return cls(**values)


def _has_form(value: object, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _lane(value: object) -> Lane:
    for lane in Lane:
        if value == lane.value:
            return lane
    raise Unprocessable(Reason.MALFORMED_DATASET, "queued request has a wrong lane")


def _posix_time(value: object) -> float:
    # bool is an int; NaN and Infinity, which JSON as Python reads it may have, are in no range.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST:
        return float(value)
    raise Unprocessable(Reason.MALFORMED_DATASET, "queued request has a wrong received_at")


def job_id_for(spool_key: str) -> str:
    """RQ allows letters, digits, `_` and `-` in a job id; a spool key also has dots."""
    return spool_key.replace(".", "_")


def spool_key_of(job_id: str) -> str | None:
    """Give back the spool key that a job id was made of; None when it is not one of ours."""
    uid, _, digest = job_id.rpartition("_")
    key = f"{uid.replace('_', '.')}_{digest}"
    return key if _FORMS["spool_key"].fullmatch(key) else None
