"""Says in one plain sentence where a traced instance is and why, and what to type if something is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from models.errors import Reason
from models.records.dicom import InstanceState
from models.records.outputs import DeliveryState, OutputKind
from models.records.summaries import SummaryState
from models.spool_places import SpoolPlace
from worker.queue_place import QueuePlace, QueueStatus, Workers
from worker.settings import AnyDestination
from worker.trace_facts import DeliveryTrace, InstanceTrace, LedgerEntry, OutputTrace, SummaryNote, Trace

PATIENCE: Final = timedelta(seconds=60)
"""What should happen by itself and has not for so long needs somebody."""

NOTHING: Final = "nothing to do"
MEND: Final = "python -m worker reconcile --mend"

_SKIPPED: Final = {
    Reason.NO_RULE_MATCHED: "see the routing rules (RADSTREAM_WORKER_ROUTING_FILE)",
    Reason.EXCLUDED_BY_RULE: "see the routing rules (RADSTREAM_WORKER_ROUTING_FILE)",
    Reason.NOT_A_RADIOGRAPH: "it is no radiograph",
    Reason.OWN_OUTPUT: "it is one of our own outputs that came back",
    Reason.NO_ACTIVE_VERSION: "no version was active for its task; see `python -m training promote --help`",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where an instance is and why, and what to do: a command, advice, or that there is nothing."""

    now: str
    to_do: str = NOTHING


def judge(instance: InstanceTrace, trace: Trace, destinations: Sequence[AnyDestination], moment: datetime) -> Verdict:
    """Give the verdict on one instance of a trace at a moment."""
    entry = instance.ledger
    if entry is None:
        return _unknown_to_ledger(instance, trace, moment)
    if entry.state is InstanceState.SKIPPED:
        return Verdict(f"skipped: {_reason(entry)}, {_explained(entry)}")
    if entry.state is InstanceState.FAILED:
        return _failed(instance, entry)
    if entry.state is InstanceState.DONE:
        return _done(instance, trace, destinations, moment)
    return _unsettled(instance, entry, trace.workers, moment)


def readable_time(moment: datetime, now: datetime) -> str:
    """Write a time as a clock shows it, with its date where that is another day."""
    local = moment.astimezone()
    return local.strftime("%H:%M" if local.date() == now.astimezone().date() else "%Y-%m-%d %H:%M")


def _reason(entry: LedgerEntry) -> str:
    return f"{entry.reason} ({entry.reason_detail})" if entry.reason_detail else str(entry.reason)


def _explained(entry: LedgerEntry) -> str:
    return next((text for reason, text in _SKIPPED.items() if reason.value == entry.reason), "no task applies to it")


def _unknown_to_ledger(instance: InstanceTrace, trace: Trace, moment: datetime) -> Verdict:
    if not trace.database_up:
        where = f"lies in the spool ({instance.spool.place})" if instance.spool else "is known to the queue alone"
        return Verdict(f"{where}{_in_queue(instance.queue)}; the results database does not answer, so no more is known")
    if instance.spool is None:
        return Verdict("has a job in the queue, and neither a file in the spool nor an entry in the ledger", MEND)
    if instance.spool.place is SpoolPlace.PENDING:
        late = moment - instance.spool.received_at > PATIENCE
        return Verdict(
            "lies in the spool and is not in the ledger yet; the SCP's next sweep registers and queues it",
            f"see that `python -m scp` runs, or: {MEND}" if late else NOTHING,
        )
    return Verdict(
        "was set aside unread: its file is none that the SCP wrote, so the ledger does not know it",
        f"look at {instance.spool.location}",
    )


def _in_queue(place: QueuePlace | None) -> str:
    if place is None:
        return ""
    if place.status is QueueStatus.IN_HAND:
        return f", in hand of worker {place.worker}"
    return f", in queue {place.queue}" if place.status is not QueueStatus.OVER else ""


