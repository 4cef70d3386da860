"""Measurement groups of a study summary (PS3.16 TID 1501): what was counted, the worst of each task, the trend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    CompositeContentItem,
    DateContentItem,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TimePointContext,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom.sr.coding import Code
from pydicom.uid import UID

from models.errors import Reason
from models.identity import MANUFACTURER
from models.records.dicom import InstanceState
from models.tasks import Task
from worker.outputs import common_modules as common
from worker.outputs import report_codes as codes
from worker.outputs import summary_codes, uids
from worker.outputs.report_groups import Number, Site, concept
from worker.study_summary import Origin, Reference, StudyFacts, SummarisedInstance, Trend, WorstZone

REFERENCES_AT_MOST: Final = 500
"""Objects that one group names; a study of another modality may have thousands that were not analysed."""

_CONTAINS: Final = RelationshipTypeValues.CONTAINS


def is_image(reference: Reference) -> bool:
    """Whether an object can be referred to as an image; what nobody knows the class of is an object."""
    return "Image Storage" in UID(reference.sop_class_uid).name


def not_analysed(facts: StudyFacts) -> dict[tuple[InstanceState, str], list[SummarisedInstance]]:
    """Give the instances that were not analysed by what became of them and why, in a fixed order."""
    groups: dict[tuple[InstanceState, str], list[SummarisedInstance]] = {}
    for each in facts.instances:
        if each.state in {InstanceState.SKIPPED, InstanceState.FAILED}:
            groups.setdefault((each.state, each.reason or Reason.INTERNAL_ERROR.value), []).append(each)
    return dict(sorted(groups.items()))


def named_instances(facts: StudyFacts) -> list[SummarisedInstance]:
    """Give the instances that the content names: all that were analysed, and of others so many of each reason."""
    analysed = [each for each in facts.instances if each.state is InstanceState.DONE]
    others = [each for group in not_analysed(facts).values() for each in group[:REFERENCES_AT_MOST]]
    return [*analysed, *others]


def groups_of(facts: StudyFacts) -> list[MeasurementsAndQualitativeEvaluations]:
    """Give the groups that tell a summary; at least one."""
    maker = _Maker(facts)
    return [
        _of_counts(facts, maker),
        *_of_not_analysed(facts, maker),
        *_of_classes(facts, maker),
        *_of_congestion(facts, maker),
        *_of_spine(facts, maker),
        *(group for trend in facts.trends for group in _of_trend(trend, facts, maker)),
    ]


@dataclass(frozen=True, slots=True)
class _Maker:
    facts: StudyFacts

    def group(
        self,
        name: str,
        about: Code,
        origin: Origin | None = None,
        *,
        algorithm: AlgorithmIdentification | None = None,
        sources: Sequence[Reference] = (),
        sites: Sequence[Site] = (),
        numbers: Sequence[Number] = (),
        answers: Sequence[tuple[Code, Code]] = (),
        worst: bool = False,
        at: TimePointContext | None = None,
    ) -> MeasurementsAndQualitativeEvaluations:
        """Make a group.

        Args:
            name: of what is told; groups of one name tell of one thing at several times.
            about: the finding type.
            origin: of what was found, which says algorithm and source.
            algorithm, sources: else.
            sites: where.
            numbers: measured or counted.
            answers: questions and answers.
            worst: whether the numbers are the highest of several instances.
            at: when it was measured.
        """
        seen = sources if origin is None else [origin.source]
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=uids.tracking_uid(self.facts.study_instance_uid, "study summary", name),
                identifier=f"study summary {name}",
            ),
            time_point_context=at,
            finding_type=concept(about),
            algorithm_id=algorithm if origin is None else _algorithm(origin.task, origin.version, origin),
            finding_sites=[_site(site) for site in sites],
            measurements=[
                Measurement(
                    name=concept(number.name),
                    value=float(number.value),
                    unit=concept(number.unit),
                    derivation=concept(summary_codes.MAXIMUM) if worst else None,
                )
                for number in numbers
            ],
            qualitative_evaluations=[QualitativeEvaluation(concept(name), concept(value)) for name, value in answers],
            source_images=[
                SourceImageForMeasurementGroup(each.sop_class_uid, each.sop_instance_uid)
                for each in seen
                if is_image(each)
            ],
        )


def _algorithm(task: Task, version: str, origin: Origin | None = None) -> AlgorithmIdentification:
    """TID 4019; of an earlier study only task and version are known."""
    network = f" {origin.network}" if origin else ""
    return AlgorithmIdentification(
        name=common.plain(f"{MANUFACTURER} {task}{network}", 1024),
        version=common.plain(version, 1024),
        manufacturer=MANUFACTURER,
        parameters=[f"network {origin.network_sha256}"] if origin else None,
    )


def _site(site: Site) -> FindingSite:
    return FindingSite(concept(site.location), laterality=None if site.side is None else concept(site.side))


def _of_counts(facts: StudyFacts, maker: _Maker) -> MeasurementsAndQualitativeEvaluations:
    counted = [(code, facts.count(*states), word) for word, (code, states) in summary_codes.COUNTED.items()]
    numbers = [Number(code, count, codes.NO_UNITS) for code, count, word in counted if count or word != "waiting"]
    return maker.group("counts", summary_codes.STUDY, numbers=numbers)


def _of_not_analysed(facts: StudyFacts, maker: _Maker) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    for (state, reason), instances in not_analysed(facts).items():
        coded = _reason_code(reason)
        named = [each.reference for each in instances[:REFERENCES_AT_MOST]]
        group = maker.group(
            f"{state.value} {reason}",
            coded,
            sources=named,
            numbers=[Number(summary_codes.INSTANCES, len(instances), codes.NO_UNITS)],
            answers=[
                (codes.ANALYSIS, codes.SKIPPED if state is InstanceState.SKIPPED else codes.FAILED),
                (codes.NOT_ANALYSED_REASON, coded),
            ],
        )
        group[0].ContentSequence.extend(
            CompositeContentItem(
                summary_codes.NOT_ANALYSED_OBJECT,
                each.sop_class_uid,
                each.sop_instance_uid,
                relationship_type=_CONTAINS,
            )
            for each in named
            if not is_image(each)
        )
        yield group


def _reason_code(reason: str) -> Code:
    try:
        return codes.reason_code(Reason(reason))
    except ValueError:  # of a version before or after this one
        return codes.private(reason, reason.replace("_", " ").capitalize()[:64])


def _answered(facts: StudyFacts, origin: Origin) -> Number:
    return Number(summary_codes.INSTANCES, facts.answered[origin.task], codes.NO_UNITS)


def _of_classes(facts: StudyFacts, maker: _Maker) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    for each in facts.classes:
        task = each.origin.task
        about = codes.FINDINGS.get(task) or codes.private(task.value, task.value.capitalize())
        yield maker.group(
            task.value,
            about,
            each.origin,
            numbers=[Number(codes.PROBABILITY, 100 * each.probability, codes.PERCENT)],
            answers=[(about, codes.PRESENT if each.positive else codes.ABSENT)],
            worst=True,
        )
        yield maker.group(
            f"{task.value} threshold",
            about,
            each.origin,
            numbers=[Number(codes.THRESHOLD, 100 * each.threshold, codes.PERCENT), _answered(facts, each.origin)],
        )


def _of_congestion(facts: StudyFacts, maker: _Maker) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    yield from (_of_zone(each, maker) for each in facts.zones)
    worst = facts.congestion
    if worst is None:
        return
    lungs = [Site(codes.LUNGS)]
    if worst.mean_csi is not None and worst.heart_failure_class is not None:
        yield maker.group(
            "csi mean",
            codes.CONGESTION,
            worst.origin,
            sites=lungs,
            numbers=[Number(codes.MEAN_CSI, worst.mean_csi, codes.NO_UNITS)],
            answers=[(codes.HEART_FAILURE, codes.HEART_FAILURE_CLASSES[worst.heart_failure_class])],
            worst=True,
        )
    numbers = [Number(codes.GRADABLE_ZONES, worst.gradable_zones, codes.NO_UNITS), _answered(facts, worst.origin)]
    yield maker.group("csi gradable zones", codes.CONGESTION, worst.origin, sites=lungs, numbers=numbers)


def _of_zone(each: WorstZone, maker: _Maker) -> MeasurementsAndQualitativeEvaluations:
    location, side = codes.ZONE_SITES[each.zone]
    graded = each.score is not None
    return maker.group(
        f"csi {each.zone.value}",
        codes.CONGESTION,
        each.origin,
        sites=[Site(location, side)],
        numbers=[Number(codes.ZONE_SCORE, float(each.score or 0), codes.NO_UNITS)] if graded else [],
        answers=[] if graded else [(codes.GRADABILITY, codes.UNGRADABLE)],
        worst=True,
    )


def _of_spine(facts: StudyFacts, maker: _Maker) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    spine, slip = facts.spine, facts.slip
    if spine is not None:
        yield maker.group(
            "spine",
            codes.SPINE,
            spine.origin,
            sites=[Site(codes.SPINE)],
            numbers=[
                Number(codes.MEAN_CONFIDENCE, 100 * spine.mean_confidence, codes.PERCENT),
                Number(summary_codes.TO_REVIEW, spine.to_review, codes.NO_UNITS),
                _answered(facts, spine.origin),
            ],
            answers=[(codes.REVIEW, codes.YES if spine.to_review else codes.NO)],
        )
    for each in facts.curves:
        yield maker.group(
            f"curve {each.curve.value}",
            codes.CURVES[each.curve],
            each.origin,
            sites=[Site(codes.vertebra(each.upper_vertebra)), Site(codes.vertebra(each.lower_vertebra))],
            numbers=[Number(codes.COBB_ANGLE, each.degrees, codes.DEGREES)],
            worst=True,
        )
    if slip is not None:
        grade = [] if slip.grade is None else [Number(codes.MEYERDING, slip.grade, codes.NO_UNITS)]
        yield maker.group(
            "slip",
            codes.SLIP,
            slip.origin,
            sites=[Site(codes.vertebra(slip.upper_vertebra)), Site(codes.vertebra(slip.lower_vertebra))],
            numbers=[Number(codes.SLIP_PERCENT, slip.percent, codes.PERCENT), *grade],
            answers=[(codes.SLIP_KIND, codes.SLIP_KINDS[slip.kind])],
        )


def _of_trend(trend: Trend, facts: StudyFacts, maker: _Maker) -> Iterator[MeasurementsAndQualitativeEvaluations]:
    """Give a group for each time point (TID 1502), the last of them this study.

    Their order is that of time. It is no number in the groups, which readers would take for a measured one.
    """
    about, name, unit = summary_codes.MEASURES[trend.measure]
    for prior in trend.priors:
        group = maker.group(
            f"trend {trend.measure.value}",
            about,
            algorithm=_algorithm(trend.origin.task, prior.version),
            numbers=[Number(name, prior.value, unit)],
            at=TimePointContext(prior.study_date.isoformat()),
        )
        yield _of_study(group, prior.study_date, prior.study_instance_uid)
    if facts.study_date is None:
        return
    numbers = [Number(name, trend.value, unit)]
    if trend.change is not None:
        numbers.append(Number(summary_codes.CHANGE, trend.change, unit))
    at = TimePointContext(facts.study_date.isoformat())
    group = maker.group(f"trend {trend.measure.value}", about, trend.origin, numbers=numbers, at=at)
    yield _of_study(group, facts.study_date, facts.study_instance_uid)


def _of_study(
    group: MeasurementsAndQualitativeEvaluations, day: date, study_instance_uid: str
) -> MeasurementsAndQualitativeEvaluations:
    group[0].ContentSequence.extend(
        [
            DateContentItem(summary_codes.STUDY_DATE, day, relationship_type=_CONTAINS),
            UIDRefContentItem(summary_codes.STUDY_UID, study_instance_uid, relationship_type=_CONTAINS),
        ]
    )
    return group
