"""The coded concepts that study summaries have beside those of reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.sr.coding import Code

from models.records.dicom import InstanceState
from models.records.trend import Measure
from worker.outputs import report_codes as codes

STUDY: Final = codes.private("STUDY", "The study as a whole")
REPORTS: Final = codes.private("REPORTS", "Reports on the instances")
REPORT: Final = codes.private("REPORT", "Report on an instance")
NOT_ANALYSED_OBJECT: Final = codes.private("OBJECT", "Object that was not analysed")
INSTANCES: Final = codes.private("INSTANCES", "Number of instances")
TO_REVIEW: Final = codes.private("TO_REVIEW", "Number of instances that a person should look at")
CHANGE: Final = codes.private("CHANGE", "Change since the last earlier study")
MAXIMUM: Final = Code("56851009", "SCT", "Maximum")
STUDY_DATE: Final = Code("111060", "DCM", "Study Date")
STUDY_UID: Final = Code("121018", "DCM", "Procedure Study Instance UID")

COUNTED: Final[Mapping[str, tuple[Code, tuple[InstanceState, ...]]]] = {
    "analysed": (codes.private("ANALYSED", "Number of instances analysed"), (InstanceState.DONE,)),
    "skipped": (codes.private("N_SKIPPED", "Number of instances skipped"), (InstanceState.SKIPPED,)),
    "failed": (codes.private("N_FAILED", "Number of instances whose analysis failed"), (InstanceState.FAILED,)),
    "waiting": (
        codes.private("N_WAITING", "Number of instances that wait for analysis"),
        (InstanceState.RECEIVED, InstanceState.QUEUED),
    ),
}
"""What is counted, by the word for it."""

MEASURES: Final[Mapping[Measure, tuple[Code, Code, Code]]] = {
    Measure.CSI_MEAN: (codes.CONGESTION, codes.MEAN_CSI, codes.NO_UNITS),
    Measure.COBB_MAIN: (codes.SPINE, codes.COBB_ANGLE, codes.DEGREES),
}
"""What is followed over time: the finding that it is about, its name and its unit."""
