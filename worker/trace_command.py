"""`python -m worker trace`: shows where a study or an instance is, and what to type if something is to be done."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from models.settings import Settings
    from worker.queue_place import QueuePlace
    from worker.settings import AnyDestination, WorkerSettings
    from worker.trace_facts import DeliveryTrace, InstanceTrace, LedgerEntry, OutputTrace, SummaryNote, Trace

STEPS: Final = ("received", "queued", "inferred", "settled", "delivered", "committed")
"""The way of an instance, in its order; `<step>_at` is when."""


def add_arguments(commands: Any) -> None:
    """Add the command to the parser of `python -m worker`."""
    trace = commands.add_parser(
        "trace",
        help="where a study or instance is, why, and what to do",
        description="Shows each instance of a study: its steps with times, its file in the spool, its place in the "
        "queue, versions that answered, outputs and their deliveries. Works while Redis or the database is away. "
        "Exit status 1 when it is known nowhere.",
    )
    trace.add_argument(
        "asked",
        metavar="ACCESSION|UID|study:NUMBER",
        help="accession number, Study or SOP Instance UID (ours, too), or a study as the status page names it",
    )
    trace.add_argument("--format", choices=["table", "json"], default="table", help="default: table")


def trace(arguments: Namespace, settings: Settings, own: WorkerSettings) -> int:
    """Print the trace; give the exit status: 0 when it is known anywhere, else 1.

    Raises:
        ConfigurationError: a setting is wrong, or the database is not migrated.
    """
    from models.any_spool import open_spool
    from models.records.base import utc_now
    from worker.outbox import open_outbox
    from worker.running import connect_redis
    from worker.source import IdentityPolicy
    from worker.trace import Tracer

    asked = arguments.asked.strip()
    stored = IdentityPolicy.of(settings).identifier(asked)
    with ExitStack() as closing:
        sessions = _open_records(settings, closing)
        asked = named_by_number(asked, sessions)
        redis = connect_redis(settings)
        closing.callback(redis.close)
        progress = closing.enter_context(_progress())
        bar = progress.add_task("spool files", total=None)
        tracer = Tracer(sessions, open_spool(settings), redis, open_outbox(settings))
        found = tracer.trace(asked, stored, lambda: progress.advance(bar))
    away = _away(found)
    for line in away:
        print(f"radstream: {line}", file=sys.stderr)
    if not found.instances and not found.summaries:
        print(f"radstream: {_not_found(asked, stored is None, bool(away))}", file=sys.stderr)
        return 1
    write = _write_json if arguments.format == "json" else _write_text
    write(found, own.destinations, utc_now(), sys.stdout)
    return 0


def _open_records(settings: Settings, closing: ExitStack) -> sessionmaker[Session] | None:
    from sqlalchemy.exc import SQLAlchemyError

    from models.records.sessions import open_database, session_factory
    from worker.running import check_schema

    try:
        database = open_database(settings)
        closing.callback(database.dispose)
        check_schema(database)
    except (SQLAlchemyError, OSError):
        return None
    return session_factory(database)


def named_by_number(asked: str, sessions: sessionmaker[Session] | None) -> str:
    """Give the UID of ``study:NUMBER``, which is how the status page names studies; anything else as it is."""
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    from models.records.dicom import Study

    number = re.fullmatch(r"study:(\d{1,18})", asked)
    if number is None or sessions is None:
        return asked
    try:
        with sessions() as session:
            session.connection(execution_options={"read_only": True})
            uid = session.scalar(select(Study.study_instance_uid).where(Study.id == int(number[1])))
    except SQLAlchemyError:
        return asked
    return uid or asked


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    # Gone when the answer is printed; a file or pipe gets none of it.
    columns = (TextColumn("looking through {task.description}: {task.completed:.0f}"),)
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _away(found: Trace) -> list[str]:
    lines = []
    if not found.database_up:
        lines.append("the results database does not answer: what follows is from the spool and the queues alone")
    if found.workers is None:
        lines.append("Redis does not answer: places in the queues are not known")
    return lines


def _not_found(asked: str, without_accessions: bool, away: bool) -> str:
    if away:
        return f"{asked}: not found in what does answer"
    hint = "; accession numbers are not recorded (RADSTREAM_PHI=none), give a UID" if without_accessions else ""
    return f"{asked}: known to neither ledger nor spool nor queue{hint}"


# JSON


def _write_json(found: Trace, destinations: Sequence[AnyDestination], moment: datetime, stream: TextIO) -> None:
    from worker.trace_verdict import judge, judge_summary

    instances = []
    for each in found.instances:
        verdict = judge(each, found, destinations, moment)
        instances.append({**asdict(each), "durations_s": _durations(each.ledger), **asdict(verdict)})
    summaries = [
        {
            "study_instance_uid": study,
            "note": note and asdict(note),
            "outputs": [asdict(each) for each in outputs],
            **asdict(judge_summary(outputs, note, found, destinations, moment)),
        }
        for study, outputs, note in _summaries(found)
    ]
    document = {
        "database_answers": found.database_up,
        "redis_answers": found.workers is not None,
        "workers": found.workers and asdict(found.workers),
        "instances": instances,
        "study_summaries": summaries,
    }
    json.dump(document, stream, default=_plain, indent=2)
    stream.write("\n")


def _summaries(found: Trace) -> list[tuple[str, tuple[OutputTrace, ...], SummaryNote | None]]:
    """Give the studies that have a summary or are to have one, with both."""
    studies = sorted({*found.summaries, *found.summary_notes})
    return [(study, found.summaries.get(study, ()), found.summary_notes.get(study)) for study in studies]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not written")


def _durations(entry: LedgerEntry | None) -> dict[str, float]:
    """Give the seconds from each step to the next that happened, by the name of the later one."""
    durations: dict[str, float] = {}
    before: datetime | None = None
    for step in STEPS:
        at: datetime | None = getattr(entry, f"{step}_at", None)
        if at is not None and before is not None:
            durations[step] = round((at - before).total_seconds(), 3)
        before = at or before
    return durations


# Text


def _write_text(found: Trace, destinations: Sequence[AnyDestination], moment: datetime, stream: TextIO) -> None:
    from worker.trace_verdict import judge, judge_summary

    summaries = {study: (outputs, note) for study, outputs, note in _summaries(found)}
    studies: dict[str, list[InstanceTrace]] = {study: [] for study in summaries}
    for each in found.instances:
        studies.setdefault(each.study_instance_uid or "", []).append(each)
    for study, instances in studies.items():
        name = f"study {study}" if study else "study not known"
        states = Counter(each.ledger.state.value if each.ledger else "not in the ledger" for each in instances)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        _say(stream, 0, f"{name}: {counts or 'no instance'}")
        for each in instances:
            _write_instance(each, stream)
            verdict = judge(each, found, destinations, moment)
            _say(stream, 2, f"now:   {verdict.now}", f"to do: {verdict.to_do}", "")
        if study in summaries:
            outputs, note = summaries[study]
            _say(stream, 1, "summary of the study")
            _write_outputs(outputs, stream)
            verdict = judge_summary(outputs, note, found, destinations, moment)
            _say(stream, 2, f"now:   {verdict.now}", f"to do: {verdict.to_do}", "")


def _say(stream: TextIO, depth: int, *lines: str) -> None:
    for line in lines:
        stream.write(f"{'  ' * depth}{line}".rstrip() + "\n")


def _write_instance(each: InstanceTrace, stream: TextIO) -> None:
    _say(stream, 1, f"instance {each.sop_instance_uid}")
    entry = each.ledger
    if entry is not None:
        again = "".join(
            f", {count} {what}"
            for count, what in ((entry.duplicates, "times again"), (entry.conflicts, "times with other bytes"))
            if count
        )
        _say(stream, 2, f"state  {entry.state.value}, from {entry.calling_ae_title}, {entry.lane}{again}")
        durations = _durations(entry)
        for step in STEPS:
            at: datetime | None = getattr(entry, f"{step}_at")
            after = f"   {durations[step]:+.3f} s" if step in durations else ""
            _say(stream, 2, f"{step:<10} {_moment(at)}{after}")
    _say(stream, 2, f"spool  {f'{each.spool.place.value}, {each.spool.location}' if each.spool else 'no file'}")
    if each.queue is not None:
        _say(stream, 2, f"queue  {_queue_in_words(each.queue)}")
    for answer in each.answers:
        with_engine = f"{answer.provider} {answer.precision}"
        _say(stream, 2, f"answer {answer.task} {answer.version} ({with_engine}) {_moment(answer.inferred_at)}")
    _write_outputs(each.outputs, stream)


def _queue_in_words(place: QueuePlace) -> str:
    words = [place.status.value.replace("_", " ")]
    if place.queue:
        words.insert(0, place.queue)
    if place.position is not None:
        words.append(f"position {place.position} of {place.length}")
    if place.worker:
        words.append(f"worker {place.worker} since {_moment(place.since)}")
    if place.deaths:
        words.append(f"{place.deaths} workers died over it")
    return ", ".join(words)


def _write_outputs(outputs: Sequence[OutputTrace], stream: TextIO) -> None:
    for output in outputs:
        of = f" of {output.task} {output.version}" if output.task else ""
        file = "" if output.has_file else ", its file is not in the outbox any more"
        _say(stream, 2, f"output {output.kind}{of}: {output.sop_instance_uid}{file}")
        for delivery in output.deliveries:
            _say(stream, 3, f"{delivery.destination}: {_delivery_in_words(delivery)}")


def _delivery_in_words(delivery: DeliveryTrace) -> str:
    words = [delivery.state.value]
    words.append(f"{delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}")
    if delivery.last_status is not None:
        words.append(f"last status 0x{delivery.last_status:04X}")
    if delivery.last_http_status is not None:
        words.append(f"HTTP {delivery.last_http_status}")
    if delivery.reason:
        words.append(delivery.reason)
    for name, at in (
        ("next attempt", delivery.next_attempt_at),
        ("delivered", delivery.delivered_at),
        ("committed", delivery.committed_at),
    ):
        if at is not None:
            words.append(f"{name} {_moment(at)}")
    return ", ".join(words)


def _moment(at: datetime | None) -> str:
    return "-" if at is None else at.astimezone().isoformat(sep=" ", timespec="milliseconds")
