"""Which instances a backfill takes: those that are done, whose task another version has answered, and no others.

The conditions of ``--where`` are ``KEY OP VALUE`` with keys of a closed set; each becomes a bound parameter of a
prepared comparison, so nothing that is typed ever becomes SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

from models.errors import ConfigurationError
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.spine import SpineSummary
from models.requests import InferenceRequest
from models.tasks import Task

CONDITION: Final = re.compile(r"\s*(?P<key>[a-z0-9_]+)\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>.*\S)\s*")

Comparison = Callable[[Any, Any], ColumnElement[bool]]
OPERATORS: Final[dict[str, Comparison]] = {
    "=": lambda column, value: column == value,
    # What is absent differs from every value; plain SQL would leave it out.
    "!=": lambda column, value: column.is_distinct_from(value),
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


@dataclass(frozen=True, slots=True)
class _Key:
    column: InstrumentedAttribute[Any]
    read: Callable[[str], Any]
    form: str


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


_TEXT: Final = "text"
_DATE: Final = "a date, e.g. 2026-01-31"
_MOMENT: Final = "a time, e.g. 2026-01-31T08:00"
_NUMBER: Final = "a number"

KEYS: Final[dict[str, _Key]] = {
    "study_date": _Key(Study.study_date, date.fromisoformat, _DATE),
    "received_at": _Key(Instance.received_at, _moment, _MOMENT),
    "inferred_at": _Key(Inference.inferred_at, _moment, _MOMENT),
    "study_instance_uid": _Key(Study.study_instance_uid, str, _TEXT),
    "series_instance_uid": _Key(Series.series_instance_uid, str, _TEXT),
    "sop_instance_uid": _Key(Instance.sop_instance_uid, str, _TEXT),
    "modality": _Key(Series.modality, str, _TEXT),
    "body_part_examined": _Key(Series.body_part_examined, str, _TEXT),
    "manufacturer": _Key(Series.manufacturer, str, _TEXT),
    "view_position": _Key(Instance.view_position, str, _TEXT),
    "calling_ae_title": _Key(Instance.calling_ae_title, str, _TEXT),
    "version": _Key(ModelVersion.version, str, _TEXT),
}
"""What can be asked of every task. `version` and `inferred_at` are those of the answer that counts: the newest."""

_PROBABILITY: Final = {"probability": _Key(ClassificationFinding.probability, float, _NUMBER)}
SCORES: Final[dict[Task, dict[str, _Key]]] = {
    Task.PNEUMONIA: _PROBABILITY,
    Task.NORMALITY: _PROBABILITY,
    Task.CSI: {"mean_csi": _Key(ZoneSummary.mean_csi, float, _NUMBER)},
    Task.LANDMARKS: {"confidence": _Key(SpineSummary.mean_confidence, float, _NUMBER)},
}
"""What can be asked of the answer of one task."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison that an instance must pass."""

    key: str
    operator: str
    value: Any

    def clause(self, task: Task) -> ColumnElement[bool]:
        """Give it for a statement."""
        return OPERATORS[self.operator](_keys(task)[self.key].column, self.value)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that could be seen by the version.

    Attributes:
        request: as it was accepted.
        revision: of its bytes.
    """

    request: InferenceRequest
    revision: int
    study_instance_uid: str | None
    series_instance_uid: str | None


def read_condition(text: str, task: Task) -> Condition:
    """Read one ``KEY OP VALUE``.

    Raises:
        ConfigurationError: it is none, and what would be one.
    """
    match = CONDITION.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f'--where {text!r}: not a condition; write KEY OP VALUE, e.g. "study_date >= 2026-01-31", '
            f"with one of {' '.join(OPERATORS)}"
        )
    key, keys = match["key"], _keys(task)
    if key not in keys:
        raise ConfigurationError(f"--where {key}: no such key for {task}; known are {', '.join(keys)}")
    try:
        return Condition(key, match["operator"], keys[key].read(match["value"]))
    except ValueError:
        raise ConfigurationError(f"--where {key}: its value must be {keys[key].form}") from None


def select_candidates(
    sessions: sessionmaker[Session], task: Task, version: str, conditions: Sequence[Condition]
) -> list[Candidate]:
    """List instances that the version has not answered and that pass every condition, newest received first."""
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        rows = session.execute(_statement(task, version, conditions))
        return [_candidate(row, study, series) for row, study, series in rows]


def _statement(task: Task, version: str, conditions: Sequence[Condition]) -> Select[Instance, str, str]:
    newest = (
        select(func.max(Inference.id).label("id"))
        .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
        .where(ModelVersion.task == task)
        .group_by(Inference.instance_id)
        .subquery()
    )
    statement = (
        select(Instance, Study.study_instance_uid, Series.series_instance_uid)
        .join(Inference, Inference.instance_id == Instance.id)
        .join(newest, newest.c.id == Inference.id)
        .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
        .outerjoin(Series, Series.id == Instance.series_id)
        .outerjoin(Study, Study.id == Series.study_id)
        .where(Instance.state == InstanceState.DONE, ~_answered_by(task, version))
        .order_by(Instance.received_at.desc(), Instance.id.desc())
    )
    for table in {_keys(task)[condition.key].column.class_ for condition in conditions} & _FINDINGS:
        statement = statement.outerjoin(table, table.inference_id == Inference.id)
    return statement.where(*(condition.clause(task) for condition in conditions))


_FINDINGS: Final[frozenset[Any]] = frozenset({ClassificationFinding, ZoneSummary, SpineSummary})


def _answered_by(task: Task, version: str) -> ColumnElement[bool]:
    inference, asked = Inference.__table__.alias(), ModelVersion.__table__.alias()
    return exists(
        select(inference.c.id)
        .join(asked, asked.c.id == inference.c.model_version_id)
        .where(inference.c.instance_id == Instance.id, asked.c.task == task, asked.c.version == version)
    )


def _keys(task: Task) -> dict[str, _Key]:
    return {**KEYS, **SCORES[task]}


def _candidate(row: Instance, study: str | None, series: str | None) -> Candidate:
    request = InferenceRequest(
        spool_key=f"{row.sop_instance_uid}_{row.content_sha256[:16]}",
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        content_sha256=row.content_sha256,
        calling_ae_title=row.calling_ae_title,
        lane=row.lane,
        received_at=row.received_at.timestamp(),
    )
    return Candidate(request, row.revision, study, series)
