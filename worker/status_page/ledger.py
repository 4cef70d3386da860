"""What the status page reads in the results database: every statement follows an index and is bounded.

Patient columns, UIDs and accession numbers are not selected, so that no template can show them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Integer, cast, extract, func, literal, select, text, union_all
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import utc_now
from models.records.dicom import SETTLED_STATES, Instance, InstanceState, Series
from models.records.inference import Inference, ModelVersion
from models.records.outputs import Delivery, Output
from worker.status_page.facts import MOST_COUNTED, DestinationFacts, LedgerFacts, PaceFacts, StudyFacts
from worker.status_page.outbox import read_destinations

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MOST_STUDIES: Final = 12
LATEST_INSTANCES: Final = 150
"""Of which the latest studies are made."""
LATENCIES: Final = 1000
STATEMENT_TIMEOUT_MS: Final = 10_000


class LedgerReader:
    """Reads the facts of the database; each method raises `SQLAlchemyError` when it is away."""

    def __init__(self, sessions: sessionmaker[Session], destinations: Sequence[str]) -> None:
        self._sessions = sessions
        self._destinations = tuple(destinations)

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with self._sessions() as session:
            session.connection(execution_options={"read_only": True})
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"))
            yield session

    def read_now(self) -> LedgerFacts:
        """Read what waits, what failed, the latest studies and the destinations."""
        with self._reading() as session:
            unfinished, oldest_at = _unfinished(session)
            kept = select(literal(1)).where(Instance.state == InstanceState.FAILED).limit(MOST_COUNTED + 1).subquery()
            return LedgerFacts(
                unfinished,
                oldest_at,
                session.scalar(select(func.count()).select_from(kept)) or 0,
                _failed_since(session, utc_now() - DAY),
                tuple(_latest_studies(session)),
                self._known_destinations(session),
            )

    def _known_destinations(self, session: Session) -> tuple[DestinationFacts, ...]:
        return tuple(read_destinations(session, self._destinations))

    def read_pace(self) -> PaceFacts:
        """Count what was settled in each minute of the last day, and how long the newest took."""
        now = utc_now()
        with self._reading() as session:
            minute = cast(extract("epoch", Instance.settled_at), Integer) // 60
            # Received within the day, too: that has an index.
            rows = session.execute(
                select(minute, Instance.state, func.count())
                .where(Instance.state.in_(SETTLED_STATES), Instance.received_at >= now - DAY)
                .where(Instance.settled_at.is_not(None))
                .group_by(minute, Instance.state)
            )
            by_minute: defaultdict[int, dict[str, int]] = defaultdict(dict)
            for at, state, count in rows:
                by_minute[int(at)][state.value] = count
            newest = session.execute(
                select(Instance.received_at, Instance.settled_at)
                .where(Instance.state == InstanceState.DONE, Instance.received_at >= now - DAY)
                .order_by(Instance.received_at.desc())
                .limit(LATENCIES)
            ).all()
        taken = sorted(
            max(0.0, (settled - received).total_seconds())
            for received, settled in newest
            if settled is not None and settled >= now - HOUR
        )
        return PaceFacts(int(now.timestamp()) // 60 + 1, dict(by_minute), tuple(taken))


def _unfinished(session: Session) -> tuple[int, datetime | None]:
    open_states = [state for state in InstanceState if state not in SETTLED_STATES]
    rows = session.execute(
        select(func.count(), func.min(Instance.received_at))
        .where(Instance.state.in_(open_states))
        .group_by(Instance.state)
    ).all()
    return sum(count for count, _ in rows), min((oldest for _, oldest in rows if oldest), default=None)


def _failed_since(session: Session, since: datetime) -> dict[str, int]:
    rows = session.execute(
        select(Instance.reason, func.count())
        .where(Instance.state == InstanceState.FAILED, Instance.received_at >= since)
        .group_by(Instance.reason)
    )
    return {reason or "": count for reason, count in rows}


def _latest_studies(session: Session) -> list[StudyFacts]:
    instances = _latest_instances(session)
    ids = [row.id for row in instances]
    tasks = _tasks_of(session, ids)
    outputs = _deliveries_of(session, ids)
    studies: defaultdict[Any, list[Any]] = defaultdict(list)
    for row in instances:
        studies[row.study_id or ("instance", row.id)].append(row)
    return [_study(rows, tasks, outputs) for rows in list(studies.values())[:MOST_STUDIES]]


def _latest_instances(session: Session) -> Sequence[Any]:
    # The index begins with the state: the newest of each state, and then the newest of these. What is not settled was
    # not read yet, so that nobody knows its study.
    newest = [
        select(Instance.id)
        .where(Instance.state == state)
        .order_by(Instance.received_at.desc())
        .limit(LATEST_INSTANCES)
        .subquery()
        for state in sorted(SETTLED_STATES)
    ]
    return session.execute(
        select(
            Instance.id,
            Instance.state,
            Instance.reason,
            Instance.received_at,
            Instance.settled_at,
            Series.study_id,
            Series.modality,
            Series.body_part_examined,
        )
        .outerjoin(Series, Series.id == Instance.series_id)
        .where(Instance.id.in_(union_all(*(select(part.c.id) for part in newest))))
        .order_by(Instance.received_at.desc(), Instance.id.desc())
        .limit(LATEST_INSTANCES)
    ).all()


def _tasks_of(session: Session, ids: Sequence[int]) -> dict[int, set[str]]:
    found: defaultdict[int, set[str]] = defaultdict(set)
    statement = select(Inference.instance_id, ModelVersion.task).join(ModelVersion)
    for instance_id, task in session.execute(statement.where(Inference.instance_id.in_(ids))):
        found[instance_id].add(task.value)
    return found


def _deliveries_of(session: Session, ids: Sequence[int]) -> dict[int, Counter[str]]:
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    statement = select(Output.instance_id, Delivery.state, func.count()).join(Output, Output.id == Delivery.output_id)
    rows = session.execute(
        statement.where(Output.instance_id.in_(ids)).group_by(Output.instance_id, Delivery.state)
    ).all()
    for instance_id, state, count in rows:
        if instance_id is not None:
            found[instance_id][state.value] += count
    return found


def _study(rows: Sequence[Any], tasks: dict[int, set[str]], outputs: dict[int, Counter[str]]) -> StudyFacts:
    outcomes = Counter((row.state.value, row.reason or "") for row in rows)
    took = [(row.settled_at - row.received_at).total_seconds() for row in rows if row.settled_at]
    return StudyFacts(
        number=rows[0].study_id,
        received_at=max(row.received_at for row in rows),
        modalities=tuple(sorted({row.modality for row in rows if row.modality})),
        body_parts=tuple(sorted({row.body_part_examined for row in rows if row.body_part_examined})),
        instances=len(rows),
        tasks=tuple(sorted(set().union(*(tasks.get(row.id, set()) for row in rows)))),
        outcomes=dict(outcomes),
        seconds=max(0.0, *took) if took else None,
        outputs=dict(sum((outputs.get(row.id, Counter()) for row in rows), Counter())),
    )
