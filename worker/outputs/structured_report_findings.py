"""What the reports of two-class tasks and of the six lung zones say; the spine's is in `structured_report_spine`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from pydicom.sr.coding import Code

from worker.findings import Classification, CongestionFinding, Finding, GradedZone
from worker.outputs import common_modules as common
from worker.outputs import report_codes as codes
from worker.outputs.report_groups import Group, GroupMaker, Number, Site
from worker.outputs.structured_report_spine import groups_of_spine
from worker.spine_finding import LandmarkFinding


@singledispatch
def groups_of(finding: Finding, maker: GroupMaker) -> Sequence[Group]:
    """Give the measurement groups that tell a finding; at least one."""
    raise TypeError(f"no report is known for {type(finding).__name__}")


@groups_of.register
def _of_classification(finding: Classification, maker: GroupMaker) -> Sequence[Group]:
    task = maker.order.manifest.task
    label = common.plain(finding.positive_label, 64).lower()
    about = codes.FINDINGS.get(task) or codes.private(label[:16].upper(), label.capitalize())
    numbers = [
        Number(codes.PROBABILITY, 100 * finding.probability, codes.PERCENT),
        Number(codes.THRESHOLD, 100 * finding.threshold, codes.PERCENT),
    ]
    answer = codes.PRESENT if finding.positive else codes.ABSENT
    return [maker.group(label, about, numbers=numbers, answers=[(about, answer)])]


@groups_of.register
def _of_congestion(finding: CongestionFinding, maker: GroupMaker) -> Sequence[Group]:
    zones = [_of_zone(zone, maker) for zone in finding.zones]
    numbers = [Number(codes.GRADABLE_ZONES, finding.gradable_zones, codes.NO_UNITS)]
    answers: list[tuple[Code, Code]] = []
    if finding.mean_csi is not None:
        numbers.insert(0, Number(codes.MEAN_CSI, finding.mean_csi, codes.NO_UNITS))
    if finding.heart_failure_class is not None:
        answers.append((codes.HEART_FAILURE, codes.HEART_FAILURE_CLASSES[finding.heart_failure_class]))
    if finding.lungs_found is not None:
        answers.append((codes.LUNGS_FOUND, codes.YES if finding.lungs_found else codes.NO))
    summary = maker.group("mean", codes.CONGESTION, sites=[Site(codes.LUNGS)], numbers=numbers, answers=answers)
    return [*zones, summary]


@groups_of.register
def _of_landmarks(finding: LandmarkFinding, maker: GroupMaker) -> Sequence[Group]:
    return groups_of_spine(finding, maker)


def _of_zone(zone: GradedZone, maker: GroupMaker) -> Group:
    location, side = codes.ZONE_SITES[zone.zone]
    numbers = [Number(codes.ZONE_PROBABILITY, 100 * zone.probability, codes.PERCENT)]
    answers = []
    if zone.score is None or zone.expected_score is None:
        answers.append((codes.GRADABILITY, codes.UNGRADABLE))
    else:
        numbers.insert(0, Number(codes.ZONE_SCORE, zone.score, codes.NO_UNITS))
        numbers.append(Number(codes.EXPECTED_SCORE, zone.expected_score, codes.NO_UNITS))
    return maker.group(
        zone.zone.value, codes.CONGESTION, sites=[Site(location, side)], numbers=numbers, answers=answers
    )
