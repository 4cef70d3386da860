"""What the summary of a study says: the worst finding of each task, what was not analysed and why, and the trend.

Read from the records into plain data that does not change. Of each instance the newest answer of a task counts, as in
the analysts' views. Our own outputs that came back are no part of a study. Neither are instances whose header could
not be read, of which nobody knows the study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.errors import Reason
from models.queues import chunks
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.outputs import Output, OutputKind
from models.records.spine import CobbFinding, SlipFinding, SpineSummary
from models.records.trend import Measure, PriorResult, prior_results
from models.spine.cobb import Curve
from models.spine.slips import SlipKind
from models.tasks import Task
from models.zones import HeartFailureClass, Zone

GROUP: Final = 500
"""Rows asked for in one statement."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One object of the study."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class SummarisedInstance:
    """One instance of the study.

    Attributes:
        reports: of its newest answers, or that it was not analysed.
    """

    reference: Reference
    content_sha256: str
    revision: int
    state: InstanceState
    reason: str | None
    reports: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which version found something, and in which instance."""

    source: Reference
    task: Task
    version: str
    network: str
    network_sha256: str


@dataclass(frozen=True, slots=True)
class WorstClass:
    """The answer of a two-class task that is positive with the highest probability, else the highest."""

    origin: Origin
    label: str
    positive: bool
    probability: float
    threshold: float


@dataclass(frozen=True, slots=True)
class WorstCongestion:
    """The highest mean; None where no zone of any instance is gradable."""

    origin: Origin
    mean_csi: float | None
    gradable_zones: int
    heart_failure_class: HeartFailureClass | None


@dataclass(frozen=True, slots=True)
class WorstZone:
    """The highest score of one zone; None where it is ungradable in every instance."""

    origin: Origin
    zone: Zone
    score: int | None
    probability: float
    expected_score: float | None


@dataclass(frozen=True, slots=True)
class WorstCurve:
    """The largest angle of one curve."""

    origin: Origin
    curve: Curve
    degrees: float
    upper_vertebra: str
    lower_vertebra: str


@dataclass(frozen=True, slots=True)
class WorstSlip:
    """The farthest slip, whichever way; of several instances of one spine."""

    origin: Origin
    kind: SlipKind
    percent: float
    grade: int | None
    upper_vertebra: str
    lower_vertebra: str


@dataclass(frozen=True, slots=True)
class SpineReview:
    """The least sure answer, of those that a person should look at if there are any, and how many these are."""

    origin: Origin
    mean_confidence: float
    to_review: int


@dataclass(frozen=True, slots=True)
class Trend:
    """What earlier studies of the patient showed, the oldest first, and what this one shows."""

    measure: Measure
    origin: Origin
    value: float
    priors: tuple[PriorResult, ...]

    @property
    def change(self) -> float | None:
        """Since the last earlier study; None where another version measured it, which measures otherwise."""
        last = self.priors[-1]
        return self.value - last.value if last.version == self.origin.version else None


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """All that a summary says.

    Attributes:
        study_date: None where it is not known, or not recorded.
        answered: how many instances each task has answered.
        zones: in their fixed order.
        curves: those that any instance shows.
        slip: None where there is none.
    """

    study_instance_uid: str
    study_date: date | None
    instances: tuple[SummarisedInstance, ...]
    answered: Mapping[Task, int]
    classes: tuple[WorstClass, ...]
    congestion: WorstCongestion | None
    zones: tuple[WorstZone, ...]
    spine: SpineReview | None
    curves: tuple[WorstCurve, ...]
    slip: WorstSlip | None
    trends: tuple[Trend, ...]

    def count(self, *states: InstanceState) -> int:
        """Count the instances in any of these states."""
        return sum(each.state in states for each in self.instances)

    @property
    def digest(self) -> str:
        """Hex digest of all of it: what says something else is another object."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()