def _failed(instance: InstanceTrace, entry: LedgerEntry) -> Verdict:
    if instance.spool is None:
        return Verdict(f"failed: {_reason(entry)}; its file is not kept, so it cannot be tried again")
    return Verdict(
        f"failed: {_reason(entry)}; its file is set aside",
        f"once the cause is mended: python -m worker requeue --instance {instance.sop_instance_uid}",
    )


# On the way to a result


def _unsettled(instance: InstanceTrace, entry: LedgerEntry, workers: Workers | None, moment: datetime) -> Verdict:
    if instance.spool is None:
        study = f"study {instance.study_instance_uid}" if instance.study_instance_uid else "it"
        return Verdict(
            "its bytes are lost: the ledger waits for its result, and the spool has no file of it",
            f"have {entry.calling_ae_title} send {study} again",
        )
    if instance.spool.place is not SpoolPlace.PENDING:
        return Verdict(f"is to be done again, and its file still lies in {instance.spool.place}", MEND)
    if workers is None:
        return Verdict(
            "lies in the spool and waits for a worker; Redis does not answer, so its queue is not known",
            "see that Redis runs; nothing is lost, the SCP's sweep queues it again",
        )
    return _queued(instance.queue, workers, moment - entry.received_at > PATIENCE)


def _queued(place: QueuePlace | None, workers: Workers, late: bool) -> Verdict:
    if place is not None and place.status is QueueStatus.IN_HAND:
        deaths = f"; {place.deaths} workers died over it before" if place.deaths else ""
        return Verdict(f"in hand of worker {place.worker}{deaths}")
    if place is not None and place.status is QueueStatus.BEING_TAKEN:
        return Verdict("a worker is just taking it from its queue")
    if place is None or place.status in {QueueStatus.OVER, QueueStatus.UNLISTED}:
        return Verdict(
            "lies in the spool and in no queue; the SCP's next sweep queues it",
            f"see that `python -m scp` runs, or: {MEND}" if late else NOTHING,
        )
    waits = f"waits in queue {place.queue}, position {place.position} of {place.length}"
    if workers.suspended:
        return Verdict(f"{waits}; the workers are suspended", "rq resume")
    if not workers.alive:
        return Verdict(f"{waits}; no worker runs", "python -m worker run")
    return Verdict(f"{waits}; {workers.alive} worker{'s' if workers.alive > 1 else ''} at work")


# On the way to destinations


def _done(instance: InstanceTrace, trace: Trace, destinations: Sequence[AnyDestination], moment: datetime) -> Verdict:
    if not instance.outputs:
        if not destinations:
            return Verdict("done; no destination is set, so no outputs were made")
        if all(kind is OutputKind.STUDY_SUMMARY for to in destinations for kind in to.outputs):
            return Verdict("done; its destinations want no outputs but a summary of its study")
        return Verdict("done, but without the outputs that its destinations want", MEND)
    return judge_outputs(instance.outputs, trace, destinations, moment)


def judge_summary(
    outputs: Sequence[OutputTrace],
    note: SummaryNote | None,
    trace: Trace,
    destinations: Sequence[AnyDestination],
    moment: datetime,
) -> Verdict:
    """Give the verdict on the summary of a study: whether it is made, and then on its way to destinations."""
    if note is not None and note.state is SummaryState.SKIPPED:
        why = (
            "no file of the study is left to copy its patient from" if note.reason else "it has no instance of a sender"
        )
        to_do = "it is made when another instance of the study comes"
        return Verdict(f"cannot be made: {note.reason or 'nothing to tell'}; {why}", to_do)
    if note is not None and note.state is SummaryState.DUE and note.attempts:
        at = readable_time(note.next_attempt_at, moment)
        return Verdict(
            f"could not be made: {note.reason}, {note.attempts} attempts, next {at}", "see the log of `deliver`"
        )
    if note is not None and note.state is SummaryState.DUE:
        again = " again" if outputs else ""
        return Verdict(f"is made{again} once the study is quiet (RADSTREAM_WORKER_STUDY_QUIET_S)")
    return judge_outputs(outputs, trace, destinations, moment)


