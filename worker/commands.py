"""The commands beside `run` and `deliver`: what is where, and sending it on its way again."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final, TextIO

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import ColumnClause, Select, column, func, select, table, update
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import UtcDateTime, utc_now
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.outputs import Delivery, DeliveryState, Output
from models.requests import QUEUE_NAMES
from models.spool import Spool
from models.zones import ZONE_COLUMNS, ZONES
from worker.settlement import forget_outcome

Rows = Sequence[dict[str, Any]]

ZONE_SCORES: Final = tuple(f"csi_{zone}" for zone in ZONES)

RESULT_COLUMNS: Final = (
    "study_instance_uid",
    "sop_instance_uid",
    "modality",
    "body_part_examined",
    "view_position",
    "state",
    "reason",
    "pneumonia_label",
    "pneumonia_probability",
    "pneumonia_version",
    "csi_mean",
    "heart_failure_class",
    *ZONE_SCORES,
    "csi_gradable_zones",
    "csi_lungs_found",
    "csi_version",
    "cobb_main",
    "cobb_main_upper_vertebra",
    "cobb_main_lower_vertebra",
    "cobb_upper",
    "cobb_lower",
    "landmarks_confidence",
    "landmarks_review",
    "landmarks_review_reasons",
    "landmarks_version",
    "received_at",
    "settled_at",
    "delivered_at",
)
"""Columns of `results`: technical facts and findings, nothing of the patient."""

NOT_IN_TABLES: Final = frozenset(
    {
        "study_instance_uid",
        "settled_at",
        "pneumonia_version",
        "csi_gradable_zones",
        "csi_lungs_found",
        "csi_version",
        "cobb_main_upper_vertebra",
        "cobb_main_lower_vertebra",
        "cobb_upper",
        "cobb_lower",
        "landmarks_confidence",
        "landmarks_review",
        "landmarks_version",
    }
)
"""Left to JSON and CSV, so that a table fits a screen."""


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
        condensed = [_condense(row) for row in rows]
        for name in condensed[0]:
            view.add_column(name.replace("_", " "), overflow="fold")
        for row in condensed:
            view.add_row(*(_readable(value) for value in row.values()))
        console.print(view)


def _condense(row: dict[str, Any]) -> dict[str, Any]:
    """Give a row as tables have it: six zones in one column, `right left` from top to bottom, and the main angle."""
    condensed: dict[str, Any] = {}
    for name, value in row.items():
        if name in ZONE_SCORES:
            condensed["csi_zones"] = _zones_in_words(row)
        elif name == "cobb_main":
            condensed["cobb"] = _angle_in_words(row)
        elif name == "landmarks_review_reasons":
            condensed["review"] = value and value.replace(",", ", ")
        elif name not in NOT_IN_TABLES:
            condensed[name] = value
    return condensed


def _zones_in_words(row: dict[str, Any]) -> str | None:
    if row.get("csi_version") is None:
        return None
    scores = ["-" if row[name] is None else str(row[name]) for name in ZONE_SCORES]
    return " / ".join(" ".join(scores[first : first + ZONE_COLUMNS]) for first in range(0, len(scores), ZONE_COLUMNS))


def _angle_in_words(row: dict[str, Any]) -> str | None:
    """Give the main angle with its end vertebrae; a dash where a spine has none."""
    if row.get("landmarks_version") is None:
        return None
    if row["cobb_main"] is None:
        return "-"
    return f"{row['cobb_main']:.1f} {row['cobb_main_upper_vertebra']}-{row['cobb_main_lower_vertebra']}"


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


def status(sessions: sessionmaker[Session], spool: Spool, redis: Redis) -> Rows:
    """Count what is where: spool, queues, ledger, deliveries."""
    rows: list[dict[str, Any]] = []
    if spool.root.exists():
        usage = spool.usage()
        aside = sum(1 for _ in spool.set_aside_entries())
        rows.append({"where": "spool", "what": "pending", "count": usage.pending})
        rows.append({"where": "spool", "what": "set aside", "count": aside})
        rows.append({"where": "spool", "what": "free MiB", "count": usage.free_bytes // 2**20})
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


def results(
    sessions: sessionmaker[Session],
    *,
    study: str | None,
    state: str | None,
    since: datetime | None,
    limit: int | None,
) -> Rows:
    """Read the view `instance_findings`, newest first."""
    view = table("instance_findings", *(_column(name) for name in RESULT_COLUMNS))
    statement = select(view).order_by(view.c.received_at.desc())
    if study:
        statement = statement.where(view.c.study_instance_uid == study)
    if state:
        statement = statement.where(view.c.state == state)
    if since:
        statement = statement.where(view.c.received_at >= since)
    if limit:
        statement = statement.limit(limit)
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        return [dict(row) for row in session.execute(statement).mappings()]


def _column(name: str) -> ColumnClause[Any]:
    # SQLite knows no times; without the type it would give text, and compare with local time.
    return column(name, UtcDateTime) if name.endswith("_at") else column(name)


def requeue(
    sessions: sessionmaker[Session], spool: Spool, *, instance: str | None, reason: str | None, all_failed: bool
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
    new_destinations: Iterable[str] = (),
) -> Rows:
    """Make deliveries due now: dead ones, or those of a study or instance, whatever their state."""
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
        for name in new_destinations:
            _add_missing(session, chosen, name)
        rows = session.execute(statement).all()
        now = utc_now()
        again = {"state": DeliveryState.PENDING, "attempts": 0, "requested_at": now, "next_attempt_at": now}
        # By key, one statement for many rows: there may be more of them than a database takes parameters.
        if rows:
            session.execute(update(Delivery), [{"id": row.id, "delivered_at": None, **again} for row in rows])
    return [{"output": row.sop_instance_uid, "destination": row.destination, "now": "pending"} for row in rows]


def _chosen_outputs(study: str | None, instance: str | None) -> Select[int]:
    chosen = select(Output.id).join(Instance, Instance.id == Output.instance_id)
    if instance:
        chosen = chosen.where((Instance.sop_instance_uid == instance) | (Output.sop_instance_uid == instance))
    if study:
        chosen = (
            chosen.join(Series, Series.id == Instance.series_id)
            .join(Study, Study.id == Series.study_id)
            .where(Study.study_instance_uid == study)
        )
    return chosen


def _add_missing(session: Session, outputs: Select[int], destination: str) -> None:
    known = select(Delivery.output_id).where(Delivery.destination == destination)
    for output_id in session.scalars(outputs.where(Output.id.not_in(known))).all():
        session.add(
            Delivery(
                output_id=output_id,
                destination=destination,
                state=DeliveryState.PENDING,
                attempts=0,
                requested_at=utc_now(),
                next_attempt_at=utc_now(),
            )
        )
    session.flush()


def print_rows(rows: Rows, form: str, title: str = "") -> None:
    """Write rows to standard output."""
    write_rows(rows, form, sys.stdout, title)
