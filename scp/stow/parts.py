"""One STOW-RS request: its multipart body, part by part from the wire into the spool.

A part is accepted like a C-STORE: its UIDs are checked before they become a path, refused parts are read and thrown
away, and what is answered as stored is durable. Everything here blocks, and is called from a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import MultipartParser

from models.any_spool import AnySpool
from models.errors import Transient, Unprocessable
from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES
from models.requests import InferenceRequest, Lane
from models.spool_places import is_valid_uid
from models.spool_writer import SpoolWriter
from scp.audit import ScpAudit, Transfers, sending_entity
from scp.contexts import storage_classes
from scp.ingest import Admission, Reception, status_of
from scp.scoreboard import STORED, Slot
from scp.settings import ScpSettings
from scp.statuses import StoreStatus
from scp.stow.part_ten import FileMeta, read_file_meta, study_instance_uid

MAX_PARTS: Final = 10_000
MAX_PART_HEADERS: Final = 16
MAX_PART_HEADER_BYTES: Final = 4096
PART_MEDIA_TYPE: Final = b"application/dicom"


class BadRequest(Exception):
    """The body as a whole is not what a STOW-RS request is; the message is for the client."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """What came of one part; the UIDs are empty where none that are valid could be read."""

    sop_class_uid: str
    sop_instance_uid: str
    status: StoreStatus


@dataclass(frozen=True, slots=True)
class PartContext:
    """What the parts of every request are received with."""

    spool: AnySpool
    admission: Admission
    slot: Slot
    stored: Callable[[InferenceRequest], None]
    called_ae_title: str
    sop_classes: frozenset[str]
    stat_clients: frozenset[str]
    max_instance_bytes: int
    audit: ScpAudit

    @classmethod
    def of(
        cls,
        settings: ScpSettings,
        *,
        spool: AnySpool,
        slot: Slot,
        stored: Callable[[InferenceRequest], None],
        called_ae_title: str,
        audit: ScpAudit | None = None,
    ) -> PartContext:
        """Make it by the settings of the SCP."""
        return cls(
            spool=spool,
            admission=Admission(spool, slot.scoreboard, settings),
            slot=slot,
            stored=stored,
            called_ae_title=called_ae_title,
            sop_classes=frozenset(map(str, storage_classes(settings.accept_all_storage))),
            stat_clients=frozenset(settings.stat_ae_titles),
            max_instance_bytes=settings.max_instance_bytes,
            audit=audit or ScpAudit(),
        )


class RequestBody:
    """Takes the body of one request apart as it arrives.

    Attributes:
        results: of the parts so far.
        complete: whether the closing boundary was seen.
    """

    def __init__(
        self, context: PartContext, client: str, study_uid: str | None, boundary: bytes, address: str = ""
    ) -> None:
        self._context = context
        self._client = client
        self._address = address
        self._transfers = context.audit.transfers()
        self._study_uid = study_uid
        self.results: list[PartResult] = []
        self.complete = False
        self._field, self._value = bytearray(), bytearray()
        self._media_type = b""
        self._part: Part | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_field,
                "on_header_value": self._take_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            MultipartParseError, BadRequest: it is not multipart, or has too many parts.
        """
        self._parser.write(data)

    def close(self) -> None:
        """Discard the part that did not come to its end, if there is one."""
        if self._part is not None:
            self._part.discard()
            self._part = None
        self._transfers.end()

    def _begin_part(self) -> None:
        if len(self.results) >= MAX_PARTS:
            raise BadRequest(f"more than {MAX_PARTS} parts")
        self._media_type = b""

    def _take_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._field).lower() == b"content-type":
            self._media_type = bytes(self._value).partition(b";")[0].strip().lower()
        self._field.clear()
        self._value.clear()

    def _open_part(self) -> None:
        self._part = Part(self._context, self._client, self._study_uid)
        if self._media_type != PART_MEDIA_TYPE:
            self._part.refuse(StoreStatus.CANNOT_UNDERSTAND)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.take(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if self._part is not None:
            self.results.append(self._part.end())
            self._part.report(self._transfers, self._address)
            self._part = None

    def _end(self) -> None:
        self.complete = True


class Part:
    """One instance on its way into the spool."""

    def __init__(self, context: PartContext, client: str, study_uid: str | None) -> None:
        self._context = context
        self._client = client
        self._study_uid = study_uid
        self._began = time.perf_counter()
        self._start = bytearray()
        self._meta: FileMeta | None = None
        self._writer: SpoolWriter | None = None
        self._reception: Reception | None = None
        self._refusal: StoreStatus | None = None
        self._is_stored = False

    def refuse(self, status: StoreStatus) -> None:
        """Throw away what came and what will come."""
        self._refusal = status
        self._start.clear()
        self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def take(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        if self._refusal is not None:
            return
        try:
            if self._reception is not None:
                self._reception.take([data])
            else:
                self._take_start(data)
        except (Transient, Unprocessable) as error:
            self.refuse(status_of(error))

    def end(self) -> PartResult:
        """Make the instance durable, or say why it was not stored."""
        status = self._refusal
        byte_count = 0
        if status is None:
            try:
                status, byte_count = self._commit()
            except (Transient, Unprocessable) as error:
                status = status_of(error)
            self.discard()
        if status is StoreStatus.SUCCESS:
            self._context.slot.add(STORED)
            self._is_stored = True
        self._context.slot.observe_store(status, byte_count, time.perf_counter() - self._began)
        readable = self._meta is not None and _has_valid_uids(self._meta)
        if self._meta is None or not readable:
            return PartResult("", "", status)
        return PartResult(self._meta.sop_class_uid, self._meta.sop_instance_uid, status)

    def report(self, transfers: Transfers, address: str) -> None:
        """Count the instance for the audit trail, if it was stored."""
        if self._is_stored and self._meta is not None and self._reception is not None:
            syntax = self._meta.transfer_syntax_uid
            sender = sending_entity(self._client, address)
            transfers.add(self._reception.head, self._meta.sop_class_uid, syntax, sender)

    def _take_start(self, data: memoryview) -> None:
        self._start += data
        try:
            meta = read_file_meta(self._start)
        except ValueError:
            self.refuse(StoreStatus.CANNOT_UNDERSTAND)
            return
        if meta is None:
            return
        self._meta = meta
        refusal = self._judge(meta)
        if refusal is not None:
            self.refuse(refusal)
            return
        self._begin(meta)

    def _judge(self, meta: FileMeta) -> StoreStatus | None:
        if not meta.sop_class_uid or not meta.sop_instance_uid or not meta.transfer_syntax_uid:
            return StoreStatus.CANNOT_UNDERSTAND
        if not _has_valid_uids(meta):
            return StoreStatus.INVALID_UID
        if meta.sop_class_uid not in self._context.sop_classes:
            return StoreStatus.SOP_CLASS_NOT_SUPPORTED
        if meta.transfer_syntax_uid not in DECODABLE_TRANSFER_SYNTAXES:
            return StoreStatus.TRANSFER_SYNTAX_NOT_SUPPORTED
        return None if self._context.admission.has_room() else StoreStatus.OUT_OF_RESOURCES

    def _begin(self, meta: FileMeta) -> None:
        context = self._context
        self._writer = context.spool.begin(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=self._client,
            called_ae_title=context.called_ae_title,
            lane=Lane.STAT if self._client in context.stat_clients else Lane.ROUTINE,
        )
        self._reception = Reception(self._writer, context.max_instance_bytes)
        rest = bytes(self._start[meta.length :])
        self._start.clear()
        if rest:
            self._reception.take([rest])

    def _commit(self) -> tuple[StoreStatus, int]:
        if self._meta is None or self._writer is None or self._reception is None:
            return StoreStatus.CANNOT_UNDERSTAND, 0  # it ended within its file meta information
        self._reception.end()
        if self._study_uid is not None:
            found = study_instance_uid(bytes(self._reception.head), self._meta.transfer_syntax_uid)
            if found != self._study_uid:
                return StoreStatus.WRONG_STUDY, 0
        writer, self._writer = self._writer, None
        with writer:
            key = writer.commit()
        self._context.stored(
            InferenceRequest(
                spool_key=key,
                sop_instance_uid=self._meta.sop_instance_uid,
                sop_class_uid=self._meta.sop_class_uid,
                transfer_syntax_uid=self._meta.transfer_syntax_uid,
                content_sha256=writer.content_sha256,
                calling_ae_title=self._client,
                lane=writer.lane,
                received_at=writer.received_at,
            )
        )
        return StoreStatus.SUCCESS, writer.dataset_bytes


def _has_valid_uids(meta: FileMeta) -> bool:
    uids: Iterable[str] = (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)
    return all(map(is_valid_uid, uids))