def judge_outputs(
    outputs: Sequence[OutputTrace], trace: Trace, destinations: Sequence[AnyDestination], moment: datetime
) -> Verdict:
    """Give the verdict on outputs: the worst of their deliveries."""
    by_state: dict[DeliveryState, list[tuple[OutputTrace, DeliveryTrace]]] = {state: [] for state in DeliveryState}
    for output in outputs:
        for delivery in output.deliveries:
            by_state[delivery.state].append((output, delivery))
    if by_state[DeliveryState.DEAD]:
        return _dead(*by_state[DeliveryState.DEAD][0])
    if by_state[DeliveryState.PENDING]:
        output, delivery = min(by_state[DeliveryState.PENDING], key=lambda pair: pair[1].requested_at)
        known = {to.name for to in destinations}
        return _pending(output, delivery, known, trace.unreachable_since.get(delivery.destination), moment)
    if not by_state[DeliveryState.DELIVERED]:
        return Verdict("done; its outputs were made for no destination", "python -m worker redeliver --help")
    return _delivered([delivery for _, delivery in by_state[DeliveryState.DELIVERED]], destinations, moment)


def _dead(output: OutputTrace, delivery: DeliveryTrace) -> Verdict:
    command = f"python -m worker redeliver --instance {output.sop_instance_uid} --destination {delivery.destination}"
    if not output.has_file:
        return Verdict(f"given up for {delivery.destination}: the file of an output is gone from the outbox", MEND)
    return Verdict(
        f"given up for destination {delivery.destination} after {delivery.attempts} attempts: {_last(delivery)}",
        f"once the cause is mended: {command}",
    )


def _last(delivery: DeliveryTrace) -> str:
    status = f", status 0x{delivery.last_status:04X}" if delivery.last_status is not None else ""
    http = f", HTTP {delivery.last_http_status}" if delivery.last_http_status is not None else ""
    return f"{delivery.reason or 'no answer'}{status}{http}"


def _pending(
    output: OutputTrace, delivery: DeliveryTrace, known: set[str], since: datetime | None, moment: datetime
) -> Verdict:
    name = delivery.destination
    if name not in known:
        return Verdict(
            f"waits for destination {name}, which is not one of RADSTREAM_WORKER_DESTINATIONS", "set it again"
        )
    if not output.has_file:
        return Verdict(f"waits for destination {name}, but the file of an output is gone from the outbox", MEND)
    due = delivery.next_attempt_at or moment
    if moment - due > PATIENCE:
        return Verdict(
            f"waits for destination {name}; an attempt has been due since {readable_time(due, moment)}",
            "see that `python -m worker run` or `python -m worker deliver` runs",
        )
    if not delivery.attempts:
        return Verdict(f"waits for its first attempt at destination {name}")
    if delivery.reason == Reason.DESTINATION_UNREACHABLE.value and since is not None:
        why = f"unreachable since {readable_time(since, moment)}"
    else:
        why = f"{delivery.attempts} attempts, the last: {_last(delivery)}"
    return Verdict(f"waits for destination {name}, {why}, next attempt {readable_time(due, moment)}")


def _delivered(
    deliveries: Sequence[DeliveryTrace], destinations: Sequence[AnyDestination], moment: datetime
) -> Verdict:
    asks = {to.name for to in destinations if getattr(to, "commitment", False)}
    names = ", ".join(sorted({each.destination for each in deliveries}))
    last = max((each.delivered_at for each in deliveries if each.delivered_at), default=None)
    at = f" at {readable_time(last, moment)}" if last else ""
    waiting = [each for each in deliveries if each.destination in asks and each.committed_at is None]
    if not waiting:
        committed = " and committed" if any(each.committed_at for each in deliveries) else ""
        return Verdict(f"delivered{committed}: {names}{at}")
    first = waiting[0]
    if first.commitment_due_at is None:
        return Verdict(f"delivered: {names}{at}; {first.destination} has not been asked to commit to it")
    again = f"; asked {first.commitment_attempts} times, next {readable_time(first.commitment_due_at, moment)}"
    return Verdict(f"delivered: {names}{at}; waits for {first.destination} to commit to it{again}")