def read_study(session: Session, study: Study) -> StudyFacts:
    """Read what the summary of a study says now."""
    rows = _instances(session, study.id)
    newest = _newest_answers(session, {row.id: _reference(row, series) for row, series in rows})
    reports = _reports(session, [row for row, _ in rows], newest)
    origins = {inference.id: origin for inference, origin in newest}
    congestion = _worst_congestion(session, origins)
    curves = _worst_curves(session, origins)
    return StudyFacts(
        study_instance_uid=study.study_instance_uid,
        study_date=study.study_date,
        instances=tuple(
            SummarisedInstance(
                _reference(row, series), row.content_sha256, row.revision, row.state, row.reason, reports[row.id]
            )
            for row, series in rows
        ),
        answered={task: count for task in Task if (count := sum(origin.task is task for _, origin in newest))},
        classes=_worst_classes(session, origins),
        congestion=congestion,
        zones=_worst_zones(session, origins),
        spine=_spine_review(session, origins),
        curves=curves,
        slip=_worst_slip(session, origins),
        trends=_trends(session, study, congestion, curves),
    )


def _instances(session: Session, study_id: int) -> list[tuple[Instance, str]]:
    came_back = select(Output.id).where(Output.sop_instance_uid == Instance.sop_instance_uid).exists()
    statement = (
        select(Instance, Series.series_instance_uid)
        .join(Series, Series.id == Instance.series_id)
        .where(Series.study_id == study_id, Instance.reason.is_distinct_from(Reason.OWN_OUTPUT.value), ~came_back)
        .order_by(Instance.sop_instance_uid)
    )
    return [(row, series) for row, series in session.execute(statement)]


def _reference(row: Instance, series_instance_uid: str) -> Reference:
    return Reference(row.sop_class_uid, row.sop_instance_uid, series_instance_uid)


def _newest_answers(session: Session, sources: dict[int, Reference]) -> list[tuple[Inference, Origin]]:
    """Give the newest answer of each instance and task, in the order of the instances."""
    newest: dict[tuple[int, Task], tuple[Inference, Origin]] = {}
    for group in chunks(list(sources), GROUP):
        statement = (
            select(Inference, ModelVersion)
            .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
            .where(Inference.instance_id.in_(group))
            .order_by(Inference.id)
        )
        for row, by in session.execute(statement):
            source = sources[row.instance_id]
            newest[row.instance_id, by.task] = row, Origin(source, by.task, by.version, by.network, by.network_sha256)
    return sorted(newest.values(), key=lambda pair: (pair[1].source.sop_instance_uid, pair[1].task))


def _reports(
    session: Session, rows: Sequence[Instance], newest: Sequence[tuple[Inference, Origin]]
) -> dict[int, tuple[Reference, ...]]:
    """Give the reports on each instance that tell what counts now."""
    counts: set[tuple[int, int | None]] = {
        (inference.instance_id, inference.model_version_id) for inference, _ in newest
    }
    counts |= {(row.id, None) for row in rows if row.state in {InstanceState.SKIPPED, InstanceState.FAILED}}
    arrived = {row.id: row.received_at for row in rows if row.revision}
    last: dict[tuple[int, int | None], Output] = {}
    for group in chunks([row.id for row in rows], GROUP):
        statement = select(Output).where(Output.instance_id.in_(group), Output.kind == OutputKind.STRUCTURED_REPORT)
        for output in session.scalars(statement.order_by(Output.id)):
            key = output.instance_id or 0, output.model_version_id
            # Bytes that were replaced may have reports of the same version.
            if key in counts and (key[0] not in arrived or output.created_at >= arrived[key[0]]):
                last[key] = output
    found: dict[int, tuple[Reference, ...]] = {row.id: () for row in rows}
    for (instance_id, _), output in sorted(last.items(), key=lambda item: item[1].sop_instance_uid):
        reference = Reference(output.sop_class_uid, output.sop_instance_uid, output.series_instance_uid)
        found[instance_id] = (*found[instance_id], reference)
    return found


# The worst of each task. Of equal ones it is that of the first instance, by UID.


