"""Comprehensive 3D SR (PS3.3 A.35.13) of a whole study: the worst of each task, what was not analysed, the trend.

All summaries of a study lie in one series. Whatever changes what a summary says makes another object of it, which
names the one before as its predecessor; the same content is the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.sr import (
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    MeasurementReport,
    ObservationContext,
    RelationshipTypeValues,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code
from pydicom.uid import UID, Comprehensive3DSRStorage

from models.identity import DISCLAIMER, MANUFACTURER, VERSION
from models.records.outputs import OutputKind
from worker.outputs import common_modules as common
from worker.outputs import report_codes as codes
from worker.outputs import summary_codes, uids
from worker.outputs.common_modules import Author
from worker.outputs.content_encoding import move_content
from worker.outputs.files import WrittenOutput, write_output
from worker.outputs.structured_report import comment, observer, series_reference
from worker.outputs.summary_groups import groups_of, is_image, named_instances
from worker.outputs.summary_words import words_of
from worker.study_summary import Reference, StudyFacts

KIND: Final = OutputKind.STUDY_SUMMARY
_TASK: Final = "study summary"
_CONTAINS: Final = RelationshipTypeValues.CONTAINS


@dataclass(frozen=True, slots=True)
class SummaryOrder:
    """What a summary is made of; an `Order` of no task and no single instance.

    Attributes:
        header: has the patient and the study, and the Study Instance UID of the facts.
        facts: what it says.
        predecessor: the summary that was made last.
        number: how many were made before, and one.
    """

    header: Dataset
    facts: StudyFacts
    predecessor: Reference | None = None
    number: int = 1

    @property
    def source_sop_instance_uid(self) -> str:
        """The study, of which its UIDs are made."""
        return self.facts.study_instance_uid

    @property
    def revision(self) -> int:
        """None: replaced bytes change the digest."""
        return 0

    @property
    def task(self) -> str:
        """What sets its UIDs apart from those of results."""
        return _TASK

    @property
    def version(self) -> str:
        """Ours, and all that is said: instances with their bytes, versions that answered, findings, trend, reports."""
        return f"{VERSION} {self.facts.digest}"

    @property
    def author(self) -> Author:
        """Radstream itself."""
        return Author(uids.device_uid(f"{MANUFACTURER} {VERSION}"), "", "Summary of a study")


def summary_uid(facts: StudyFacts) -> str:
    """Give the SOP Instance UID of a summary that says this."""
    return str(common.output_uid(SummaryOrder(Dataset(), facts), KIND))


def build_study_summary(order: SummaryOrder, now: datetime | None = None) -> Dataset:
    """Make the summary, with file meta information, for explicit VR little endian.

    Args:
        order: study and content.
        now: aware time of creation; default the time now.
    """
    dataset, _, now = common.start_dataset(order, now=now)
    common.add_series(dataset, order, KIND, "SR", "study summary")
    # Not by content, as its instances are: a later summary belongs beside the earlier ones.
    dataset.SeriesInstanceUID = uids.series_uid(KIND, order.facts.study_instance_uid, "", _TASK, VERSION)
    dataset.ReferencedPerformedProcedureStepSequence = []  # type 2, C.17.1
    common.describe_device(dataset, order)
    _add_document(dataset, order, now)
    move_content(_content(order), dataset)
    common.add_sop_common(dataset, order, KIND, Comprehensive3DSRStorage, now)
    dataset.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    return dataset


def write_study_summary(order: SummaryOrder, directory: Path) -> WrittenOutput:
    """Make the summary and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
    """
    return write_output(build_study_summary(order), directory)


def _add_document(dataset: Dataset, order: SummaryOrder, now: datetime) -> None:
    """SR Document General Module, PS3.3 C.17.2."""
    _, waiting = summary_codes.COUNTED["waiting"]
    dataset.InstanceNumber = order.number
    dataset.CompletionFlag = "PARTIAL" if order.facts.count(*waiting) else "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "FINAL"
    dataset.ContentDate, dataset.ContentTime = common.date_and_time(now)
    dataset.PerformedProcedureCodeSequence = []
    named = named_instances(order.facts)
    reports = [report for each in named for report in each.reports]
    if named:
        dataset.CurrentRequestedProcedureEvidenceSequence = [
            _study_reference(order, [*(each.reference for each in named), *reports])
        ]
    if order.predecessor is not None:
        dataset.PredecessorDocumentsSequence = [_study_reference(order, [order.predecessor])]


def _study_reference(order: SummaryOrder, references: Iterable[Reference]) -> Dataset:
    """Hierarchical SOP Instance Reference Macro, PS3.3 C.17.2.1; each object once."""
    by_series: dict[str, dict[str, Dataset]] = {}
    for each in references:
        item = Dataset()
        item.ReferencedSOPClassUID = UID(each.sop_class_uid)
        item.ReferencedSOPInstanceUID = UID(each.sop_instance_uid)
        by_series.setdefault(each.series_instance_uid, {})[each.sop_instance_uid] = item
    study = Dataset()
    study.ReferencedSeriesSequence = [series_reference(UID(uid), [*by_series[uid].values()]) for uid in by_series]
    study.StudyInstanceUID = UID(order.facts.study_instance_uid)
    return study


def _content(order: SummaryOrder) -> Dataset:
    """Give the root of the content tree: TID 1500."""
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(order)),
        procedure_reported=codes.PLAIN_RADIOGRAPHY,
        imaging_measurements=groups_of(order.facts),
    )
    root: Dataset = report[0]
    content = root.ContentSequence
    for container in _links(order.facts):
        content.insert(len(content) - 1, container)
    content.extend(comment(text) for text in (words_of(order.facts), DISCLAIMER))
    return root


def _links(facts: StudyFacts) -> Iterable[ContainerContentItem]:
    """TID 1600 with the images that the content names, and the reports on them."""
    named = named_instances(facts)
    images = [each.reference for each in named if is_image(each.reference)]
    if images:
        group = _container(
            standard.DCM.ImageLibraryGroup,
            [
                ImageContentItem(
                    standard.SCT.Source, each.sop_class_uid, each.sop_instance_uid, relationship_type=_CONTAINS
                )
                for each in images
            ],
        )
        yield _container(standard.DCM.ImageLibrary, [group])
    reports = [
        CompositeContentItem(
            summary_codes.REPORT, report.sop_class_uid, report.sop_instance_uid, relationship_type=_CONTAINS
        )
        for each in named
        for report in each.reports
    ]
    if reports:
        yield _container(summary_codes.REPORTS, reports)


def _container(name: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name=name, relationship_type=_CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container
