"""The commands beside `run` and `deliver`: what is where, and sending it on its way again."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, TextIO

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.records.base import utc_now
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.outputs import Delivery, DeliveryState, Output
from models.requests import QUEUE_NAMES
from worker.output_records import record_deliveries
from worker.phantom import KEPT
from worker.settings import Recipient
from worker.settlement import forget_outcome

Rows = Sequence[dict[str, Any]]


def write_rows(rows: Rows, form: str, stream: TextIO, title: str = "") -> None:
    """Write rows as a readable table, as JSON (an array of objects) or as CSV with a header."""
    if form == "json":
        json.dump(rows, stream, default=_plain, indent=2)
        stream.write("\n")
    elif form == "csv":
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    else:
        # Values of a dataset may look like markup.
        console = Console(
            file=stream, width=None if stream.isatty() else 240, markup=False, emoji=False, highlight=False
        )
        if not rows:
            console.print(f"{title}: nothing" if title else "nothing")
            return
        view = Table(title=title or None, title_justify="left", header_style="bold")
        for name in rows[0]:
            view.add_column(name.replace("_", " "), overflow="fold")
        for row in rows:
            view.add_row(*(_readable(value) for value in row.values()))
        console.print(view)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime | date) else value


def _readable(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def status(sessions: sessionmaker[Session], spool: AnySpool, redis: Redis) -> Rows:
    """Count what is where: spool, queues, ledger, deliveries."""
    rows: list[dict[str, Any]] = []
    if spool.exists():
        usage = spool.usage()
        aside = sum(1 for _ in spool.set_aside_entries())
        rows.append({"where": "spool", "what": "pending", "count": usage.pending})
        rows.append({"where": "spool", "what": "set aside", "count": aside})
        rows.append({"where": "spool", "what": "free MiB", "count": usage.free_bytes // 2**20})
        kept = [file.size for file in spool.archived()]
        rows.append({"where": "spool archive", "what": "kept", "count": len(kept)})
        rows.append({"where": "spool archive", "what": "bytes", "count": sum(kept)})
    rows.extend(_queue_rows(redis))
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        ledger = session.execute(
            select(Instance.state, Instance.reason, func.count()).group_by(Instance.state, Instance.reason)
        )
        for state, reason, count in sorted(ledger, key=lambda row: (row[0], row[1] or "")):
            what = f"{state.value} ({reason})" if reason else state.value
            rows.append({"where": "ledger", "what": what, "count": count})
        deliveries = session.execute(
            select(Delivery.destination, Delivery.state, func.count()).group_by(Delivery.destination, Delivery.state)
        )
        for destination, delivery_state, count in sorted(deliveries, key=lambda row: (row[0], row[1])):
            rows.append({"where": f"delivery to {destination}", "what": delivery_state.value, "count": count})
    return rows


def _queue_rows(redis: Redis) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        for name in QUEUE_NAMES:
            queue = Queue(name, connection=redis, serializer=JSONSerializer)
            rows.append({"where": f"queue {name}", "what": "queued", "count": queue.count})
            started = redis.zcard(queue.started_job_registry.key)
            rows.append({"where": f"queue {name}", "what": "started", "count": started})
    except RedisError:
        rows.append({"where": "queues", "what": "Redis does not answer", "count": None})
    return rows


def requeue(
    sessions: sessionmaker[Session], spool: AnySpool, *, instance: str | None, reason: str | None, all_failed: bool
) -> Rows:
    """Take failed instances back into the feed: their files return to the spool, the sweeper queues them.

    The record changes before the file moves, so that a sweep in between finds nothing to do rather than a settled
    instance whose file it would remove.
    """
    rows: list[dict[str, Any]] = []
    for entry in list(spool.set_aside_entries()):
        with sessions.begin() as session:
            row = session.scalars(
                select(Instance).where(Instance.sop_instance_uid == entry.sop_instance_uid).with_for_update()
            ).one_or_none()
            of_reason = reason is not None and row is not None and row.reason == reason
            if not (all_failed or entry.sop_instance_uid == instance or of_reason):
                continue
            if row is not None and row.state is InstanceState.FAILED:
                forget_outcome(session, row)
        restored = spool.restore(entry.key)
        what = "pending again" if restored else "its file is gone"
        rows.append({"sop_instance_uid": entry.sop_instance_uid, "now": what})
    return rows


def redeliver(
    sessions: sessionmaker[Session],
    *,
    study: str | None,
    instance: str | None,
    destination: str | None,
    all_dead: bool,
    new_destinations: Iterable[Recipient] = (),
) -> Rows:
    """Make deliveries due now: dead ones, or those of a study or instance, whatever their state.

    Args:
        sessions: of the records.
        study, instance, destination: what is chosen; an instance by its own UID or that of its output.
        all_dead: whether dead ones alone are.
        new_destinations: get the chosen outputs of the kinds that they want, though these were made before them.
    """
    chosen = _chosen_outputs(study, instance)
    statement = select(Delivery.id, Output.sop_instance_uid, Delivery.destination).join(
        Output, Output.id == Delivery.output_id
    )
    if study or instance:
        statement = statement.where(Output.id.in_(chosen))
    if all_dead:
        statement = statement.where(Delivery.state == DeliveryState.DEAD)
    if destination:
        statement = statement.where(Delivery.destination == destination)
    with sessions.begin() as session:
        for recipient in new_destinations:
            add_missing_deliveries(session, chosen, recipient)
        rows = session.execute(statement).all()
        make_due(session, [row.id for row in rows])
    return [{"output": row.sop_instance_uid, "destination": row.destination, "now": "pending"} for row in rows]


def make_due(session: Session, delivery_ids: Sequence[int]) -> None:
    """Let deliveries begin anew, whatever their state, within the caller's transaction."""
    now = utc_now()
    again = {
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "requested_at": now,
        "next_attempt_at": now,
        "delivered_at": None,
        "committed_at": None,
        "commitment_due_at": None,
        "commitment_attempts": 0,
        "commitment_failures": 0,
    }
    # By key, one statement for many rows: there may be more of them than a database takes parameters.
    if delivery_ids:
        session.execute(update(Delivery), [{"id": key, **again} for key in delivery_ids])


