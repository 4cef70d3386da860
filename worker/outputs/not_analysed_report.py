"""The report that an instance was not analysed, and why: whoever misses a result must not take silence for normal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.sr import (
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset

from models.errors import Reason
from models.identity import MANUFACTURER, VERSION
from worker.outputs import common_modules as common
from worker.outputs import report_codes as codes
from worker.outputs import uids
from worker.outputs.common_modules import Author
from worker.outputs.files import WrittenOutput, write_output
from worker.outputs.structured_report import build_report

_TASK: Final = "not analysed"


@dataclass(frozen=True, slots=True)
class NotAnalysedOrder:
    """What the report is made of; an `Order` of no task.

    Attributes:
        header: the source dataset; pixel data is not needed.
        source_sop_instance_uid: as the source was announced on the wire.
        revision: how many other datasets came under that UID before.
        reason: why it was not analysed.
        skipped: whether nothing was wrong with it, else its analysis failed.
    """

    header: Dataset
    source_sop_instance_uid: str
    revision: int
    reason: Reason
    skipped: bool

    @property
    def task(self) -> str:
        """What sets its UIDs apart from those of results."""
        return _TASK

    @property
    def version(self) -> str:
        """Ours, and the reason: another reason is another report."""
        return f"{VERSION} {self.reason.value}"

    @property
    def author(self) -> Author:
        """Radstream itself; no engine has seen the instance."""
        return Author(uids.device_uid(f"{MANUFACTURER} {VERSION}"), "", "Routing and decoding")


def build_not_analysed_report(order: NotAnalysedOrder, now: datetime | None = None) -> Dataset:
    """Make the report, with file meta information, for explicit VR little endian."""
    reason = codes.reason_code(order.reason)
    outcome = codes.SKIPPED if order.skipped else codes.FAILED
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uids.tracking_uid(order.source_sop_instance_uid, _TASK, ""), identifier=_TASK
        ),
        source_images=[SourceImageForMeasurementGroup(common.source_class(order), order.source_sop_instance_uid)],
        qualitative_evaluations=[
            QualitativeEvaluation(codes.ANALYSIS, outcome),
            QualitativeEvaluation(codes.NOT_ANALYSED_REASON, reason),
        ],
    )
    words = f"{outcome.meaning}. {reason.meaning} ({order.reason.value}). This says nothing about the patient."
    return build_report(order, groups=[group], described_as="not analysed", words=words, now=now)


def write_not_analysed_report(order: NotAnalysedOrder, directory: Path) -> WrittenOutput:
    """Make the report and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
    """
    return write_output(build_not_analysed_report(order), directory)
