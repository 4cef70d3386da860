"""Modules that every output has in common, whatever its IOD: patient, study, series, equipment, SOP common, reference.

An IOD module starts a dataset here, adds what its IOD alone has, and writes it. What the source says of patient and
study is copied as bytes (see `worker.outputs.copied_attributes`); what is said here is ASCII, which fits any character
set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, Protocol

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from models.engines.engine import EngineInfo
from models.errors import Reason, Unprocessable
from models.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MANUFACTURER_MODEL_NAME,
    VERSION,
)
from models.pixels.attributes import read_integer, read_text
from models.pixels.syntaxes import LOSSY_TRANSFER_SYNTAXES
from models.records.outputs import OutputKind
from models.spool_places import is_valid_uid
from models.store.manifest import Manifest
from worker.findings import Finding
from worker.outputs import uids
from worker.outputs.copied_attributes import Presence, SourceAttributes
from worker.outputs.loop_guard import SERIES_PREFIX

SERIES_NUMBERS: Final[Mapping[OutputKind, int]] = {
    OutputKind.SECONDARY_CAPTURE: 9901,
    OutputKind.STRUCTURED_REPORT: 9902,
    OutputKind.PARAMETRIC_MAP: 9903,
    OutputKind.PRESENTATION_STATE: 9904,
    OutputKind.STUDY_SUMMARY: 9905,
}
"""High and fixed, so that the series sort behind those of the modality."""

MAY_BE_EMPTY, OPTIONAL = Presence.MAY_BE_EMPTY, Presence.OPTIONAL

PATIENT_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    # Patient Module, PS3.3 C.7.1.1
    "PatientName": MAY_BE_EMPTY,
    "PatientID": MAY_BE_EMPTY,
    "PatientBirthDate": MAY_BE_EMPTY,
    "PatientSex": MAY_BE_EMPTY,
    "IssuerOfPatientID": OPTIONAL,
    "IssuerOfPatientIDQualifiersSequence": OPTIONAL,
    "OtherPatientIDs": OPTIONAL,
    "OtherPatientIDsSequence": OPTIONAL,
    "PatientBirthTime": OPTIONAL,
    "QualityControlSubject": OPTIONAL,
    "DeidentificationMethod": OPTIONAL,
    "DeidentificationMethodCodeSequence": OPTIONAL,
}
STUDY_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    # General Study Module, PS3.3 C.7.2.1; Study Instance UID is treated on its own
    "StudyDate": MAY_BE_EMPTY,
    "StudyTime": MAY_BE_EMPTY,
    "ReferringPhysicianName": MAY_BE_EMPTY,
    "StudyID": MAY_BE_EMPTY,
    "AccessionNumber": MAY_BE_EMPTY,
    "IssuerOfAccessionNumberSequence": OPTIONAL,
    "StudyDescription": OPTIONAL,
    # Patient Study Module, C.7.2.2
    "PatientAge": OPTIONAL,
    "PatientSize": OPTIONAL,
    "PatientWeight": OPTIONAL,
    # SOP Common Module, C.12.1: says how the copied dates and times are meant
    "TimezoneOffsetFromUTC": OPTIONAL,
}
SERIES_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    # General Series Module, PS3.3 C.7.3.1. Copied, never inferred: a guess could change sides.
    "Laterality": OPTIONAL,
    "BodyPartExamined": OPTIONAL,
}
COMPRESSION_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    "LossyImageCompressionRatio": OPTIONAL,
    "LossyImageCompressionMethod": OPTIONAL,
}
UNPAIRED_BODY_PARTS: Final = frozenset(
    {"ABDOMEN", "CHEST", "CSPINE", "HEAD", "HEART", "LSPINE", "NECK", "PELVIS", "SKULL", "SPINE", "SSPINE", "TSPINE"}
)
"""Those that radiographs show (PS3.16 annex L); any other part, and an unknown one, may have a side."""


@dataclass(frozen=True, slots=True)
class Author:
    """What made an output: an engine of a model version, or radstream itself.

    Attributes:
        device_uid: changes with every retraining.
        software: second value of Software Versions, after our own version; empty for radstream itself.
        contribution: what it did, for Contribution Description.
    """

    device_uid: UID
    software: str
    contribution: str


class Order(Protocol):
    """What the modules of any output need: which dataset it is of, and who made it.

    Attributes:
        header: the source dataset; pixel data is not needed.
        source_sop_instance_uid: as the source was announced on the wire.
        revision: how many other datasets came under that UID before.
        task, version: what sets its UIDs apart from those of other outputs of the same source.
    """

    @property
    def header(self) -> Dataset: ...  # noqa: D102
    @property
    def source_sop_instance_uid(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> int: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def author(self) -> Author: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class OutputOrder:
    """What an output that tells a finding is made of; an `Order`.

    Attributes:
        header: the source dataset; pixel data is not needed.
        manifest: of the version that answered.
        engine: that ran it.
        source_sop_instance_uid: as the source was announced on the wire.
        revision: how many other datasets came under that UID before.
        finding: the answer.
    """

    header: Dataset
    manifest: Manifest
    engine: EngineInfo
    source_sop_instance_uid: str
    revision: int
    finding: Finding

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.manifest.task.value

    @property
    def version(self) -> str:
        """Name of the model version."""
        return self.manifest.version

    @property
    def words(self) -> str:
        """The answer in words of ASCII."""
        return plain(self.finding.description, 1024)

    @property
    def author(self) -> Author:
        """The engine that answered."""
        manifest, engine = self.manifest, self.engine
        return Author(
            device_uid=uids.device_uid(engine.file_sha256),
            software=f"{manifest.task} {manifest.version}",
            contribution=(
                f"{manifest.task} {manifest.network} {manifest.version}, {engine.provider} {engine.precision}"
            ),
        )


def start_dataset(
    order: Order, copied: Mapping[str, Presence] | None = None, now: datetime | None = None
) -> tuple[Dataset, SourceAttributes, datetime]:
    """Start a dataset with the Patient, General Study and Patient Study Modules, in the source's character set.

    Args:
        order: names the source.
        copied: attributes of the source that the IOD copies beside patient and study, by `SourceAttributes.copy`.
        now: aware time of creation; default the time now.

    Returns:
        The dataset, the source to copy more from, and the time of creation in the zone of the dataset.
    """
    source = SourceAttributes(order.header, (*PATIENT_ATTRIBUTES, *STUDY_ATTRIBUTES, *(copied or {})))
    dataset = Dataset()
    source.prepare(dataset)
    source.copy(dataset, PATIENT_ATTRIBUTES)
    if "DeidentificationMethod" in dataset or "DeidentificationMethodCodeSequence" in dataset:
        # The method is what makes the claim complete (C.7.1.1, type 1C); without it the claim is not repeated.
        source.copy(dataset, {"PatientIdentityRemoved": OPTIONAL})
    dataset.StudyInstanceUID = study_uid(order)
    source.copy(dataset, STUDY_ATTRIBUTES)
    return dataset, source, (now or datetime.now(UTC)).astimezone(_timezone(source))


def add_series(dataset: Dataset, order: Order, kind: OutputKind, modality: str, described_as: str) -> None:
    """Add the General Series Module, PS3.3 C.7.3.1, but for what is copied from the source.

    Args:
        dataset: to add to.
        order: names source, task and version.
        kind: of the output; it has a series of its own.
        modality: Modality of the IOD.
        described_as: Series Description after "AI ".
    """
    dataset.Modality = modality
    dataset.SeriesInstanceUID = uids.series_uid(
        kind, study_uid(order), read_text(order.header, "SeriesInstanceUID") or "", order.task, order.version
    )
    dataset.SeriesNumber = SERIES_NUMBERS[kind]
    dataset.SeriesDescription = plain(f"{SERIES_PREFIX}{described_as}", 64)


def copy_side(dataset: Dataset, source: SourceAttributes) -> None:
    """Copy what the source says of side and body part (`SERIES_ATTRIBUTES` and ``ImageLaterality`` must be copied)."""
    source.copy(dataset, SERIES_ATTRIBUTES)
    has_side = "Laterality" in dataset or "ImageLaterality" in dataset
    if not has_side and source.text("BodyPartExamined") not in UNPAIRED_BODY_PARTS:
        dataset.Laterality = None  # type 2C, unknown (C.7.3.1)


def describe_device(dataset: Dataset, order: Order) -> None:
    """Add the General Equipment Module, PS3.3 C.7.5.1 (which is the Enhanced one, C.7.5.2, but for a serial number)."""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    dataset.DeviceUID = order.author.device_uid
    software = order.author.software
    dataset.SoftwareVersions = [VERSION, plain(software, 64)] if software else VERSION


def add_sop_common(dataset: Dataset, order: Order, kind: OutputKind, sop_class_uid: UID, now: datetime) -> None:
    """Add the SOP Common Module, PS3.3 C.12.1, with the equipment that contributed (C.12.1.1.5), and file meta."""
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = output_uid(order, kind)
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date_and_time(now)
    dataset.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    describe_device(equipment, order)
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = plain(order.author.contribution, 1024)
    dataset.ContributingEquipmentSequence = [equipment]
    dataset.file_meta = file_meta(dataset)


def file_meta(dataset: Dataset) -> FileMetaDataset:
    """Give the File Meta Information, PS3.10 section 7.1, for explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def output_uid(order: Order, kind: OutputKind) -> UID:
    """Give the SOP Instance UID of an output, by which others refer to it whether or not it is made yet."""
    return uids.instance_uid(kind, order.source_sop_instance_uid, order.task, order.version, order.revision)


