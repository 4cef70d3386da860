"""The error tree of radstream and the reason codes that every unfinished or refused instance carries.

::

    RadstreamError
    ├── ConfigurationError      a setting is wrong: say it in one line and exit
    ├── Unprocessable           this input can never be processed: record the reason, never retry
    │   └── Skipped             nothing is wrong, but no task applies: record the reason, no finding
    └── Transient               the same input may work later: retry with back-off
        └── ObjectStoreUnavailable  an OSError, too: whoever bears with a failing disk bears with it

Messages are built from our own words, tags and numbers; they never quote a value of a dataset, because a value
may identify a patient and messages reach logs and the database.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable codes, stored with an instance or a delivery and used as a metric label. Never rename one."""

    # Why no task applied to an instance (state `skipped`).
    NO_RULE_MATCHED = "no_rule_matched"
    """No routing rule names a task for it."""
    EXCLUDED_BY_RULE = "excluded_by_rule"
    """A routing rule excludes it."""
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    """It is no radiograph."""
    OWN_OUTPUT = "own_output"
    """It is an output of ours that came back."""
    NO_ACTIVE_VERSION = "no_active_version"
    """No version of the task's network is active."""

    # Why an instance could not be processed (state `failed`).
    MALFORMED_DATASET = "malformed_dataset"
    """The dataset is malformed, or lacks what an instance must have."""
    UID_MISMATCH = "uid_mismatch"
    """The dataset has another SOP Instance UID than it was sent under."""
    NO_PIXEL_DATA = "no_pixel_data"
    """It has no pixel data."""
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    """Its transfer syntax is none that is decoded."""
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    """Its pixels are of a kind that is not read."""
    TOO_LARGE = "too_large"
    """It exceeds a limit of size."""
    UNDECODABLE_PIXELS = "undecodable_pixels"
    """Its pixel data cannot be decoded."""
    DECODE_TIMEOUT = "decode_timeout"
    """Decoding took longer than is allowed."""
    DECODER_CRASHED = "decoder_crashed"
    """Decoding ended the decoding process."""
    WORKER_DIED = "worker_died"
    """Workers that had it in hand died, too often."""
    SPOOL_FILE_MISSING = "spool_file_missing"
    """Its file is gone from the spool, or the PACS does not give it."""
    INTERNAL_ERROR = "internal_error"
    """An error of radstream."""

    # Why a study has no summary.
    SOURCE_NOT_KEPT = "source_not_kept"
    """No file of the study is left from which its patient could be copied."""

    # Why something waits (state `received` or `queued`, deliveries `pending`).
    DATABASE_UNAVAILABLE = "database_unavailable"
    """The results database cannot be reached."""
    REDIS_UNAVAILABLE = "redis_unavailable"
    """Redis cannot be reached."""
    ENGINE_UNAVAILABLE = "engine_unavailable"
    """No engine of the task can be run."""
    OUT_OF_SPACE = "out_of_space"
    """A file cannot be written."""
    OBJECT_STORE_UNAVAILABLE = "object_store_unavailable"
    """The bucket of the spool cannot be reached, or refuses us."""

    # Why a delivery failed.
    DESTINATION_UNREACHABLE = "destination_unreachable"
    """No connection or association, or no answer in time."""
    DESTINATION_REFUSED = "destination_refused"
    """It answered with a status of failure."""
    DESTINATION_REJECTED_CONTEXT = "destination_rejected_context"
    """It accepts no presentation context for this."""
    DESTINATION_UNKNOWN = "destination_unknown"
    """No destination of this name is set any more."""
    DESTINATION_UNAUTHORISED = "destination_unauthorised"
    """Our credentials are missing, or were not accepted."""
    DESTINATION_NOT_FOUND = "destination_not_found"
    """There is no such service at its URL."""
    OUTPUT_FILE_MISSING = "output_file_missing"
    """The file of the output is gone, or cannot be read."""

    # Why a delivered output is not committed.
    COMMITMENT_REFUSED = "commitment_refused"
    """It does not take requests for storage commitment."""
    COMMITMENT_TIMEOUT = "commitment_timeout"
    """No report came in time."""
    COMMITMENT_FAILED = "commitment_failed"
    """It reported that it does not keep the output."""


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


class ObjectStoreUnavailable(Transient, OSError):
    """The bucket cannot be reached, or refuses us. For the spool that is what a failing disk is, hence an `OSError`."""

    def __init__(self, reason: Reason = Reason.OBJECT_STORE_UNAVAILABLE, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.strerror = str(self)

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value
