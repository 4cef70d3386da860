"""Comprehensive 3D SR (PS3.3 A.35.13) of a finding: a measurement report (PS3.16 TID 1500) that machines read.

The content is made with highdicom. The dataset around it is ours, because patient and study are copied as bytes, in
the character set of the source (see `worker.outputs.copied_attributes`); all text of the content is ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.sr import (
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import UID, Comprehensive3DSRStorage

from models.identity import DISCLAIMER, MANUFACTURER, MANUFACTURER_MODEL_NAME
from models.records.outputs import OutputKind
from worker.outputs import common_modules as common
from worker.outputs import report_codes as codes
from worker.outputs import uids
from worker.outputs.common_modules import Order, OutputOrder
from worker.outputs.content_encoding import move_content
from worker.outputs.files import WrittenOutput, write_output
from worker.outputs.report_groups import Group, GroupMaker
from worker.outputs.structured_report_findings import groups_of

KIND: Final = OutputKind.STRUCTURED_REPORT


def build_structured_report(
    order: OutputOrder, overlays: Sequence[WrittenOutput] = (), now: datetime | None = None
) -> Dataset:
    """Make the report of a finding, with file meta information, for explicit VR little endian.

    Args:
        order: source and finding.
        overlays: pictures of the same finding that the report names.
        now: aware time of creation; default the time now.
    """
    return build_report(
        order,
        groups=groups_of(order.finding, GroupMaker(order)),
        described_as=f"{order.task} report {order.version}",
        words=order.words,
        overlays=overlays,
        now=now,
    )


def write_structured_report(order: OutputOrder, overlays: Sequence[WrittenOutput], directory: Path) -> WrittenOutput:
    """Make the report of a finding and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
    """
    return write_output(build_structured_report(order, overlays), directory)


def build_report(
    order: Order,
    *,
    groups: Sequence[Group],
    described_as: str,
    words: str,
    overlays: Sequence[WrittenOutput] = (),
    now: datetime | None = None,
) -> Dataset:
    """Make a measurement report of one instance.

    Args:
        order: names source and author.
        groups: what is reported, at least one.
        described_as: Series Description after "AI ".
        words: the content in words of ASCII.
        overlays: pictures that the report names.
        now: aware time of creation; default the time now.
    """
    dataset, _, now = common.start_dataset(order, now=now)
    common.add_series(dataset, order, KIND, "SR", described_as)
    dataset.ReferencedPerformedProcedureStepSequence = []  # type 2, C.17.1
    common.describe_device(dataset, order)
    _add_document(dataset, order, overlays, now)
    move_content(_content(order, groups, words, overlays), dataset)
    common.add_sop_common(dataset, order, KIND, Comprehensive3DSRStorage, now)
    dataset.CodingSchemeIdentificationSequence = [codes.scheme_identification()]
    return dataset


def _add_document(dataset: Dataset, order: Order, overlays: Sequence[WrittenOutput], now: datetime) -> None:
    """SR Document General Module, PS3.3 C.17.2."""
    dataset.InstanceNumber = common.instance_number(order)
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "FINAL"
    dataset.ContentDate, dataset.ContentTime = common.date_and_time(now)
    dataset.PerformedProcedureCodeSequence = []
    source = series_reference(_source_series(order), [common.image_reference(order)])
    by_series: dict[str, list[Dataset]] = {}
    for overlay in overlays:
        by_series.setdefault(overlay.series_instance_uid, []).append(_reference(overlay))
    evidence = Dataset()
    evidence.ReferencedSeriesSequence = [source, *(series_reference(UID(uid), by_series[uid]) for uid in by_series)]
    evidence.StudyInstanceUID = common.study_uid(order)
    dataset.CurrentRequestedProcedureEvidenceSequence = [evidence]


def _source_series(order: Order) -> UID:
    return common.source_series_uid(order) or uids.source_series_uid(order.source_sop_instance_uid)


def series_reference(series_instance_uid: UID, instances: Sequence[Dataset]) -> Dataset:
    """Give an item of Referenced Series Sequence, PS3.3 table C.17-3."""
    item = Dataset()
    item.ReferencedSOPSequence = list(instances)
    item.SeriesInstanceUID = series_instance_uid
    return item


def _reference(output: WrittenOutput) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(output.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(output.sop_instance_uid)
    return item


def _content(order: Order, groups: Sequence[Group], words: str, overlays: Sequence[WrittenOutput]) -> Dataset:
    """Give the root of the content tree: TID 1500."""
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(order)),
        procedure_reported=codes.PLAIN_RADIOGRAPHY,
        imaging_measurements=groups,
    )
    root: Dataset = report[0]
    content = root.ContentSequence
    content.insert(len(content) - 1, _image_library(order, overlays))
    content.extend(comment(text) for text in (words, DISCLAIMER) if text)
    return root


def observer(order: Order) -> ObserverContext:
    """TID 1001 and 1004: the engine that answered."""
    author = order.author
    device = DeviceObserverIdentifyingAttributes(
        uid=author.device_uid,
        name=common.plain(author.software or MANUFACTURER, 1024),
        manufacturer_name=MANUFACTURER,
        model_name=MANUFACTURER_MODEL_NAME,
    )
    return ObserverContext(observer_type=standard.DCM.Device, observer_identifying_attributes=device)


def _image_library(order: Order, overlays: Sequence[WrittenOutput]) -> ContainerContentItem:
    """TID 1600, without the descriptors of TID 1602: whoever has the images reads them there."""
    contains = RelationshipTypeValues.CONTAINS
    images = [(standard.SCT.Source, common.source_class(order), order.source_sop_instance_uid)]
    images += [(codes.OVERLAY, UID(each.sop_class_uid), each.sop_instance_uid) for each in overlays]
    group = ContainerContentItem(name=standard.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = ContentSequence(
        [ImageContentItem(name, class_uid, uid, relationship_type=contains) for name, class_uid, uid in images]
    )
    library = ContainerContentItem(name=standard.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = ContentSequence([group])
    return library


def comment(text: str) -> TextContentItem:
    """Give text of ASCII at the end of a report."""
    return TextContentItem(codes.COMMENT, text, relationship_type=RelationshipTypeValues.CONTAINS)
