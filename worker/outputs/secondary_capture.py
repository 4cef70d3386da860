"""Secondary Capture of an overlay picture (PS3.3 section A.8.1), the output that every viewer can show.

Patient and study attributes are copied as the bytes that the source has, in its character sets, so that the PACS
files the object where the source is. A value that the standard forbids is left out, but for those that identify
patient and study: these must match the archive's, whatever they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import validate_value

from models.engines.engine import EngineInfo
from models.identity import (
    DISCLAIMER,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MANUFACTURER_MODEL_NAME,
    VERSION,
)
from models.store.manifest import Manifest
from worker.outputs import uids

KIND: Final = "secondary_capture"
SERIES_NUMBER: Final = 9901
"""High and fixed, so that the series sorts behind those of the modality."""

LOSSY_SYNTAXES: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000})

# Type 2 attributes must be present even when the source lacks them (PS3.5 section 7.4.3).
PATIENT_ATTRIBUTES: Final = {"PatientName": 2, "PatientID": 2, "PatientBirthDate": 2, "PatientSex": 2} | dict.fromkeys(
    (
        "IssuerOfPatientID",
        "IssuerOfPatientIDQualifiersSequence",
        "OtherPatientIDsSequence",
        "PatientBirthTime",
        "QualityControlSubject",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
    ),
    3,
)
STUDY_ATTRIBUTES: Final = {
    "StudyInstanceUID": 1,
    "StudyDate": 2,
    "StudyTime": 2,
    "ReferringPhysicianName": 2,
    "StudyID": 2,
    "AccessionNumber": 2,
} | dict.fromkeys(
    (
        "IssuerOfAccessionNumberSequence",
        "StudyDescription",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "TimezoneOffsetFromUTC",
    ),
    3,
)
IMAGE_ATTRIBUTES: Final = {"PatientOrientation": 2, "Laterality": 3, "ImageLaterality": 3, "BodyPartExamined": 3}
"""Laterality is copied, never inferred."""

IDENTIFYING: Final = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"})


@dataclass(frozen=True, slots=True)
class SecondaryCaptureOrder:
    """What a Secondary Capture is made of.

    Attributes:
        header: the source dataset; pixel data is not needed.
        rgb: ``(H, W, 3) uint8``, the overlay picture with its caption.
        finding: the answer in words, for DerivationDescription.
    """

    header: Dataset
    rgb: NDArray[np.uint8]
    manifest: Manifest
    engine: EngineInfo
    source_sop_instance_uid: str
    revision: int
    finding: str


@dataclass(frozen=True, slots=True)
class WrittenOutput:
    """An output on disk."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str


def build_secondary_capture(order: SecondaryCaptureOrder, now: datetime | None = None) -> Dataset:
    """Make the dataset, with file meta information, ready to be written as explicit VR little endian.

    Args:
        order: source, picture and finding.
        now: aware time of creation; default the time now.
    """
    now = now or datetime.now(UTC)
    dataset = Dataset()
    _add_sop_common(dataset, order, now)
    _copy(order.header, dataset, PATIENT_ATTRIBUTES)
    _copy(order.header, dataset, STUDY_ATTRIBUTES)
    _add_series(dataset, order)
    _add_equipment(dataset, order, now)
    _add_image(dataset, order, now)
    _add_pixels(dataset, order.rgb)
    dataset.file_meta = _file_meta(dataset)
    return dataset


def write_secondary_capture(order: SecondaryCaptureOrder, directory: Path) -> WrittenOutput:
    """Make a Secondary Capture and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
    """
    dataset = build_secondary_capture(order)
    file_name = f"{dataset.SOPInstanceUID}.dcm"
    part = directory / f".{file_name}.{os.getpid()}.part"
    with part.open("wb") as file:
        dataset.save_as(file, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, directory / file_name)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return WrittenOutput(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID), file_name
    )


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _add_sop_common(dataset: Dataset, order: SecondaryCaptureOrder, now: datetime) -> None:
    """SOP Common Module, PS3.3 C.12.1, with the equipment that contributed (C.12.1.1.5)."""
    manifest = order.manifest
    if "SpecificCharacterSet" in order.header:
        dataset.SpecificCharacterSet = order.header.SpecificCharacterSet
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uids.instance_uid(
        KIND, order.source_sop_instance_uid, manifest.task, manifest.version, order.revision
    )
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = _date_and_time(now)
    dataset.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "DCM", "Processing Equipment")]
    _describe_device(equipment, order)
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = (
        f"{manifest.task} {manifest.network} {manifest.version}, {order.engine.provider} {order.engine.precision}"
    )[:1024]
    dataset.ContributingEquipmentSequence = [equipment]