def _rows(session: Session, kind: Any, origins: dict[int, Origin]) -> Iterable[tuple[Any, Origin]]:
    rows: dict[int, list[Any]] = {}
    for group in chunks(list(origins), GROUP):
        for row in session.scalars(select(kind).where(kind.inference_id.in_(group))):
            rows.setdefault(row.inference_id, []).append(row)
    return [(row, origin) for key, origin in origins.items() for row in rows.get(key, ())]


def _worst_classes(session: Session, origins: dict[int, Origin]) -> tuple[WorstClass, ...]:
    found = [
        WorstClass(origin, row.label, row.positive, row.probability, row.threshold)
        for row, origin in _rows(session, ClassificationFinding, origins)
    ]
    by_task = {task: [each for each in found if each.origin.task is task] for task in Task}
    return tuple(max(group, key=lambda each: (each.positive, each.probability)) for group in by_task.values() if group)


def _worst_congestion(session: Session, origins: dict[int, Origin]) -> WorstCongestion | None:
    found = [
        WorstCongestion(origin, row.mean_csi, row.gradable_zones, row.heart_failure_class)
        for row, origin in _rows(session, ZoneSummary, origins)
    ]
    return max(found, key=lambda each: -1.0 if each.mean_csi is None else each.mean_csi, default=None)


def _worst_zones(session: Session, origins: dict[int, Origin]) -> tuple[WorstZone, ...]:
    found = [
        WorstZone(origin, row.zone, row.score, row.probability, row.expected_score)
        for row, origin in _rows(session, ZoneFinding, origins)
    ]
    by_zone = {zone: [each for each in found if each.zone is zone] for zone in Zone}

    def badness(each: WorstZone) -> tuple[int, float]:
        return -1 if each.score is None else each.score, each.expected_score or 0.0

    return tuple(max(group, key=badness) for group in by_zone.values() if group)


def _spine_review(session: Session, origins: dict[int, Origin]) -> SpineReview | None:
    found = list(_rows(session, SpineSummary, origins))
    if not found:
        return None
    least, origin = min(found, key=lambda pair: (not pair[0].review, pair[0].mean_confidence))
    return SpineReview(origin, least.mean_confidence, sum(row.review for row, _ in found))


def _worst_curves(session: Session, origins: dict[int, Origin]) -> tuple[WorstCurve, ...]:
    found = [
        WorstCurve(origin, row.curve, row.degrees, row.upper_vertebra, row.lower_vertebra)
        for row, origin in _rows(session, CobbFinding, origins)
    ]
    by_curve = {curve: [each for each in found if each.curve is curve] for curve in Curve}
    return tuple(max(group, key=lambda each: each.degrees) for group in by_curve.values() if group)


def _worst_slip(session: Session, origins: dict[int, Origin]) -> WorstSlip | None:
    found = [
        WorstSlip(origin, row.kind, row.percent, row.grade, row.upper_vertebra, row.lower_vertebra)
        for row, origin in _rows(session, SlipFinding, origins)
        if row.kind is not SlipKind.NORMAL
    ]
    found.sort(key=lambda each: (each.origin.source.sop_instance_uid, each.upper_vertebra))
    return max(found, key=lambda each: abs(each.percent), default=None)


def _trends(
    session: Session, study: Study, congestion: WorstCongestion | None, curves: Sequence[WorstCurve]
) -> tuple[Trend, ...]:
    """Give the trend of what this study shows and earlier ones showed."""
    now: list[tuple[Measure, Origin, float]] = []
    if congestion is not None and congestion.mean_csi is not None:
        now.append((Measure.CSI_MEAN, congestion.origin, congestion.mean_csi))
    now += [(Measure.COBB_MAIN, each.origin, each.degrees) for each in curves if each.curve is Curve.MAIN]
    priors = {measure: prior_results(session, study, measure) for measure, _, _ in now}
    return tuple(Trend(measure, origin, value, priors[measure]) for measure, origin, value in now if priors[measure])
