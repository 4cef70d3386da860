"""Secondary Capture of an overlay picture (PS3.3 A.8.1), the output that every viewer can show.

Built module by module from a source header, a picture and a finding. It says what a network of which version found,
that this is research, and from which instance it comes; it belongs to the study of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from models.engines.engine import EngineInfo
from models.identity import (
    DISCLAIMER,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
    MANUFACTURER_MODEL_NAME,
    VERSION,
)
from models.pixels.attributes import read_integer, read_text
from models.pixels.syntaxes import LOSSY_TRANSFER_SYNTAXES
from models.spool import is_valid_uid
from models.store.manifest import Manifest
from worker.outputs import uids
from worker.outputs.copied_attributes import Presence, SourceAttributes
from worker.outputs.files import WrittenOutput, write_output
from worker.outputs.loop_guard import SERIES_PREFIX

KIND: Final = "secondary_capture"
SERIES_NUMBER: Final = 9901
"""High and fixed, so that the series sorts behind those of the modality."""

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
IMAGE_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    # Copied, never inferred: the picture has the orientation of its source, and a guess could change sides.
    "PatientOrientation": MAY_BE_EMPTY,
    "Laterality": OPTIONAL,
    "ImageLaterality": OPTIONAL,
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

_COPIED: Final = (*PATIENT_ATTRIBUTES, *STUDY_ATTRIBUTES, *IMAGE_ATTRIBUTES, *COMPRESSION_ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class SecondaryCaptureOrder:
    """What a Secondary Capture is made of.

    Attributes:
        header: the source dataset; pixel data is not needed.
        rgb: ``(H, W, 3) uint8``, the overlay picture with its caption.
        source_sop_instance_uid: as the source was announced on the wire.
        revision: how many other datasets came under that UID before.
        finding: the answer in words, for Derivation Description.
    """

    header: Dataset
    rgb: NDArray[np.uint8]
    manifest: Manifest
    engine: EngineInfo
    source_sop_instance_uid: str
    revision: int
    finding: str


def build_secondary_capture(order: SecondaryCaptureOrder, now: datetime | None = None) -> Dataset:
    """Make the dataset but for Pixel Data, with file meta information, for explicit VR little endian.

    Pixel Data is ``order.rgb`` as it stands: `write_secondary_capture` writes it without a copy.

    Args:
        order: source, picture and finding.
        now: aware time of creation; default the time now.

    Raises:
        ValueError: the picture is not ``(H, W, 3) uint8``.
    """
    source = SourceAttributes(order.header, _COPIED)
    now = (now or datetime.now(UTC)).astimezone(_timezone(source))
    dataset = Dataset()
    source.prepare(dataset)
    _add_patient_and_study(dataset, source, order)
    _add_series(dataset, order)
    _add_equipment(dataset, order)
    _add_image(dataset, source, order, now)
    _add_derivation(dataset, order)
    _describe_pixels(dataset, order.rgb)
    _add_sop_common(dataset, order, now)
    dataset.file_meta = _file_meta(dataset)
    return dataset


def write_secondary_capture(order: SecondaryCaptureOrder, directory: Path) -> WrittenOutput:
    """Make a Secondary Capture and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
        ValueError: the picture is not ``(H, W, 3) uint8``.
    """
    return write_output(build_secondary_capture(order), directory, order.rgb)


def _add_patient_and_study(dataset: Dataset, source: SourceAttributes, order: SecondaryCaptureOrder) -> None:
    source.copy(dataset, PATIENT_ATTRIBUTES)
    if "DeidentificationMethod" in dataset or "DeidentificationMethodCodeSequence" in dataset:
        # The method is what makes the claim complete (C.7.1.1, type 1C); without it the claim is not repeated.
        source.copy(dataset, {"PatientIdentityRemoved": OPTIONAL})
    dataset.StudyInstanceUID = _study_uid(order)
    source.copy(dataset, STUDY_ATTRIBUTES)


def _add_series(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    """General Series Module, PS3.3 C.7.3.1."""
    manifest = order.manifest
    dataset.Modality = "OT"
    dataset.SeriesInstanceUID = uids.series_uid(
        KIND, _study_uid(order), read_text(order.header, "SeriesInstanceUID") or "", manifest.task, manifest.version
    )
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = _plain(f"{SERIES_PREFIX}{manifest.task} overlay {manifest.version}", 64)


def _add_equipment(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    """General Equipment and SC Equipment Modules, PS3.3 C.7.5.1 and C.8.6.1."""
    _describe_device(dataset, order)
    dataset.ConversionType = "WSD"


def _describe_device(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER_MODEL_NAME
    dataset.DeviceUID = uids.device_uid(order.engine.file_sha256)
    dataset.SoftwareVersions = [VERSION, _plain(f"{order.manifest.task} {order.manifest.version}", 64)]


def _add_image(dataset: Dataset, source: SourceAttributes, order: SecondaryCaptureOrder, now: datetime) -> None:
    """General Image and SC Image Modules, PS3.3 C.7.6.1 and C.8.6.2."""
    source.copy(dataset, IMAGE_ATTRIBUTES)
    number = read_integer(order.header, "InstanceNumber")
    dataset.InstanceNumber = number if number is not None and abs(number) < 2**31 else 1
    # Value 3 belongs to other IODs and stays empty (C.7.6.1.1.2); value 4 is ours.
    dataset.ImageType = ["DERIVED", "SECONDARY", "", "AI_OVERLAY"]
    dataset.ContentDate, dataset.ContentTime = _date_and_time(now)
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = _date_and_time(now)
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = DISCLAIMER
    has_side = "Laterality" in dataset or "ImageLaterality" in dataset
    if not has_side and source.text("BodyPartExamined") not in UNPAIRED_BODY_PARTS:
        dataset.Laterality = None  # type 2C, unknown (C.7.3.1)
    if _is_lossy(order.header):
        # Once lossy, always lossy (C.7.6.1.1.5).
        dataset.LossyImageCompression = "01"
        source.copy(dataset, COMPRESSION_ATTRIBUTES)


def _add_derivation(dataset: Dataset, order: SecondaryCaptureOrder) -> None:
    """General Reference Module, PS3.3 C.12.4."""
    manifest = order.manifest
    dataset.DerivationDescription = _plain(
        f"Overlay of {manifest.task} {manifest.version}: {order.finding}. {DISCLAIMER}", 1024
    )
    dataset.DerivationCodeSequence = [_code("113085", "Spatial resampling")]
    meta = getattr(order.header, "file_meta", Dataset())
    source = Dataset()
    classes = (read_text(order.header, "SOPClassUID"), read_text(meta, "MediaStorageSOPClassUID"))
    valid = [uid for uid in classes if uid and is_valid_uid(uid)]
    source.ReferencedSOPClassUID = UID(valid[0]) if valid else SecondaryCaptureImageStorage
    source.ReferencedSOPInstanceUID = UID(order.source_sop_instance_uid)
    source.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    dataset.SourceImageSequence = [source]


def _describe_pixels(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Image Pixel Module, PS3.3 C.7.6.3: RGB, colour by pixel."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError("an overlay picture is (H, W, 3) uint8")
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0


def _add_sop_common(dataset: Dataset, order: SecondaryCaptureOrder, now: datetime) -> None:
    """SOP Common Module, PS3.3 C.12.1, with the equipment that contributed (C.12.1.1.5)."""
    manifest = order.manifest
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uids.instance_uid(
        KIND, order.source_sop_instance_uid, manifest.task, manifest.version, order.revision
    )
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = _date_and_time(now)
    dataset.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    _describe_device(equipment, order)
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = _plain(
        f"{manifest.task} {manifest.network} {manifest.version}, {order.engine.provider} {order.engine.precision}",
        1024,
    )
    dataset.ContributingEquipmentSequence = [equipment]


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _study_uid(order: SecondaryCaptureOrder) -> UID:
    uid = read_text(order.header, "StudyInstanceUID") or ""
    # Leading zeros, which the standard forbids, are kept: the archive knows the study by them.
    return UID(uid) if is_valid_uid(uid) else uids.study_uid(order.source_sop_instance_uid)


def _is_lossy(header: Dataset) -> bool:
    said = read_text(header, "LossyImageCompression")
    syntax = read_text(getattr(header, "file_meta", Dataset()), "TransferSyntaxUID")
    return said == "01" or (said is None and syntax in LOSSY_TRANSFER_SYNTAXES)


def _timezone(source: SourceAttributes) -> timezone | None:
    """Give the zone in which all times of the dataset are (C.12.1): the source's, else that of this machine."""
    offset = source.text("TimezoneOffsetFromUTC")
    if not offset:
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _plain(text: str, length: int) -> str:
    """Make text of ours fit any character set: ASCII without backslash, at most `length` characters."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")[:length]


def _date_and_time(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