def _add_series(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    """General Series Module, PS3.3 C.7.3.1: one series of ours per study, task and model version."""
    manifest = order.manifest
    dataset.Modality = "OT"
    study_uid = str(order.header.get("StudyInstanceUID", ""))
    dataset.SeriesInstanceUID = uids.series_uid(KIND, study_uid, manifest.task, manifest.version)
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = f"AI {manifest.task} overlay {manifest.version}"[:64]


def _add_equipment(dataset: Dataset, order: SecondaryCaptureOrder, now: datetime) -> None:
    """General Equipment and SC Equipment Modules, PS3.3 C.7.5.1 and C.8.6.1."""
    _describe_device(dataset, order)
    dataset.ConversionType = "WSD"
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = _date_and_time(now)


def _describe_device(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    dataset.DeviceUID = uids.device_uid(order.engine.file_sha256)
    dataset.SoftwareVersions = [VERSION, f"{order.manifest.task} {order.manifest.version}"[:64]]


def _add_image(dataset: Dataset, order: SecondaryCaptureOrder, now: datetime) -> None:
    """General Image Module, PS3.3 C.7.6.1."""
    header = order.header
    _copy(header, dataset, IMAGE_ATTRIBUTES)
    dataset.InstanceNumber = _instance_number(header)
    dataset.ImageType = ["DERIVED", "SECONDARY", "", "AI_OVERLAY"]
    dataset.ContentDate, dataset.ContentTime = _date_and_time(now)
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = DISCLAIMER
    dataset.DerivationDescription = (
        f"Overlay of {order.manifest.task} {order.manifest.version}: {order.finding}. {DISCLAIMER}"
    )[:1024]
    source = Dataset()
    source.ReferencedSOPClassUID = UID(str(header.get("SOPClassUID", "")))
    source.ReferencedSOPInstanceUID = UID(order.source_sop_instance_uid)
    source.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    dataset.SourceImageSequence = [source]
    _add_compression_history(header, dataset)


def _add_compression_history(header: Dataset, dataset: Dataset) -> None:
    """Once lossy, always lossy (PS3.3 section C.7.6.1.1.5)."""
    meta = getattr(header, "file_meta", None)
    if header.get("LossyImageCompression") == "01":
        dataset.LossyImageCompression = "01"
        _copy(header, dataset, {"LossyImageCompressionRatio": 3, "LossyImageCompressionMethod": 3})
    elif meta is not None and meta.get("TransferSyntaxUID") in LOSSY_SYNTAXES:
        dataset.LossyImageCompression = "01"


def _add_pixels(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Image Pixel Module, PS3.3 C.7.6.3: RGB, colour by pixel."""
    rows, columns, samples = rgb.shape
    if rgb.dtype != np.uint8 or samples != 3:
        raise ValueError("an overlay picture is (H, W, 3) uint8")
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    pixels = rgb.tobytes()
    dataset.PixelData = pixels + b"\x00" * (len(pixels) % 2)  # even length, PS3.5 section 8.1.1


def _copy(source: Dataset, target: Dataset, attributes: dict[str, int]) -> None:
    """Copy attributes as the bytes they are; absent or invalid type 2 ones become empty."""
    for keyword, kind in attributes.items():
        element = _copied_element(source, keyword)
        if element is not None and (kind < 3 or source[keyword].VM > 0):
            target[keyword] = element
        elif kind < 3:
            setattr(target, keyword, None)


def _copied_element(source: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return None
    raw: object = source.get_item(tag)
    try:
        element = source[tag]
    except Exception:
        # The parser of a malformed value raises whatever it likes; the value is as good as absent.
        return None
    if keyword not in IDENTIFYING and not _is_valid(element):
        return None
    if isinstance(raw, RawDataElement) and raw.is_little_endian and raw.value is not None and element.VR != "SQ":
        known = raw.VR if raw.VR not in {None, "UN"} else dictionary_VR(tag)
        return raw._replace(VR=known)  # the bytes as they are: decoding and encoding again can change them
    return element


def _is_valid(element: DataElement) -> bool:
    try:
        if element.VR == "SQ":
            return all(_is_valid(inner) for item in element.value for inner in item)
        values: Any = element.value if element.VM > 1 else [element.value]
        for value in values:
            validate_value(element.VR, _text_of(value), config.RAISE)
    except Exception:
        return False
    return keyword_for_tag(element.tag) != "PatientSex" or str(element.value or "O") in {"M", "F", "O"}


def _text_of(value: Any) -> Any:
    original = getattr(value, "original_string", None)
    return original if isinstance(original, str) else value


def _instance_number(header: Dataset) -> int:
    try:
        number = int(str(header.get("InstanceNumber")))
    except (TypeError, ValueError):
        return 1
    return number if -(2**31) <= number < 2**31 else 1


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _date_and_time(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
