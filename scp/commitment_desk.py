"""Storage commitment within an association: requests taken, reports sent on it while it lives, reports received.

A request is answered when it is durable beside the spool. The parent finds out what to report, and reports itself
where the association is gone before it could be said here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import UID

from models.commitment_reports import Reports
from models.telemetry import get_logger
from scp import commitment_messages as messages
from scp.commands import MalformedCommand
from scp.commitment_messages import MalformedMessage, ServiceStatus
from scp.commitment_transactions import HeldTransaction, Transaction, TransactionFolder
from scp.scoreboard import COMMITMENTS_ASKED, Slot

REPORT_POLL_S = 0.2
"""How often an association that asked, and is idle, looks whether there is something to report."""

MAX_HELD = 32
"""Requests that one association reports on itself; each takes a file descriptor. More are left to the parent."""
MAX_OPEN = 10_000
"""Requests that wait for their report; more are refused."""

log = get_logger("scp.commitment")


@dataclass(frozen=True, slots=True)
class CommitmentDesk:
    """What the associations of one process work with.

    Attributes:
        transactions: None where we do not commit.
        reports: None where we take no reports on our own outputs.
    """

    transactions: TransactionFolder | None
    reports: Reports | None
    slot: Slot

    @property
    def is_offered(self) -> bool:
        """Whether there is anything to negotiate the service for."""
        return self.transactions is not None or self.reports is not None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A report to be sent: its context, and the two encoded parts of the message."""

    context_id: int
    command_set: bytes
    dataset: bytes


class CommitmentTalk:
    """The commitment messages of one association."""

    def __init__(self, desk: CommitmentDesk) -> None:
        self._desk = desk
        self._waiting: list[tuple[int, UID, HeldTransaction]] = []
        self._reported: dict[int, HeldTransaction] = {}
        self._next_message_id = 1

    @property
    def awaits_verdict(self) -> bool:
        """Whether there may soon be something to report."""
        return bool(self._waiting)

    def serve(
        self, values: dict[int, bytes], context_id: int, syntax: UID, calling_ae_title: str, dataset: bytes
    ) -> bytes:
        """Serve an N-ACTION or N-EVENT-REPORT request, and give the command set of the response.

        Raises:
            MalformedCommand: the command set is not one of these.
        """
        field = messages.command_field(values)
        if field == messages.N_ACTION_RQ:
            action = messages.action_request(values)
            return messages.action_response(action, self._ask(action, context_id, syntax, calling_ae_title, dataset))
        if field == messages.N_EVENT_REPORT_RQ:
            event = messages.event_report(values)
            return messages.event_report_response(event, self._take_report(event, syntax, dataset))
        raise MalformedCommand("not a message of storage commitment")

    def reports_due(self) -> Iterator[Outgoing]:
        """Give the reports whose verdict is known; each is given once."""
        for waiting in list(self._waiting):
            context_id, syntax, held = waiting
            verdict = held.verdict()
            if verdict is None:
                continue
            self._waiting.remove(waiting)
            message_id = self._next_message_id
            self._next_message_id = message_id % 65_535 + 1
            self._reported[message_id] = held
            yield Outgoing(
                context_id,
                messages.event_report_command(message_id, verdict),
                messages.encode_report(held.transaction.transaction_uid, verdict, syntax),
            )

    def answered(self, values: dict[int, bytes]) -> bool:
        """Take the response to a report; False when it answers none of ours."""
        message_id, status = messages.response_to(values)
        held = self._reported.pop(message_id, None)
        if held is None:
            return False
        if status == ServiceStatus.SUCCESS:
            log.info("commitment_reported", calling_ae_title=held.transaction.calling_ae_title, association="same")
            held.done()
        else:
            log.warning("commitment_report_refused", status=f"0x{status:04x}")
            held.release()  # the parent tries again
        return True

    def end(self) -> None:
        """Leave to the parent what was not reported."""
        for held in [*(held for _, _, held in self._waiting), *self._reported.values()]:
            held.release()
        self._waiting.clear()
        self._reported.clear()

    def _ask(
        self, request: messages.ServiceRequest, context_id: int, syntax: UID, calling_ae_title: str, dataset: bytes
    ) -> ServiceStatus:
        transactions = self._desk.transactions
        if transactions is None:
            return ServiceStatus.NO_SUCH_ACTION
        if request.sop_instance_uid != messages.PUSH_MODEL_INSTANCE:
            return ServiceStatus.NO_SUCH_INSTANCE
        if request.type_id != messages.REQUEST_COMMITMENT:
            return ServiceStatus.NO_SUCH_ACTION
        try:
            transaction_uid, references = messages.read_request(dataset, syntax)
            if len(transactions.keys()) >= MAX_OPEN:
                return ServiceStatus.RESOURCE_LIMITATION
            held = transactions.ask(Transaction(transaction_uid, calling_ae_title, time.time(), references))
        except MalformedMessage:
            return ServiceStatus.INVALID_ARGUMENT
        except OSError as error:
            log.error("commitment_not_kept", exc_info=error)
            return ServiceStatus.RESOURCE_LIMITATION
        self._desk.slot.add(COMMITMENTS_ASKED)
        log.info("commitment_asked", calling_ae_title=calling_ae_title, instances=len(references))
        if len(self._waiting) < MAX_HELD:
            self._waiting.append((context_id, syntax, held))
        else:
            held.release()
        return ServiceStatus.SUCCESS

    def _take_report(self, event: messages.ServiceRequest, syntax: UID, dataset: bytes) -> ServiceStatus:
        if self._desk.reports is None:
            return ServiceStatus.NO_SUCH_EVENT
        if event.type_id not in {messages.ALL_COMMITTED, messages.FAILURES_EXIST}:
            return ServiceStatus.NO_SUCH_EVENT
        try:
            self._desk.reports.put(messages.read_report(dataset, syntax))
        except MalformedMessage:
            return ServiceStatus.INVALID_ARGUMENT
        except OSError as error:
            log.error("commitment_report_not_kept", exc_info=error)
            return ServiceStatus.RESOURCE_LIMITATION
        return ServiceStatus.SUCCESS
