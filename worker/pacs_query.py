"""Asks a PACS which instances of a series it has, by C-FIND (PS3.4 annex C.4.1); it changes nothing there."""

from __future__ import annotations

from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as STUDY_ROOT_FIND,
)

from models.errors import Reason, Transient
from models.requestor import requesting_entity, without_delay, without_races
from worker.sender import tls_arguments
from worker.settings import Destination

SUCCESS: Final = 0x0000
PENDING: Final = frozenset({0xFF00, 0xFF01})  # PS3.4 table C.4-1


class PacsQuery:
    """Asks one destination over a held association, at the address to which outputs are sent."""

    def __init__(self, destination: Destination, calling_ae_title: str, timeout_s: float) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigurationError: the TLS files cannot be read.
        """
        self.name = destination.name
        self._destination = destination
        self._ae = requesting_entity(destination.calling_ae_title or calling_ae_title, timeout_s)
        self._tls = tls_arguments(destination, f"RADSTREAM_WORKER_DESTINATIONS: TLS files of {destination.name}")
        self._association: Association | None = None

    def instances_of(self, study_instance_uid: str, series_instance_uid: str) -> set[str]:
        """Give the SOP Instance UIDs that it has of a series; none where it does not know the series.

        Raises:
            Transient: it does not answer, or not this question.
        """
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        # The unique keys of the levels above are needed (PS3.4 C.4.1.2.1); an empty one of the level asks for all.
        identifier.StudyInstanceUID = study_instance_uid
        identifier.SeriesInstanceUID = series_instance_uid
        identifier.SOPInstanceUID = ""
        found: set[str] = set()
        association = self._associate()
        try:
            for status, answer in association.send_c_find(identifier, STUDY_ROOT_FIND):
                if "Status" not in status:
                    break
                code = int(status.Status)
                if code in PENDING and answer is not None:
                    found.add(str(answer.get("SOPInstanceUID", "")))
                elif code == SUCCESS:
                    return found
                elif code not in PENDING:
                    raise Transient(Reason.DESTINATION_REFUSED, f"{self.name}: C-FIND ended with 0x{code:04X}")
        except ValueError as error:
            raise Transient(Reason.DESTINATION_REJECTED_CONTEXT, f"{self.name} offers no C-FIND") from error
        except (RuntimeError, OSError) as error:
            raise self._unreachable() from error
        raise self._unreachable()

    def release(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _unreachable(self) -> Transient:
        return Transient(Reason.DESTINATION_UNREACHABLE, f"{self.name} does not answer C-FIND")

    def _associate(self) -> Association:
        if self._association is not None and self._association.is_established:
            return self._association
        to = self._destination
        handlers: list[Any] = without_delay()
        association = self._ae.associate(
            to.host,
            to.port,
            contexts=[build_context(STUDY_ROOT_FIND)],
            ae_title=to.ae_title,
            evt_handlers=handlers,
            **self._tls,
        )
        if not association.is_established:
            if association.is_aborted and association.rejected_contexts:
                raise Transient(Reason.DESTINATION_REJECTED_CONTEXT, f"{self.name} offers no C-FIND")
            raise self._unreachable()
        without_races(association)
        self._association = association
        return association
