"""Asks a destination to commit to what was delivered to it (storage commitment SCU, PS3.4 annex J).

One request names many outputs. The association stays open for a while, because many archives report on it; else the
report comes on an association of the archive's own, to our port or to that of the SCP.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from models.commitment_reports import CommitmentReport, report_from
from models.errors import Reason
from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from models.requestor import requesting_entity, without_delay, without_races
from models.telemetry import get_logger
from worker.commitment_records import Asked, CommitmentRecords
from worker.metrics import DeliveryMetrics
from worker.sender import tls_arguments
from worker.settings import Destination, WorkerSettings

PUSH_MODEL: Final = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
TRANSFER_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
REQUEST_COMMITMENT: Final = 1
EVENT_TYPES: Final = frozenset({1, 2})

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_EVENT: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115

DATABASE_RETRY_S: Final = 2.0

log = get_logger("worker.commitment")

TakeReport = Callable[[CommitmentReport], None]
"""Keeps a report durably; raises OSError when it cannot."""


def take_event(event: Event, keep: TakeReport) -> tuple[int, Dataset | None]:
    """Serve an N-EVENT-REPORT request: give status and no dataset, once the report is durable."""
    if event.event_type not in EVENT_TYPES:
        return NO_SUCH_EVENT, None
    try:
        keep(report_from(event.event_information))
    except ValueError:
        return INVALID_ARGUMENT, None
    except OSError as error:
        log.error("commitment_report_not_kept", exc_info=error)
        return PROCESSING_FAILURE, None  # the archive tells it again
    return SUCCESS, None


@dataclass(frozen=True, slots=True)
class AskResult:
    """What came of one request; `reason` is None when it was taken."""

    status: int | None = None
    reason: Reason | None = None


class Asker:
    """Sends requests to one destination, each on an association of its own. One thread at a time."""

    def __init__(self, destination: Destination, calling_ae_title: str, settings: WorkerSettings) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigurationError: the TLS files cannot be read.
        """
        self.name = destination.name
        self._destination = destination
        self._wait_s = settings.commitment_wait_s
        timeout_s = settings.delivery_timeout_s
        self._ae = requesting_entity(destination.calling_ae_title or calling_ae_title, timeout_s)
        self._ae.add_requested_context(PUSH_MODEL, list(TRANSFER_SYNTAXES))
        self._ae.network_timeout = timeout_s + self._wait_s
        self._tls = tls_arguments(destination, f"RADSTREAM_WORKER_DESTINATIONS: TLS files of {destination.name}")

    def ask(self, asked: Asked, keep: TakeReport, stopping: threading.Event) -> AskResult:
        """Send a request, and take its report where it comes on the same association within the wait."""
        reported = threading.Event()

        def on_report(event: Event) -> tuple[int, Dataset | None]:
            answer = take_event(event, keep)
            reported.set()
            return answer

        to = self._destination
        association = self._ae.associate(
            to.host,
            to.port,
            ae_title=to.ae_title,
            evt_handlers=[*without_delay(), (evt.EVT_N_EVENT_REPORT, on_report)],
            **self._tls,
        )
        if not association.is_established:
            refused = association.is_aborted and bool(association.rejected_contexts)
            return AskResult(reason=Reason.COMMITMENT_REFUSED if refused else Reason.DESTINATION_UNREACHABLE)
        try:
            result = _send(association, asked)
            if result.reason is None:
                self._await(association, reported, stopping)
            return result
        finally:
            if association.is_established:
                association.release()

    def _await(self, association: Association, reported: threading.Event, stopping: threading.Event) -> None:
        waited_s = 0.0
        while association.is_established and waited_s < self._wait_s and not stopping.is_set():
            if reported.wait(0.05):
                # The response leaves by the association's own thread after the handler; release waits for its turn.
                stopping.wait(0.1)
                return
            waited_s += 0.05


