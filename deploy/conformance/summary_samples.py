"""What a made study summary says, in three variants that differ in every value."""

from __future__ import annotations

from datetime import date
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from models.errors import Reason
from models.records.dicom import InstanceState
from models.records.trend import Measure, PriorResult
from models.spine.cobb import Curve
from models.spine.slips import SlipKind
from models.tasks import Task
from models.zones import ZONES, HeartFailureClass
from worker.outputs.study_summary_report import SummaryOrder
from worker.study_summary import (
    Origin,
    Reference,
    SpineReview,
    StudyFacts,
    SummarisedInstance,
    Trend,
    WorstClass,
    WorstCongestion,
    WorstCurve,
    WorstSlip,
    WorstZone,
)

_STATES: Final = (
    (InstanceState.DONE, None),
    (InstanceState.SKIPPED, Reason.NO_RULE_MATCHED.value),
    (InstanceState.FAILED, Reason.UNDECODABLE_PIXELS.value),
)


def summary_order(source: Dataset, variant: int) -> SummaryOrder:
    """Give the order of a summary: of all that one can tell, or in the last variant of an instance that waits."""
    here = Reference(source.SOPClassUID, source.SOPInstanceUID, source.SeriesInstanceUID)
    if "InstanceNumber" not in source:
        waits = SummarisedInstance(here, f"{variant:064x}", 0, InstanceState.QUEUED, None, ())
        return SummaryOrder(source, _facts(source, (waits,)))
    report = Reference(str(Comprehensive3DSRStorage), f"2.25.8{variant}", f"2.25.7{variant}")
    instances = tuple(
        SummarisedInstance(
            here if state is InstanceState.DONE else _other(here, place),
            f"{variant:064x}",
            0,
            state,
            reason,
            (report,) if state is InstanceState.DONE else (),
        )
        for place, (state, reason) in enumerate(_STATES)
    )
    earlier = Reference(str(Comprehensive3DSRStorage), f"2.25.9{variant}", f"2.25.6{variant}")
    return SummaryOrder(source, _facts(source, instances, here, variant), earlier, 2 + variant)


def _other(here: Reference, place: int) -> Reference:
    return Reference(here.sop_class_uid, f"{here.sop_instance_uid}.{place}", here.series_instance_uid)


def _facts(
    source: Dataset, instances: tuple[SummarisedInstance, ...], here: Reference | None = None, variant: int = 0
) -> StudyFacts:
    uid = str(source.StudyInstanceUID)
    if here is None:
        return StudyFacts(uid, None, instances, {}, (), None, (), None, (), None, ())
    of = {task: Origin(here, task, f"{variant + 1}.0.0", f"network{variant}", f"{variant + 1:064x}") for task in Task}
    csi, spine = of[Task.CSI], of[Task.LANDMARKS]
    part = variant / 16
    heart = list(HeartFailureClass)[variant]
    prior = PriorResult(f"2.25.5{variant}", date(2020 + variant, 1, 1), 0.5 + part, f"{variant + 1}.0.0")
    return StudyFacts(
        study_instance_uid=uid,
        study_date=date(2024 + variant, 1, 1),
        instances=instances,
        answered=dict.fromkeys(Task, 1),
        classes=tuple(
            WorstClass(of[task], "PNEUMONIA", variant == 0, 0.75 - part, 0.5 - part)
            for task in (Task.PNEUMONIA, Task.NORMALITY)
        ),
        congestion=WorstCongestion(csi, 1.5 + part, 5 - variant, heart),
        zones=tuple(
            WorstZone(csi, zone, None if place == 0 else (place + variant) % 4, 0.75 - part, 1.0 + part)
            for place, zone in enumerate(ZONES)
        ),
        spine=SpineReview(spine, 0.75 - part, variant),
        curves=tuple(WorstCurve(spine, curve, 25.0 + part, "T4", "T11") for curve in Curve),
        slip=WorstSlip(spine, list(SlipKind)[1 + variant], 20.0 + part, 1, "L4", "L5"),
        trends=(
            Trend(Measure.CSI_MEAN, csi, 1.5 + part, (prior,)),
            Trend(Measure.COBB_MAIN, spine, 25.0 + part, (prior,)),
        ),
    )
