"""What earlier studies of the same patient showed: one value a study, the oldest first.

Who is the same patient is decided by identifier and issuer together: two hospitals may give out one number. A study
whose header names no issuer is compared with such studies alone. Without an identifier, so always where
`RADSTREAM_PHI` is `none`, there is no trend.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.records.dicom import Instance, Series, Study
from models.records.findings import ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.spine import CobbFinding
from models.spine.cobb import Curve
from models.tasks import Task

PRIORS_AT_MOST: Final = 20
"""Studies: more than that do not fit into a report."""


class Measure(StrEnum):
    """What is followed over time."""

    CSI_MEAN = "csi_mean"
    COBB_MAIN = "cobb_main"


_MEASURED: Final[dict[Measure, tuple[InstrumentedAttribute[Any], Task]]] = {
    Measure.CSI_MEAN: (ZoneSummary.mean_csi, Task.CSI),
    Measure.COBB_MAIN: (CobbFinding.degrees, Task.LANDMARKS),
}


@dataclass(frozen=True, slots=True)
class PriorResult:
    """What one earlier study showed.

    Attributes:
        study_instance_uid: of that study.
        study_date: of that study, as its sender says.
        value: the highest of its instances: mean CSI in [0, 3], or the main Cobb angle in degrees.
        version: that measured it; values of two versions are not measured alike.
    """

    study_instance_uid: str
    study_date: date
    value: float
    version: str


def prior_results(
    session: Session, study: Study, measure: Measure, *, at_most: int = PRIORS_AT_MOST
) -> tuple[PriorResult, ...]:
    """Give what earlier studies of a study's patient showed, the oldest first.

    Of each instance the newest answer counts, as in the analysts' views, also where it has no value. Studies of the
    same day are in the order in which they came.

    Args:
        session: of the results database.
        study: that they are prior to; never one of them.
        measure: what is followed.
        at_most: so many of the newest.

    Returns:
        Empty where the study has no patient identifier or no date, or nothing was measured before.
    """
    if study.patient_id is None or study.study_date is None:
        return ()
    of_instances = _newest_of_each_instance(study, measure).subquery()
    ranked = (
        select(
            of_instances,
            func.row_number()
            .over(partition_by=of_instances.c.id, order_by=(of_instances.c.value.desc(), of_instances.c.instance_id))
            .label("rank"),
        )
        .where(of_instances.c.newest == 1, of_instances.c.value.is_not(None))
        .subquery()
    )
    worst = (
        select(ranked.c.study_instance_uid, ranked.c.study_date, ranked.c.value, ranked.c.version)
        .where(ranked.c.rank == 1)
        .order_by(ranked.c.study_date.desc(), ranked.c.id.desc())
        .limit(at_most)
    )
    return tuple(PriorResult(*row) for row in reversed(session.execute(worst).all()))


def _newest_of_each_instance(study: Study, measure: Measure) -> Select[Any]:
    """Select every answer of the task in earlier studies, the newest of an instance numbered 1."""
    value, task = _MEASURED[measure]
    newest = func.row_number().over(partition_by=Instance.id, order_by=Inference.id.desc())
    answers = (
        select(
            Study.id,
            Study.study_instance_uid,
            Study.study_date,
            Instance.id.label("instance_id"),
            value.label("value"),
            ModelVersion.version,
            newest.label("newest"),
        )
        .join(Series, Series.study_id == Study.id)
        .join(Instance, Instance.series_id == Series.id)
        .join(Inference, Inference.instance_id == Instance.id)
        .join(ModelVersion, and_(ModelVersion.id == Inference.model_version_id, ModelVersion.task == task))
        .where(*_earlier_of_same_patient(study))
    )
    if measure is Measure.CSI_MEAN:
        return answers.join(ZoneSummary, ZoneSummary.inference_id == Inference.id)
    return answers.outerjoin(
        CobbFinding, and_(CobbFinding.inference_id == Inference.id, CobbFinding.curve == Curve.MAIN)
    )


def _earlier_of_same_patient(study: Study) -> tuple[ColumnElement[bool], ...]:
    same_day = and_(Study.study_date == study.study_date, Study.id < study.id)
    return (
        Study.patient_id == study.patient_id,
        Study.patient_id_issuer.is_not_distinct_from(study.patient_id_issuer),
        or_(Study.study_date < study.study_date, same_day),
    )
