"""Secondary Captures: what they say, what they copy, and that validators and archives accept them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.identity import DISCLAIMER
from models.store.manifest import Manifest
from worker.findings import CongestionFinding
from worker.outputs import uids
from worker.outputs.common_modules import OutputOrder
from worker.outputs.secondary_capture import build_secondary_capture, write_secondary_capture
from worker.rendering import draw

MakeHeader = Callable[..., Dataset]
MakeOrder = Callable[[Dataset], OutputOrder]
ErrorsOf = Callable[[Path], list[str]]

TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "PatientOrientation",
]
COPIED = [
    *TYPE_2,
    "StudyInstanceUID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "BodyPartExamined",
    "InstanceNumber",
]
NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
PICTURE = np.zeros((6, 5, 3), np.uint8)


def build(order: OutputOrder, now: datetime | None = None) -> Dataset:
    return build_secondary_capture(order, PICTURE, now)


def test_pixels_come_back_as_they_were(
    make_header: MakeHeader, make_order: MakeOrder, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    told = write_secondary_capture(make_order(make_header()), picture, tmp_path)
    dataset = pydicom.dcmread(tmp_path / told.file_name)
    assert np.array_equal(dataset.pixel_array, picture)
    assert len(dataset.PixelData) == picture.nbytes + 1  # padded to even length
    assert told.sop_instance_uid == dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
    assert told.series_instance_uid == dataset.SeriesInstanceUID
    assert told.sop_class_uid == "1.2.840.10008.5.1.4.1.1.7"
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert list(tmp_path.iterdir()) == [tmp_path / told.file_name]


def test_it_says_what_it_is(make_header: MakeHeader, make_order: MakeOrder) -> None:
    dataset = build(make_order(make_header()))
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY", "", "AI_OVERLAY"]
    assert dataset.ConversionType == "WSD"
    assert dataset.Modality == "OT"
    assert dataset.BurnedInAnnotation == "YES"
    assert dataset.SeriesDescription == "AI pneumonia overlay efficientnet_lite0-2026.11"
    assert dataset.SeriesNumber == 9901
    assert dataset.PhotometricInterpretation == "RGB"
    assert dataset.PlanarConfiguration == 0
    assert "PNEUMONIA 0.870, threshold 0.520" in dataset.DerivationDescription
    assert dataset.DerivationDescription.endswith(DISCLAIMER)
    assert dataset.ImageComments == DISCLAIMER
    assert dataset.Manufacturer == dataset.ManufacturerModelName == "radstream"
    assert "RescaleSlope" not in dataset


def test_it_names_its_source(make_header: MakeHeader, make_order: MakeOrder) -> None:
    header = make_header()
    (source,) = build(make_order(header)).SourceImageSequence
    assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert source.ReferencedSOPClassUID == header.SOPClassUID
    (purpose,) = source.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121322", "DCM")


def test_it_names_network_version_and_engine(make_header: MakeHeader, make_order: MakeOrder) -> None:
    dataset = build(make_order(make_header()), NOW)
    (equipment,) = dataset.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.ContributionDescription == (
        "pneumonia efficientnet_lite0 efficientnet_lite0-2026.11, onnxruntime fp32"
    )
    assert equipment.DeviceUID == dataset.DeviceUID == uids.device_uid("b" * 64)
    assert "pneumonia efficientnet_lite0-2026.11" in equipment.SoftwareVersions


def test_patient_and_study_are_those_of_the_source(make_header: MakeHeader, make_order: MakeOrder) -> None:
    qualifier = Dataset()
    qualifier.UniversalEntityID, qualifier.UniversalEntityIDType = "1.2.3", "ISO"
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = "X9", "ELSEWHERE", "TEXT"
    other.IssuerOfPatientIDQualifiersSequence = [qualifier]
    header = make_header(
        IssuerOfPatientID="HOSPITAL",
        IssuerOfPatientIDQualifiersSequence=[qualifier],
        OtherPatientIDsSequence=[other],
        StudyDescription="Thorax p.a.",
        PatientAge="076Y",
        PatientSize="1.68",
    )
    dataset = build(make_order(header))
    for keyword in COPIED:
        assert dataset[keyword].value == header[keyword].value, keyword
    assert dataset.SeriesInstanceUID != header.SeriesInstanceUID


def test_missing_type_2_attributes_are_present_and_empty(
    make_header: MakeHeader, written: Callable[[Dataset], Path], errors_of: ErrorsOf
) -> None:
    path = written(make_header(**dict.fromkeys(TYPE_2), InstanceNumber=None))
    dataset = pydicom.dcmread(path)
    for keyword in TYPE_2:
        assert dataset[keyword].is_empty
    assert errors_of(path) == []


@pytest.mark.parametrize(
    ("attributes", "laterality", "image_laterality"),
    [
        ({}, None, None),  # a chest has no side
        ({"Laterality": "L", "BodyPartExamined": "HAND"}, "L", None),
        ({"ImageLaterality": "R", "BodyPartExamined": "HIP"}, None, "R"),
        ({"BodyPartExamined": "HIP"}, "", None),  # unknown, not guessed
        ({"BodyPartExamined": None}, "", None),
        ({"Laterality": "X", "BodyPartExamined": "HAND"}, "", None),
    ],
    ids=str,
)
def test_laterality_is_copied_and_never_inferred(
    make_header: MakeHeader,
    written: Callable[[Dataset], Path],
    errors_of: ErrorsOf,
    attributes: dict[str, Any],
    laterality: str | None,
    image_laterality: str | None,
) -> None:
    path = written(make_header(**attributes))
    dataset = pydicom.dcmread(path)
    assert dataset.get("Laterality") == laterality
    assert dataset.get("ImageLaterality") == image_laterality
    assert errors_of(path) == []


def test_lossy_stays_lossy(make_header: MakeHeader, make_order: MakeOrder) -> None:
    plain = build(make_order(make_header()))
    assert "LossyImageCompression" not in plain
    lossy = make_header(
        LossyImageCompression="01", LossyImageCompressionRatio=[10.5, 2], LossyImageCompressionMethod="ISO_10918_1"
    )
    dataset = build(make_order(lossy))
    assert dataset.LossyImageCompression == "01"
    assert [float(ratio) for ratio in dataset.LossyImageCompressionRatio] == [10.5, 2]
    assert dataset.LossyImageCompressionMethod == "ISO_10918_1"


def test_times_are_in_the_zone_that_the_source_declares(make_header: MakeHeader, make_order: MakeOrder) -> None:
    dataset = build(make_order(make_header(TimezoneOffsetFromUTC="+0530")), NOW)
    assert dataset.TimezoneOffsetFromUTC == "+0530"
    assert (dataset.ContentDate, dataset.ContentTime) == ("20260301", "180015.250000")
    contributed = dataset.ContributingEquipmentSequence[0].ContributionDateTime
    assert contributed == "20260301180015.250000+0530"
    without = build(make_order(make_header()), NOW)
    assert "TimezoneOffsetFromUTC" not in without


# UIDs


def test_the_same_source_and_version_give_the_same_object(make_header: MakeHeader, make_order: MakeOrder) -> None:
    one, other = (build(make_order(make_header())) for _ in range(2))
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert one.SeriesInstanceUID == other.SeriesInstanceUID


def test_another_version_task_revision_or_source_gives_another_object() -> None:
    made = {
        uids.instance_uid("secondary_capture", "1.2.3", "pneumonia", "v1", 0),
        uids.instance_uid("secondary_capture", "1.2.3", "pneumonia", "v2", 0),
        uids.instance_uid("secondary_capture", "1.2.3", "normality", "v1", 0),
        uids.instance_uid("secondary_capture", "1.2.3", "pneumonia", "v1", 1),
        uids.instance_uid("secondary_capture", "1.2.4", "pneumonia", "v1", 0),
    }
    assert len(made) == 5
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in made)


def test_each_source_series_has_its_own_output_series(make_header: MakeHeader, make_order: MakeOrder) -> None:
    one = build(make_order(make_header()))
    other = build(make_order(make_header(SeriesInstanceUID="1.2.3.4")))
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.StudyInstanceUID == other.StudyInstanceUID


def test_a_picture_of_another_kind_is_an_error(make_header: MakeHeader, make_order: MakeOrder) -> None:
    with pytest.raises(ValueError, match="uint8"):
        build_secondary_capture(make_order(make_header()), PICTURE[..., 0])


def test_a_failed_write_leaves_nothing(make_header: MakeHeader, make_order: MakeOrder, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_secondary_capture(make_order(make_header()), PICTURE, tmp_path / "missing")
    order = make_order(make_header())
    (tmp_path / f"{build(order).SOPInstanceUID}.dcm").mkdir()  # the rename fails
    with pytest.raises(OSError, match="directory"):
        write_secondary_capture(order, PICTURE, tmp_path)
    assert not list(tmp_path.glob(".*"))


# Six zones


def test_the_overlay_of_six_zones_is_valid_and_says_every_score(
    make_header: MakeHeader,
    make_order: MakeOrder,
    make_congestion: Callable[..., CongestionFinding],
    csi_manifest: Manifest,
    errors_of: ErrorsOf,
    tmp_path: Path,
) -> None:
    maps = np.ones((6, 12, 12), np.float32)
    finding = make_congestion((1, 1, 2, 2, 3, None), cams=maps)
    display = np.tile(np.arange(0, 250, 2, dtype=np.uint8), (250, 1))
    order = replace(make_order(make_header()), manifest=csi_manifest, finding=finding)
    picture = draw(finding, display, csi_manifest)
    path = tmp_path / write_secondary_capture(order, picture, tmp_path).file_name
    assert errors_of(path) == []
    dataset = pydicom.dcmread(path)
    assert dataset.SeriesDescription == "AI csi overlay 3.0.0"
    assert dataset.DerivationDescription == (
        "Overlay of csi 3.0.0: mean CSI 1.80, right_sup 1, left_sup 1, right_mid 2, left_mid 2, right_inf 3,"
        f" left_inf ungradable, heart failure class medium. {DISCLAIMER}"
    )
    assert "Laterality" not in dataset
    pneumonia = build(make_order(make_header()))
    assert dataset.SeriesInstanceUID != pneumonia.SeriesInstanceUID, "a series for each task"
    assert dataset.SOPInstanceUID != pneumonia.SOPInstanceUID