def _send(association: Association, asked: Asked) -> AskResult:
    request = Dataset()
    request.TransactionUID = asked.transaction_uid
    request.ReferencedSOPSequence = [_reference(*uids) for uids in asked.references]
    # The association's own thread serves the report, and must not take the response; see `without_races`.
    without_races(association)
    try:
        answer, _ = association.send_n_action(request, REQUEST_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        log.warning("commitment_request_failed", exc_info=error)
        return AskResult(reason=Reason.DESTINATION_UNREACHABLE)
    finally:
        del association.dimse.get_msg  # what `without_races` put there: from here on reports are served
    if "Status" not in answer:
        return AskResult(reason=Reason.DESTINATION_UNREACHABLE)
    status = int(answer.Status)
    return AskResult(status, None if status == SUCCESS else Reason.COMMITMENT_REFUSED)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


class CommitmentQueue:
    """Works off the commitment requests of one destination."""

    def __init__(
        self,
        asker: Asker,
        records: CommitmentRecords,
        keep: TakeReport,
        settings: WorkerSettings,
        metrics: DeliveryMetrics,
    ) -> None:
        self.name = f"commitment-{asker.name}"
        self._asker = asker
        self._records = records
        self._keep = keep
        self._settings = settings
        self._metrics = metrics
        self._refusals = 0

    def run(self, stopping: threading.Event) -> None:
        """Ask until told to stop."""
        while not stopping.is_set():
            try:
                if not self.turn(stopping):
                    stopping.wait(self._settings.delivery_poll_interval_s)
            except SQLAlchemyError as error:
                log.warning("commitment_waits", destination=self._asker.name, exc_info=error)
                stopping.wait(DATABASE_RETRY_S)
            except Exception as error:
                # The thread must live on: nobody else asks this destination.
                log.error("commitment_failed", destination=self._asker.name, exc_info=error)
                stopping.wait(DATABASE_RETRY_S)

    def turn(self, stopping: threading.Event) -> bool:
        """Send one request, if any output is due; say whether one was taken."""
        destination = self._asker.name
        given_up = self._records.give_up_old(destination)
        if given_up:
            log.error("commitment_given_up", destination=destination, outputs=given_up)
            self._count("dead", given_up)
        asked = self._records.claim(destination)
        if asked is None:
            return False
        result = self._asker.ask(asked, self._keep, stopping)
        self._refusals = 0 if result.reason is None else self._refusals + 1
        if result.reason is not None:
            self._records.put_off(asked.transaction_uid, result.reason, self._back_off_s())
        level = log.info if result.reason is None else log.warning
        level(
            "commitment_asked",
            destination=destination,
            outputs=len(asked.references),
            status=f"0x{result.status:04x}" if result.status is not None else None,
            reason=result.reason.value if result.reason else None,
        )
        self._count("asked" if result.reason is None else "retry", len(asked.references))
        return result.reason is None

    def _back_off_s(self) -> float:
        first, longest = self._settings.delivery_first_retry_s, self._settings.delivery_longest_retry_s
        return min(first * 2.0 ** min(self._refusals - 1, 30), longest) * random.uniform(0.8, 1.2)

    def _count(self, outcome: str, outputs: int) -> None:
        self._metrics.commitments.labels(destination=self._asker.name, outcome=outcome).inc(outputs)


def reporting_entity(ae_title: str) -> AE:
    """Give an application entity that takes reports on new associations."""
    ae = AE(ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    # Who reports is the SCP of the service though it opens the association; some archives forget to say so.
    ae.add_supported_context(PUSH_MODEL, list(TRANSFER_SYNTAXES), scu_role=True, scp_role=True)
    ae.add_supported_context(Verification)  # whoever accepts associations answers C-ECHO (PS3.2 7.1)
    return ae


def report_handlers(keep: TakeReport) -> list[Any]:
    """Give the event handlers of such an entity."""
    return [(evt.EVT_N_EVENT_REPORT, lambda event: take_event(event, keep))]
