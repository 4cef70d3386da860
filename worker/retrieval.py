"""Fetches single instances from a PACS by C-GET (PS3.4 annex C.4.3), for a backfill.

C-GET and not C-MOVE: the instance comes back over the association that asked for it, so the PACS need not know us as a
destination, and what it sends cannot be taken for new work by our own receiver.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as STUDY_ROOT_GET,
)

from models.errors import Reason, Transient, Unprocessable
from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES
from models.requestor import requesting_entity, without_delay, without_races
from models.telemetry import get_logger
from worker.backfill_selection import Candidate
from worker.sender import tls_arguments
from worker.settings import RemoteEntity

log = get_logger("worker.retrieval")

MAX_STORAGE_CONTEXTS: Final = 120
"""Of 128 presentation contexts of an association (PS3.8 section 9.3.2.2)."""
GIVE_UP_AFTER: Final = 3
"""Attempts in a row at a PACS that does not answer; each may take the whole timeout."""
SUCCESS: Final = 0x0000
CANNOT_UNDERSTAND: Final = 0xC000  # PS3.4 table B.2-1
PENDING: Final = frozenset({0xFF00, 0xFF01})


class Retriever:
    """Fetches over a held association. One thread at a time."""

    def __init__(
        self, source: RemoteEntity, calling_ae_title: str, timeout_s: float, candidates: Iterable[Candidate]
    ) -> None:
        """Prepare for these instances, without connecting.

        Raises:
            ConfigurationError: the TLS files cannot be read.
        """
        self._source = source
        self._ae = requesting_entity(source.calling_ae_title or calling_ae_title, timeout_s)
        self._tls = tls_arguments(source, "RADSTREAM_WORKER_BACKFILL_SOURCE: its TLS files")
        storage = _storage_contexts(candidates)
        self._contexts = [build_context(STUDY_ROOT_GET), *storage]
        # PS3.7 D.3.3.4: we ask, and yet are the SCP of what is stored.
        self._roles: list[Any] = [
            build_role(uid, scp_role=True) for uid in {str(each.abstract_syntax) for each in storage}
        ]
        self._association: Association | None = None
        self._failures = 0
        self._wanted = ""
        self._received: bytes | None = None

    def fetch(self, candidate: Candidate, path: Path) -> None:
        """Write an instance as a Part 10 file.

        Raises:
            Transient: the PACS does not answer, or the file cannot be written.
            Unprocessable: the PACS does not give the instance.
        """
        if self._failures >= GIVE_UP_AFTER:
            raise Transient(Reason.DESTINATION_UNREACHABLE, "given up")
        try:
            status = self._get(self._associate(), candidate)
        except Transient:
            self._failures += 1
            self.release()
            raise
        self._failures = 0
        if self._received is None:
            told = "no instance" if status == SUCCESS else f"status 0x{status:04X}"
            raise Unprocessable(Reason.SPOOL_FILE_MISSING, f"the PACS gave {told}")
        try:
            path.write_bytes(self._received)
        except OSError as error:
            raise Transient(Reason.OUT_OF_SPACE, "cannot write what the PACS gave") from error
        finally:
            self._received = None

    def release(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _associate(self) -> Association:
        if self._association is not None and self._association.is_established:
            return self._association
        handlers: list[Any] = [*without_delay(), (evt.EVT_C_STORE, self._store)]
        association = self._ae.associate(
            self._source.host,
            self._source.port,
            contexts=self._contexts,
            ae_title=self._source.ae_title,
            ext_neg=self._roles,
            evt_handlers=handlers,
            **self._tls,
        )
        if not association.is_established:
            raise Transient(Reason.DESTINATION_UNREACHABLE)
        without_races(association)
        self._association = association
        return association

    def _get(self, association: Association, candidate: Candidate) -> int:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        identifier.StudyInstanceUID = candidate.study_instance_uid
        identifier.SeriesInstanceUID = candidate.series_instance_uid
        identifier.SOPInstanceUID = candidate.request.sop_instance_uid
        self._wanted, self._received = candidate.request.sop_instance_uid, None
        try:
            for answer, _ in association.send_c_get(identifier, STUDY_ROOT_GET):
                if "Status" not in answer:
                    break
                if int(answer.Status) not in PENDING:
                    return int(answer.Status)
        except ValueError as error:
            raise Transient(Reason.DESTINATION_REJECTED_CONTEXT, "the PACS offers no C-GET") from error
        except (RuntimeError, OSError) as error:
            log.warning("retrieval_failed", exc_info=error)
        raise Transient(Reason.DESTINATION_UNREACHABLE)

    def _store(self, event: Event) -> int:
        request: Any = event.request
        if str(request.AffectedSOPInstanceUID) != self._wanted:
            return CANNOT_UNDERSTAND
        self._received = event.encoded_dataset()
        return SUCCESS


def _storage_contexts(candidates: Iterable[Candidate]) -> list[PresentationContext]:
    """Offer each class in the syntax in which it was received, alone, so that the bytes can be the same; and any other.

    A context has one accepted syntax, chosen by the peer; the first of a list is only a hint.
    """
    wanted = {(each.request.sop_class_uid, each.request.transfer_syntax_uid) for each in candidates}
    any_syntax: list[str | UID] = [UID(uid) for uid in DECODABLE_TRANSFER_SYNTAXES]
    exact = [build_context(sop_class, syntax) for sop_class, syntax in sorted(wanted)]
    others = [build_context(sop_class, any_syntax) for sop_class in sorted({sop_class for sop_class, _ in wanted})]
    return [*exact, *others][:MAX_STORAGE_CONTEXTS]
