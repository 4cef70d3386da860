"""The error tree of radstream and the reason codes that every unfinished or refused instance carries.

::

    RadstreamError
    ├── ConfigurationError      a setting is wrong: say it in one line and exit
    ├── Unprocessable           this input can never be processed: record the reason, never retry
    │   └── Skipped             nothing is wrong, but no task applies: record the reason, no finding
    └── Transient               the same input may work later: retry with back-off

Messages are built from our own words, tags and numbers; they never quote a value of a dataset, because a value
may identify a patient and messages reach logs and the database.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable codes, stored with an instance or a delivery and used as a metric label. Never rename one."""

    # Why no task applied to an instance (state `skipped`).
    NO_RULE_MATCHED = "no_rule_matched"
    EXCLUDED_BY_RULE = "excluded_by_rule"
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    OWN_OUTPUT = "own_output"
    NO_ACTIVE_VERSION = "no_active_version"

    # Why an instance could not be processed (state `failed`).
    MALFORMED_DATASET = "malformed_dataset"
    UID_MISMATCH = "uid_mismatch"
    NO_PIXEL_DATA = "no_pixel_data"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_LARGE = "too_large"
    UNDECODABLE_PIXELS = "undecodable_pixels"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_CRASHED = "decoder_crashed"
    WORKER_DIED = "worker_died"
    SPOOL_FILE_MISSING = "spool_file_missing"
    INTERNAL_ERROR = "internal_error"

    # Why something waits (state `received` or `queued`, deliveries `pending`).
    DATABASE_UNAVAILABLE = "database_unavailable"
    REDIS_UNAVAILABLE = "redis_unavailable"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    OUT_OF_SPACE = "out_of_space"

    # Why a delivery failed.
    DESTINATION_UNREACHABLE = "destination_unreachable"
    DESTINATION_REFUSED = "destination_refused"
    DESTINATION_REJECTED_CONTEXT = "destination_rejected_context"
    DESTINATION_UNKNOWN = "destination_unknown"
    OUTPUT_FILE_MISSING = "output_file_missing"


class RadstreamError(Exception):
    """Root of every error that radstream raises on purpose."""


class ConfigurationError(RadstreamError):
    """A setting, rule or file given by the operator is wrong. The message is one line that says what to do."""


class _WithReason(RadstreamError):
    def __init__(self, reason: Reason, detail: str = "") -> None:
        """`detail` is our own text (tags, numbers), never a value read from a dataset."""
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        # The default would call the class with the formatted message alone; these cross process borders.
        return type(self), (self.reason, self.detail)


class Unprocessable(_WithReason):
    """The input can never be processed; a retry would fail the same way."""


class Skipped(Unprocessable):
    """The input is sound, but no task applies to it. Silence must never be read as normal, so this is recorded."""


class Transient(_WithReason):
    """Something outside the input failed (database, Redis, disk, peer); the same input is to be tried again."""
