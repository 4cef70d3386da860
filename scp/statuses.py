"""What we answer to a peer: statuses of C-STORE, and the ways to refuse an association.

C-STORE statuses are those of PS3.4 B.2.3, table B.2-1; where the table leaves a range free (A7xx, A9xx, Cxxx), the
last two digits are ours and say why. Rejections are those of PS3.8 9.3.4, table 9-21.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum


class StoreStatus(IntEnum):
    """Status (0000,0900) of a C-STORE response."""

    SUCCESS = 0x0000
    """On disk, and will be processed or reported, whatever crashes next."""

    OUT_OF_RESOURCES = 0xA700
    """No space, too much pending, or the disk fails: send it again later."""

    WRONG_SOP_CLASS = 0xA900
    """The SOP class of the request is not that of its presentation context."""

    WRONG_STUDY = 0xA901
    """The dataset is not of the study that the STOW-RS request names."""

    SOP_CLASS_NOT_SUPPORTED = 0x0122
    """Only by STOW-RS (PS3.18 table 10.5.3-1): an association would not have accepted the SOP class."""

    TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
    """Only by STOW-RS, likewise."""

    CANNOT_UNDERSTAND = 0xC000
    """The request lacks a UID or its dataset."""

    INVALID_UID = 0xC001
    """A UID of the request breaks the rules of PS3.5 section 9.1."""

    TOO_LARGE = 0xC002
    """The dataset exceeds `max_instance_bytes`; sending it again will not help."""

    @property
    def label(self) -> str:
        """Value of the metric label."""
        return self.name.lower()


ERROR_COMMENTS = {
    StoreStatus.OUT_OF_RESOURCES: "no space or too many instances pending",
    StoreStatus.WRONG_SOP_CLASS: "SOP class is not that of the context",
    StoreStatus.WRONG_STUDY: "not of the study of the request",
    StoreStatus.SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    StoreStatus.TRANSFER_SYNTAX_NOT_SUPPORTED: "transfer syntax not supported",
    StoreStatus.CANNOT_UNDERSTAND: "UID or dataset missing",
    StoreStatus.INVALID_UID: "invalid UID",
    StoreStatus.TOO_LARGE: "instance larger than this SCP accepts",
}
"""Error Comment (0000,0902), VR LO: at most 64 characters."""


class Rejection(Enum):
    """Why an association is refused, as result, source and reason of the A-ASSOCIATE-RJ PDU."""

    CALLING_AE_TITLE = (1, 1, 3)
    """Permanent, service user, calling AE title not recognised."""

    CALLED_AE_TITLE = (1, 1, 7)
    """Permanent, service user, called AE title not recognised."""

    LIMIT = (2, 3, 2)
    """Transient, service provider (presentation), local limit exceeded."""

    STOPPING = (2, 3, 1)
    """Transient, service provider (presentation), temporary congestion."""


class AssociationOutcome(StrEnum):
    """How a connection ended; a metric label."""

    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"
    TIMED_OUT = "timed_out"
    INVALID = "invalid"
    TLS_FAILED = "tls_failed"
    REJECTED_CALLING_AE_TITLE = "rejected_calling_ae_title"
    REJECTED_CALLED_AE_TITLE = "rejected_called_ae_title"
    REJECTED_LIMIT = "rejected_limit"
    REJECTED_STOPPING = "rejected_stopping"
    FAILED = "failed"
