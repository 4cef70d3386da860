"""One destination's association: held while there is something to send, opened again when it is lost."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom.association import Association

from models.errors import ConfigurationError, Reason
from models.requestor import requesting_entity, without_delay, without_races
from models.telemetry import get_logger
from worker.settings import Destination, RemoteEntity

log = get_logger("worker.sender")

HELD_IDLE_S: Final = 20.0
"""An association without traffic is released after this; many PACS abort idle ones after 30 s."""

OUTPUT_STORAGE_CLASSES: Final = (
    SecondaryCaptureImageStorage,
    Comprehensive3DSRStorage,
    ParametricMapStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)
OUTPUT_TRANSFER_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
SUCCESS: Final = 0x0000
DUPLICATE_SOP_INSTANCE: Final = 0x0111  # PS3.7 annex C.5.6; the object is there, which is all we want
PROCESSING_FAILURE: Final = 0x0110  # PS3.7 annex C.5.13; says nothing of the object


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of one attempt.

    Attributes:
        status: DIMSE status, None when there was no answer; of STOW-RS the failure reason, where one is named.
        reason: None when the object arrived.
        permanent: the peer refused the object itself, so trying for days would be in vain.
        http_status: of STOW-RS.
        retry_after_s: what the peer asked us to wait.
    """

    status: int | None = None
    reason: Reason | None = None
    permanent: bool = False
    http_status: int | None = None
    retry_after_s: float | None = None

    @property
    def stops_queue(self) -> bool:
        """Whether the next object would fail the same way, so that trying it now is in vain."""
        stopping = {
            Reason.DESTINATION_UNREACHABLE,
            Reason.DESTINATION_UNAUTHORISED,
            Reason.DESTINATION_NOT_FOUND,
            Reason.OBJECT_STORE_UNAVAILABLE,
        }
        return self.reason in stopping or self.retry_after_s is not None


class OutputSender(Protocol):
    """A way to one destination: `Sender` by C-STORE, `worker.stow_sender` by STOW-RS."""

    name: str

    def send(self, path: Path) -> SendResult:
        """Send one Part 10 file."""

    def release_idle(self) -> None:
        """Let go of what has been idle for long."""

    def release(self) -> None:
        """Let go of everything."""


class Sender:
    """Sends files to one destination over a held association. One thread at a time."""

    def __init__(self, destination: Destination, calling_ae_title: str, timeout_s: float) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigurationError: the TLS files cannot be read.
        """
        self.name = destination.name
        self._destination = destination
        self._ae = requesting_entity(destination.calling_ae_title or calling_ae_title, timeout_s)
        for storage_class in OUTPUT_STORAGE_CLASSES:
            self._ae.add_requested_context(storage_class, list(OUTPUT_TRANSFER_SYNTAXES))
        self._tls = tls_arguments(destination, f"RADSTREAM_WORKER_DESTINATIONS: TLS files of {destination.name}")
        self._association: Association | None = None
        self._used_at = 0.0

    def send(self, path: Path) -> SendResult:
        """Send one Part 10 file."""
        dataset = _read(path)
        if dataset is None:
            return SendResult(reason=Reason.OUTPUT_FILE_MISSING, permanent=True)
        association = self._associate()
        if association is None:
            return SendResult(reason=Reason.DESTINATION_UNREACHABLE)
        if dataset.get("SOPClassUID") not in {context.abstract_syntax for context in association.accepted_contexts}:
            # Its other kinds of output may be welcome: the association stays, unless it is good for nothing.
            self._used_at = time.monotonic()
            if not association.accepted_contexts:
                self.release()
            return SendResult(reason=Reason.DESTINATION_REJECTED_CONTEXT, permanent=True)
        try:
            answer = association.send_c_store(dataset)
        except (RuntimeError, ValueError, AttributeError, OSError) as error:
            # RuntimeError: lost meanwhile. ValueError: no accepted context fits the file.
            log.warning("send_failed", destination=self.name, exc_info=error)
            self._drop()
            rejected = isinstance(error, ValueError)
            reason = Reason.DESTINATION_REJECTED_CONTEXT if rejected else Reason.DESTINATION_UNREACHABLE
            return SendResult(reason=reason, permanent=rejected)
        self._used_at = time.monotonic()
        if "Status" not in answer:  # no answer in time, or the peer aborted
            self._drop()
            return SendResult(reason=Reason.DESTINATION_UNREACHABLE)
        return judge(int(answer.Status))

    def release_idle(self) -> None:
        """Release the association when it has been idle for long."""
        if self._association is not None and time.monotonic() - self._used_at > HELD_IDLE_S:
            self.release()

    def release(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _drop(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.abort()
        self._association = None

    def _associate(self) -> Association | None:
        if self._association is not None and self._association.is_established:
            return self._association
        to = self._destination
        association = self._ae.associate(
            to.host, to.port, ae_title=to.ae_title, evt_handlers=without_delay(), **self._tls
        )
        if not association.is_established:
            # A peer that accepted the association and none of its contexts is not unreachable.
            accepted_nothing = association.is_aborted and bool(association.rejected_contexts)
            self._association = None
            return association if accepted_nothing else None
        without_races(association)
        self._association = association
        self._used_at = time.monotonic()
        return association


def _read(path: Path) -> Dataset | None:
    try:
        return dcmread(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        # Cut off by a full disk, say; no later attempt would read more.
        log.error("output_unreadable", file_name=path.name, exc_info=error)
        return None


def judge(status: int) -> SendResult:
    """Read a C-STORE response status (PS3.4 table B.2-1, PS3.7 annex C).

    Warnings (0xB000 to 0xBFFF) mean stored, with elements coerced or ignored.
    """
    if status in {SUCCESS, DUPLICATE_SOP_INSTANCE} or 0xB000 <= status <= 0xBFFF:
        return SendResult(status)
    out_of_resources = 0xA700 <= status <= 0xA7FF
    temporary = out_of_resources or status == PROCESSING_FAILURE
    return SendResult(status, Reason.DESTINATION_REFUSED, permanent=not temporary)


def tls_arguments(entity: RemoteEntity, files: str) -> dict[str, Any]:
    """Give what ``AE.associate`` is told of TLS.

    Args:
        entity: that will be called.
        files: the setting that names its TLS files, for the error.

    Raises:
        ConfigurationError: the files cannot be read.
    """
    if not entity.tls:
        return {}
    try:
        context = ssl.create_default_context(cafile=entity.tls_ca)
        if entity.tls_certificate is not None:
            context.load_cert_chain(entity.tls_certificate, entity.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{files} cannot be read") from error
    return {"tls_args": (context, entity.host)}