def _chosen_outputs(study: str | None, instance: str | None) -> Select[int]:
    chosen = select(Output.id).outerjoin(Instance, Instance.id == Output.instance_id)
    if instance:
        chosen = chosen.where((Instance.sop_instance_uid == instance) | (Output.sop_instance_uid == instance))
    if study:
        series = select(Series.id).join(Study, Study.id == Series.study_id).where(Study.study_instance_uid == study)
        of_study = select(Study.id).where(Study.study_instance_uid == study)
        chosen = chosen.where(Instance.series_id.in_(series) | Output.study_id.in_(of_study))
    return chosen


def add_missing_deliveries(session: Session, outputs: Select[int], recipient: Recipient) -> None:
    """Let outputs that a recipient wants and that are not on their way to it go there, in the caller's transaction."""
    known = select(Delivery.output_id).where(Delivery.destination == recipient.name)
    answers_nothing = Output.model_version_id.is_(None) & Output.instance_id.is_not(None)
    wanted = Output.kind.in_(recipient.outputs) & ~answers_nothing
    if recipient.not_analysed:
        wanted |= answers_nothing
    # What is made of a phantom that may not leave is wanted by nobody.
    phantoms = select(Instance.id).where(Instance.sop_instance_uid.startswith(KEPT))
    may_leave = Output.instance_id.is_(None) | Output.instance_id.not_in(phantoms)
    for output_id in session.scalars(outputs.where(Output.id.not_in(known), wanted, may_leave)).all():
        record_deliveries(session, output_id, [recipient.name])
    session.flush()


def print_rows(rows: Rows, form: str, title: str = "") -> None:
    """Write rows to standard output."""
    write_rows(rows, form, sys.stdout, title)
