"""One C-STORE: from its command set to a durable file, or to the status that says why not.

The dataset goes to the spool while it arrives. Whatever can be refused is refused when the command set has come;
the dataset that follows is then read from the wire and thrown away, because DIMSE has no way to stop it (PS3.7 9.3.1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from models.any_spool import AnySpool
from models.errors import Reason, Transient, Unprocessable
from models.requests import InferenceRequest, Lane
from models.spool_places import is_valid_uid
from models.spool_writer import SpoolWriter
from scp.commands import StoreRequest
from scp.scoreboard import STORED, Scoreboard, Slot
from scp.settings import ScpSettings
from scp.statuses import StoreStatus

HEAD_BYTES: Final = 65_536
"""How far into a dataset Study Priority ID is looked for; group 0032 lies well before the pixels."""

STUDY_PRIORITY_TAG: Final = b"\x32\x00\x0c\x00"
STUDY_PRIORITY_TAG_BIG_ENDIAN: Final = b"\x00\x32\x00\x0c"
HIGH_PRIORITY_VALUE: Final = re.compile(rb"(?:CS[\x04-\x10]\x00|CS\x00[\x04-\x10]|[\x04-\x10]\x00\x00\x00)HIGH")
"""What follows the tag: explicit VR little and big endian, implicit VR."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Both ends of the association, and the accepted context of one message."""

    calling_ae_title: str
    called_ae_title: str
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to one C-STORE; `request` is what to queue when the status is Success.

    Attributes:
        head: the first bytes of the dataset that was accepted.
    """

    status: StoreStatus
    request: InferenceRequest | None = None
    head: bytes | bytearray = b""


class Admission:
    """Whether there is room for one more instance."""

    def __init__(self, spool: AnySpool, scoreboard: Scoreboard, settings: ScpSettings) -> None:
        self._spool = spool
        self._scoreboard = scoreboard
        self._min_free_bytes = settings.min_free_bytes
        self._max_pending = settings.max_pending

    def has_room(self) -> bool:
        """Tell; a disk that cannot be asked has none."""
        if self._scoreboard.pending() >= self._max_pending:
            return False
        try:
            return self._spool.free_bytes() >= self._min_free_bytes
        except OSError:
            return False


class Ingest:
    """Stores the instances that one receiving process is sent."""

    def __init__(self, spool: AnySpool, admission: Admission, slot: Slot, settings: ScpSettings) -> None:
        self._spool = spool
        self._admission = admission
        self._slot = slot
        self._stat_ae_titles = frozenset(settings.stat_ae_titles)
        self._max_instance_bytes = settings.max_instance_bytes

    def store(self, request: StoreRequest, sender: Sender, dataset: Iterator[list[memoryview]]) -> Stored:
        """Serve one C-STORE; the dataset is read to its end whatever the answer.

        Raises:
            ConnectionLost, PeerSilent, ProtocolError, Interrupted: the dataset did not come; nothing is kept.
        """
        began = time.perf_counter()
        byte_count = 0
        status = self._refusal(request, sender)
        if status is not None:
            stored = Stored(status)
        else:
            stored, byte_count = self._receive(request, sender, dataset)
        if request.has_dataset:
            for _ in dataset:
                pass
        if stored.request is not None:
            self._slot.add(STORED)
        self._slot.observe_store(stored.status, byte_count, time.perf_counter() - began)
        return stored

    def _refusal(self, request: StoreRequest, sender: Sender) -> StoreStatus | None:
        if not request.has_dataset or not request.sop_class_uid or not request.sop_instance_uid:
            return StoreStatus.CANNOT_UNDERSTAND
        if not is_valid_uid(request.sop_instance_uid) or not is_valid_uid(request.sop_class_uid):
            return StoreStatus.INVALID_UID
        if request.sop_class_uid != sender.abstract_syntax or sender.abstract_syntax == Verification:
            return StoreStatus.WRONG_SOP_CLASS
        if not self._admission.has_room():
            return StoreStatus.OUT_OF_RESOURCES
        return None

    def _receive(
        self, request: StoreRequest, sender: Sender, dataset: Iterator[list[memoryview]]
    ) -> tuple[Stored, int]:
        urgent = request.high_priority or sender.calling_ae_title in self._stat_ae_titles
        try:
            with self._spool.begin(
                sop_class_uid=request.sop_class_uid,
                sop_instance_uid=request.sop_instance_uid,
                transfer_syntax_uid=sender.transfer_syntax,
                calling_ae_title=sender.calling_ae_title,
                called_ae_title=sender.called_ae_title,
                lane=Lane.STAT if urgent else Lane.ROUTINE,
            ) as writer:
                reception = Reception(writer, self._max_instance_bytes)
                for pieces in dataset:
                    reception.take(pieces)
                reception.end()
                accepted = _committed(writer, request, sender)
                return Stored(StoreStatus.SUCCESS, accepted, reception.head), writer.dataset_bytes
        except (Transient, Unprocessable) as error:
            return Stored(status_of(error)), 0


class Reception:
    """One dataset on its way into the spool, in the pieces in which it comes.

    Attributes:
        head: the first `HEAD_BYTES` of the dataset.
    """

    def __init__(self, writer: SpoolWriter, max_instance_bytes: int) -> None:
        self._writer = writer
        self._max_instance_bytes = max_instance_bytes
        self.head = bytearray()

    def take(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write what came.

        Raises:
            Transient: the disk is full or failing.
            Unprocessable: it is more than is taken.
        """
        for piece in pieces:
            if len(self.head) < HEAD_BYTES:
                self.head += piece[: HEAD_BYTES - len(self.head)]
        self._writer.write_pieces(pieces)
        if self._writer.dataset_bytes > self._max_instance_bytes:
            raise Unprocessable(Reason.TOO_LARGE)

    def end(self) -> None:
        """See that something came, and choose the lane; the writer is ready for `commit`.

        Raises:
            Unprocessable: nothing came.
        """
        if self._writer.dataset_bytes == 0:
            raise Unprocessable(Reason.MALFORMED_DATASET, "empty dataset")
        if has_high_study_priority(bytes(self.head)):
            self._writer.lane = Lane.STAT


def status_of(error: Transient | Unprocessable) -> StoreStatus:
    """Give the status that a reception which failed so is answered with."""
    if isinstance(error, Transient):
        return StoreStatus.OUT_OF_RESOURCES
    return StoreStatus.TOO_LARGE if error.reason is Reason.TOO_LARGE else StoreStatus.CANNOT_UNDERSTAND


def has_high_study_priority(head: bytes) -> bool:
    """Tell whether the start of an encoded dataset holds Study Priority ID (0032,000C) HIGH.

    The attribute is retired and still sent. Looking for tag and value together is enough: nothing else has these
    twelve bytes in a row. A deflated dataset does not show them.
    """
    for tag in (STUDY_PRIORITY_TAG, STUDY_PRIORITY_TAG_BIG_ENDIAN):
        position = head.find(tag)
        while position >= 0:
            if HIGH_PRIORITY_VALUE.match(head, position + len(tag)):
                return True
            position = head.find(tag, position + 1)
    return False


def _committed(writer: SpoolWriter, request: StoreRequest, sender: Sender) -> InferenceRequest:
    key = writer.commit()
    return InferenceRequest(
        spool_key=key,
        sop_instance_uid=request.sop_instance_uid,
        sop_class_uid=request.sop_class_uid,
        transfer_syntax_uid=sender.transfer_syntax,
        content_sha256=writer.content_sha256,
        calling_ae_title=sender.calling_ae_title,
        lane=writer.lane,
        received_at=writer.received_at,
    )
