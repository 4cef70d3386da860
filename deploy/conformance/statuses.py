"""Section 7.3 of the statement: statuses that are sent, what is done about those that come, reasons in records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import groupby

from deploy.conformance.attribute_docs import grouped_members, member_docs
from deploy.conformance.markdown import in_words, paragraphs, status_text, table
from models.errors import Reason
from scp.commitment_messages import FailureReason, ServiceStatus
from scp.statuses import ERROR_COMMENTS, Rejection, StoreStatus
from scp.stow.answer import ANSWERS
from worker import commitment, pacs_query, retrieval
from worker.sender import SendResult, judge
from worker.stow_sender import judge_answer

_RESULTS = {1: "rejected, permanent", 2: "rejected, transient"}
_SOURCES = {1: "service user", 2: "service provider (ACSE)", 3: "service provider (presentation)"}
_LEGEND = """\
*delivered* ends a delivery. *again* means: tried again with growing waits, until `delivery_give_up_s` have passed.
*refused* means: the object itself was refused; it is tried `delivery_max_refusals` times and then given up, yet
kept and sent again on command. *pause* means that nothing else is sent to the destination before the next attempt."""


def render() -> str:
    """Give the section."""
    return paragraphs(
        "### 7.3 Status codes",
        "#### 7.3.1 General communication and failure behaviour",
        "Associations that RECEIVER refuses:",
        table(("result", "source", "reason", "when"), _rejections()),
        "When a connection is lost, a peer is silent for too long or breaks the protocol, the association is aborted; "
        "what had arrived of an instance is thrown away, and what had been answered stays. DELIVERY and RETRIEVAL open "
        "a new association and go on where the last one ended.",
        "#### 7.3.2 DIMSE services",
        "C-STORE responses that RECEIVER gives, and failure reasons of its STOW-RS answers:",
        table(("status", "meaning", "Error Comment (0000,0902)", "when"), _store_statuses()),
        "N-ACTION and N-EVENT-REPORT responses that RECEIVER gives:",
        table(("status", "meaning", "when"), _documented(ServiceStatus)),
        "Failure Reason (0008,1197) of instances in its reports:",
        table(("reason", "meaning", "when"), _documented(FailureReason)),
        _LEGEND,
        "What DELIVERY does about C-STORE responses:",
        table(("status", "what is done"), _judged(range(0x10000), judge, status_text)),
        "No response in time, or a lost association: *again*. A storage class that the destination does not accept: "
        "*refused*.",
        _commitment(),
        _query(),
        "#### 7.3.3 DICOM Web Services",
        "HTTP statuses that RECEIVER gives as origin server:",
        table(("status", "when"), ((str(status), ANSWERS[status]) for status in sorted(ANSWERS))),
        "What DELIVERY does about HTTP statuses as user agent, where the body names no failure reason; a failure "
        "reason is treated like the C-STORE status of the same number:",
        table(("status", "what is done"), _judged(range(200, 600), _judge_http, _http_text)),
        "#### 7.3.4 Reasons in records",
        "Instances and deliveries that are not done carry a reason, which `python -m worker trace` tells.",
        *_reasons(),
    )


def _rejections() -> Iterator[tuple[str, str, str, str]]:
    docs = member_docs(Rejection)
    for each in Rejection:
        result, source, reason = each.value
        yield f"{result}: {_RESULTS[result]}", f"{source}: {_SOURCES[source]}", str(reason), docs[each.name]


def _store_statuses() -> Iterator[tuple[str, str, str, str]]:
    docs = member_docs(StoreStatus)
    for each in StoreStatus:
        yield status_text(each), in_words(each.name), ERROR_COMMENTS.get(each, ""), docs[each.name]


def _documented(statuses: type[IntEnum]) -> Iterator[tuple[str, str, str]]:
    docs = member_docs(statuses)
    for each in statuses:
        yield status_text(each), in_words(each.name), docs[each.name]


def _judged(
    statuses: range, judge_one: Callable[[int], SendResult], text: Callable[[int, int], str]
) -> Iterator[tuple[str, str]]:
    """Give what is done about each status, as ranges of which all are treated alike."""
    for done, group in groupby(statuses, lambda status: _done(judge_one(status))):
        members = list(group)
        yield text(members[0], members[-1]), done


def _done(result: SendResult) -> str:
    if result.reason is None:
        return "delivered"
    pause = ", pause" if result.stops_queue else ""
    return f"{'refused' if result.permanent else 'again'}{pause} (`{result.reason}`)"


def _judge_http(status: int) -> SendResult:
    return judge_answer(status, None)


def _http_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _commitment() -> str:
    return paragraphs(
        f"N-ACTION responses that DELIVERY gets: {status_text(commitment.SUCCESS)} is taken; any other is "
        f"`{Reason.COMMITMENT_REFUSED}` and asked again later. N-EVENT-REPORT responses that it gives: "
        f"{status_text(commitment.SUCCESS)} when the report is durable, {status_text(commitment.NO_SUCH_EVENT)} for an "
        f"unknown event type, {status_text(commitment.INVALID_ARGUMENT)} for a report that is none, "
        f"{status_text(commitment.PROCESSING_FAILURE)} when it cannot be kept. Outputs that a report calls failed are "
        "sent again, `commitment_max_failures` times at most."
    )


def _query() -> str:
    pending = ", ".join(map(status_text, sorted(pacs_query.PENDING | retrieval.PENDING)))
    return (
        f"C-FIND and C-GET responses that RETRIEVAL gets: {pending} go on, {status_text(pacs_query.SUCCESS)} ends; any "
        "other ends in failure, which is told and, for a backfill, tried again by the next one. C-STORE responses that "
        f"it gives: {status_text(retrieval.SUCCESS)}, or {status_text(retrieval.CANNOT_UNDERSTAND)} for an instance "
        "that was not asked for."
    )


def _reasons() -> Iterator[str]:
    docs = member_docs(Reason)
    for heading, names in grouped_members(Reason).items():
        yield f"{heading}"
        yield table(("reason", "meaning"), ((f"`{Reason[name]}`", docs[name]) for name in names))