def study_uid(order: Order) -> UID:
    """Give the Study Instance UID of the source; one of ours where it has none that can be used."""
    uid = read_text(order.header, "StudyInstanceUID") or ""
    # Leading zeros, which the standard forbids, are kept: the archive knows the study by them.
    return UID(uid) if is_valid_uid(uid) else uids.study_uid(order.source_sop_instance_uid)


def source_class(order: Order) -> UID:
    """Give the SOP Class UID of the source."""
    meta = getattr(order.header, "file_meta", Dataset())
    classes = (read_text(order.header, "SOPClassUID"), read_text(meta, "MediaStorageSOPClassUID"))
    valid = [uid for uid in classes if uid and is_valid_uid(uid)]
    return UID(valid[0]) if valid else SecondaryCaptureImageStorage


def source_reference(order: Order) -> Dataset:
    """Give an item of Source Image Sequence (PS3.3 C.12.4) that names the source; other sequences use parts of it."""
    source = image_reference(order)
    source.PurposeOfReferenceCodeSequence = [code("121322", "Source image for image processing operation")]
    return source


def image_reference(order: Order) -> Dataset:
    """Give the Image SOP Instance Reference Macro, PS3.3 table 10-3, that names the source."""
    item = Dataset()
    item.ReferencedSOPClassUID = source_class(order)
    item.ReferencedSOPInstanceUID = UID(order.source_sop_instance_uid)
    return item


