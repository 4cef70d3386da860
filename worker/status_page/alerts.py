"""What needs somebody, in a sentence each, with what to type; thresholds as in the alert rules for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from worker.status_page.facts import DestinationFacts, Facts, HereFacts, LedgerFacts, QueueFacts, Source
from worker.status_page.words import bounded, code, counted, duration, number, size

BACKLOG_OLD: Final = timedelta(minutes=15)
DELIVERY_OLD: Final = timedelta(hours=1)
NOBODY_DELIVERS: Final = timedelta(minutes=2)
WORKER_SILENT: Final = timedelta(minutes=2)
DISK_LOW_BYTES: Final = 10 * 2**30
DISK_FULL_BYTES: Final = 2 * 2**30


class Weight(StrEnum):
    """How much it matters."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that needs somebody.

    Attributes:
        text: what is, in a sentence.
        to_do: what to do about it.
        command: what to type; empty where nothing is.
    """

    weight: Weight
    text: str
    to_do: str
    command: str = ""


def find_alerts(facts: Facts) -> list[Alert]:
    """Give what needs somebody, the weightiest first."""
    found = [*_services(facts), *_engines(facts.here), *_disk(facts.here)]
    if facts.queues is not None and facts.sources["redis"].answers:
        found += _workers(facts.queues, facts)
    if facts.ledger is not None and facts.sources["database"].answers:
        found += [*_backlog(facts.ledger, facts), *_failures(facts.ledger)]
        for destination in facts.ledger.destinations:
            found += _delivery(destination, facts)
    return sorted(found, key=lambda alert: list(Weight).index(alert.weight))


def _services(facts: Facts) -> Iterator[Alert]:
    failing = facts.here.failing
    away = Source(None, False)
    if not facts.sources.get("database", away).answers or "database" in failing:
        yield Alert(
            Weight.CRITICAL,
            "The results database does not answer.",
            "Instances are still accepted and wait; everything goes on by itself once it is back. See",
            "python -m worker doctor",
        )
    if not facts.sources.get("redis", away).answers or "redis" in failing:
        yield Alert(
            Weight.CRITICAL,
            "Redis does not answer.",
            "Instances are still accepted and wait; the queues are filled again from the spool. Type",
            "redis-cli ping",
        )
    for name in sorted(set(failing) - {"database", "redis"}):
        yield Alert(
            Weight.CRITICAL,
            f"This worker is not ready: {code(name)} ({code(failing[name])}).",
            "See its log, and what this says:",
            "python -m worker doctor",
        )


def _engines(here: HereFacts) -> Iterator[Alert]:
    for engine in here.engines:
        if engine.role == "refused":
            serves = next((e.version for e in here.engines if e.task == engine.task and e.role == "active"), None)
            instead = f"{serves} serves on" if serves else "no version answers"
            what = f"Version {engine.version} of {engine.task}" if engine.version else f"active.json of {engine.task}"
            yield Alert(
                Weight.CRITICAL if serves is None else Weight.WARNING,
                f"{what} cannot be loaded; {instead}.",
                "The log says why (engine_refused). To go back:",
                f"python -m training rollback --task {engine.task}",
            )


def _disk(here: HereFacts) -> Iterator[Alert]:
    free = here.free_bytes
    if free is None:
        yield Alert(Weight.WARNING, "The disk of the spool does not answer this worker.", "Look at", "df -h")
    elif free < DISK_LOW_BYTES:
        weight = Weight.CRITICAL if free < DISK_FULL_BYTES else Weight.WARNING
        yield Alert(weight, f"{size(free)} are left on the disk of the spool.", "Make room, see", "df -h")


def _workers(queues: QueueFacts, facts: Facts) -> Iterator[Alert]:
    if queues.suspended:
        yield Alert(
            Weight.WARNING, "The workers are suspended: nothing is taken from the queues.", "To go on:", "rq resume"
        )
    for worker in queues.workers:
        if worker.heartbeat_at is not None and facts.at - worker.heartbeat_at > WORKER_SILENT:
            silent = duration((facts.at - worker.heartbeat_at).total_seconds())
            yield Alert(
                Weight.WARNING,
                f"Worker {worker.name} has been silent for {silent}.",
                "Others take over what it had in hand. If it is gone, start it again:",
                "python -m worker run",
            )


def _backlog(ledger: LedgerFacts, facts: Facts) -> Iterator[Alert]:
    if ledger.oldest_at is not None and facts.at - ledger.oldest_at > BACKLOG_OLD:
        waited = duration((facts.at - ledger.oldest_at).total_seconds())
        yield Alert(
            Weight.WARNING,
            f"{counted(ledger.unfinished, 'instance')} not finished, the oldest since {waited}.",
            "Start more workers where they are busy; to see whether anything was lost on the way:",
            "python -m worker reconcile",
        )


def _failures(ledger: LedgerFacts) -> Iterator[Alert]:
    if not ledger.failed_of_day:
        return
    reasons = sorted(ledger.failed_of_day.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{code(reason) or 'no reason'} {number(count)}" for reason, count in reasons[:4])
    yield Alert(
        Weight.NOTE,
        f"{counted(sum(ledger.failed_of_day.values()), 'instance')} of the last day failed: {named}.",
        "They are set aside, and requeue tries them again. To see them:",
        "python -m worker results --state failed",
    )


def _delivery(to: DestinationFacts, facts: Facts) -> Iterator[Alert]:
    if to.dead:
        noun = "output" if to.dead == 1 else "outputs"
        yield Alert(
            Weight.CRITICAL,
            f"{bounded(to.dead)} {noun} to {to.name} {'was' if to.dead == 1 else 'were'} given up.",
            "Once the cause is mended:",
            f"python -m worker redeliver --dead{f' --destination {to.name}' if to.is_set else ''}",
        )
    if not to.waiting:
        return
    waited = f"{counted(to.waiting, 'output')} to {to.name} {'waits' if to.waiting == 1 else 'wait'}"
    since = duration((facts.at - to.oldest_at).total_seconds()) if to.oldest_at else "a while"
    if not to.is_set:
        yield Alert(
            Weight.WARNING, f"{waited}, which is no destination any more.", "Set it again in", _DESTINATIONS_SETTING
        )
    elif to.due_at is not None and facts.at - to.due_at > NOBODY_DELIVERS:
        yield Alert(
            Weight.CRITICAL,
            f"{waited} since {since}, and nobody tries.",
            "See that this runs, and its log:",
            "python -m worker deliver",
        )
    elif to.reason is not None or (to.oldest_at is not None and facts.at - to.oldest_at > DELIVERY_OLD):
        why = f" ({code(to.reason)})" if to.reason else ""
        old = to.oldest_at is not None and facts.at - to.oldest_at > DELIVERY_OLD
        yield Alert(
            Weight.WARNING if old else Weight.NOTE,
            f"{waited} since {since}{why}.",
            "They are sent once it takes them again. To try the connection:",
            "python -m worker doctor",
        )


_DESTINATIONS_SETTING: Final = "RADSTREAM_WORKER_DESTINATIONS"