def source_series_uid(order: Order) -> UID | None:
    """Give the Series Instance UID of the source; None where it has none that can be used."""
    uid = read_text(order.header, "SeriesInstanceUID") or ""
    return UID(uid) if is_valid_uid(uid) else None


def is_lossy(header: Dataset) -> bool:
    """Whether the source was ever compressed with loss: once lossy, always lossy (PS3.3 C.7.6.1.1.5)."""
    said = read_text(header, "LossyImageCompression")
    syntax = read_text(getattr(header, "file_meta", Dataset()), "TransferSyntaxUID")
    return said == "01" or (said is None and syntax in LOSSY_TRANSFER_SYNTAXES)


def source_size(order: Order) -> tuple[int, int]:
    """Give rows and columns of the source.

    Raises:
        Unprocessable: its header does not say them.
    """
    size = read_integer(order.header, "Rows"), read_integer(order.header, "Columns")
    rows, columns = (number if number is not None and 0 < number < 2**16 else 0 for number in size)
    if not rows or not columns:
        raise Unprocessable(Reason.MALFORMED_DATASET, "Rows or Columns are missing")
    return rows, columns


def instance_number(order: Order) -> int:
    """Give the Instance Number of the source, so that outputs sort as their sources do; 1 where it has none."""
    number = read_integer(order.header, "InstanceNumber")
    return number if number is not None and abs(number) < 2**31 else 1


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Give an item of a code sequence, PS3.3 section 8."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def plain(text: str, length: int) -> str:
    """Make text of ours fit any character set: ASCII without backslash, at most `length` characters."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:length]


def date_and_time(moment: datetime) -> tuple[str, str]:
    """Give a moment as values of VR DA and TM."""
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")


def _timezone(source: SourceAttributes) -> timezone | None:
    """Give the zone in which all times of the dataset are (C.12.1): the source's, else that of this machine."""
    offset = source.text("TimezoneOffsetFromUTC")
    if not offset:
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
