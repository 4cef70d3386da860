"""Parametric Maps: the numbers of Grad-CAM as they were, in a place that can be found again, in objects others read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from patient_names import KOREAN, NAMES
from pydicom.dataset import Dataset

from models.engines.engine import EngineInfo
from models.errors import Unprocessable
from models.identity import DISCLAIMER
from models.pixels.lung_fields import Frame
from models.pixels.spec import Framing, InputSpec, Resize
from models.store.manifest import Manifest
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs import uids
from worker.outputs.common_modules import OutputOrder
from worker.outputs.loop_guard import is_own_output
from worker.outputs.parametric_map import build_parametric_map, write_parametric_map
from worker.outputs.secondary_capture import build_secondary_capture
from worker.spine_finding import LandmarkFinding

MakeHeader = Callable[..., Dataset]
MakeOrder = Callable[..., OutputOrder]
ErrorsOf = Callable[..., list[str]]

SOURCE_UID = "1.2.826.0.1.3680043.9.7433.1.1"
NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
SIZE = {"Rows": 700, "Columns": 350}
MAP = (np.arange(49, dtype=np.float32) / 48).reshape(7, 7)
MAP[0, 0] = np.nextafter(np.float32(0.1), np.float32(1))  # every bit is to come back


@pytest.fixture
def make_order(make_header: MakeHeader, manifest: Manifest, engine: EngineInfo) -> MakeOrder:
    def make(finding: Finding | None = None, version: Manifest = manifest, **attributes: Any) -> OutputOrder:
        finding = finding or Classification("PNEUMONIA", "PNEUMONIA", True, 0.87, 0.52, MAP)
        return OutputOrder(make_header(**(SIZE | attributes)), version, engine, SOURCE_UID, 0, finding)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[OutputOrder], Path]:
    def write(order: OutputOrder) -> Path:
        told = write_parametric_map(order, tmp_path)
        assert told is not None
        return tmp_path / told.file_name

    return write


@pytest.fixture
def zones(make_congestion: Callable[..., CongestionFinding]) -> CongestionFinding:
    """Of an image of 200 rows and 100 columns, whose middle the lungs are."""
    maps = np.random.default_rng(3).random((6, 12, 12), np.float32)
    return make_congestion((1, 1, 2, 2, 3, None), cams=maps)


def _build(order: OutputOrder) -> Dataset:
    dataset = build_parametric_map(order, NOW)
    assert dataset is not None
    return dataset


def _shared(dataset: Dataset) -> Dataset:
    (groups,) = dataset.SharedFunctionalGroupsSequence
    return groups


# Values


def test_every_bit_of_a_map_comes_back(make_order: MakeOrder, write: Callable[[OutputOrder], Path]) -> None:
    path = write(make_order())
    dataset = pydicom.dcmread(path)
    assert dataset.pixel_array.dtype == np.float32
    assert dataset.pixel_array.tobytes() == MAP.tobytes()
    read = highdicom.pm.ParametricMap.from_file(path)
    for real in (False, True):
        frames = read.get_frames(apply_real_world_transform=real, dtype=np.float32)
        assert frames.tobytes() == MAP.tobytes(), "stored values are the real ones"
    assert isinstance(highdicom.imread(path), highdicom.Image)


def test_a_map_that_is_a_view_into_a_batch_comes_back_too(make_order: MakeOrder) -> None:
    batch = np.random.default_rng(1).random((7, 7, 3), np.float32)
    order = make_order(Classification("NORMAL", "PNEUMONIA", False, 0.2, 0.52, batch[..., 1]))
    assert np.array_equal(np.frombuffer(_build(order).FloatPixelData, "<f4").reshape(7, 7), batch[..., 1])


def test_it_says_what_the_numbers_are(make_order: MakeOrder) -> None:
    dataset = _build(make_order())
    (frame,) = dataset.PerFrameFunctionalGroupsSequence
    (mapping,) = frame.RealWorldValueMappingSequence
    (unit,), (quantity,) = mapping.MeasurementUnitsCodeSequence, mapping.QuantityDefinitionSequence
    assert (unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning) == ("1", "UCUM", "no units")
    known = pydicom.sr.codedict.codes.DCM.GradientWeightedClassActivation
    (concept,) = quantity.ConceptCodeSequence
    assert (concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning) == (
        "130403",
        "DCM",
        "Gradient-weighted class activation",
    )
    assert (known.value, known.scheme_designator, known.meaning) == ("130403", "DCM", concept.CodeMeaning)
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept, mapping.LUTLabel) == (1, 0, "PNEUMONIA")
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "STATIC", "QUANTITY"]
    assert _shared(dataset).ParametricMapFrameTypeSequence[0].FrameType == dataset.ImageType
    assert (dataset.Modality, dataset.ContentLabel, dataset.ContentQualification) == ("OT", "GRAD_CAM", "RESEARCH")
    assert dataset.SeriesDescription == "AI pneumonia Grad-CAM efficientnet_lite0-2026.11"
    assert dataset.SeriesNumber == 9903
    assert dataset.ImageComments == DISCLAIMER


def test_it_names_its_source_and_the_finding(make_order: MakeOrder) -> None:
    order = make_order()
    dataset = _build(order)
    (derivation,) = _shared(dataset).DerivationImageSequence
    (source,) = derivation.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == SOURCE_UID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert derivation.DerivationDescription == (
        f"Grad-CAM of pneumonia {order.version}: PNEUMONIA 0.870, threshold 0.520. {DISCLAIMER}"
    )
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == order.header.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == SOURCE_UID


def test_six_zones_are_six_frames_with_their_names(
    make_order: MakeOrder, zones: CongestionFinding, csi_manifest: Manifest, write: Callable[[OutputOrder], Path]
) -> None:
    path = write(make_order(zones, csi_manifest, Rows=200, Columns=100))
    dataset = pydicom.dcmread(path)
    assert zones.cams is not None
    assert np.array_equal(dataset.pixel_array, zones.cams)
    assert np.array_equal(highdicom.pm.ParametricMap.from_file(path).get_frames(), zones.cams)
    labels = [
        str(frame.RealWorldValueMappingSequence[0].LUTLabel) for frame in dataset.PerFrameFunctionalGroupsSequence
    ]
    assert labels == ["right_sup", "left_sup", "right_mid", "left_mid", "right_inf", "left_inf"]
    numbers = [frame.FrameContentSequence[0].DimensionIndexValues for frame in dataset.PerFrameFunctionalGroupsSequence]
    assert numbers == [1, 2, 3, 4, 5, 6]
    comments = {frame.FrameContentSequence[0].FrameComments for frame in dataset.PerFrameFunctionalGroupsSequence}
    assert comments == {"Covers columns 25.0 to 75.0, rows 50.0 to 150.0 of the source image"}


def test_a_finding_without_a_map_makes_no_object(
    make_order: MakeOrder,
    make_landmarks: Callable[..., LandmarkFinding],
    make_congestion: Callable[..., CongestionFinding],
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    without = Classification("NORMAL", "PNEUMONIA", False, 0.2, 0.52, None)
    for finding in (without, make_landmarks(), make_congestion()):
        assert build_parametric_map(make_order(finding)) is None
        assert write_parametric_map(make_order(finding), tmp_path) is None
    lungs = manifest.model_copy(update={"input_spec": InputSpec(height=224, width=224, framing=Framing.LUNGS)})
    assert build_parametric_map(make_order(version=lungs)) is None, "where the map lay is not known"
    assert not list(tmp_path.iterdir())


# Places


def test_the_map_lies_over_the_whole_source(make_order: MakeOrder, write: Callable[[OutputOrder], Path]) -> None:
    # A pixel of the map has 100 rows of 0.2 mm and 50 columns of 0.1 mm; its centre is 49.5 and 24.5 pixels from that
    # of the first one of the source.
    path = write(make_order(PixelSpacing=[0.2, 0.1]))
    groups = _shared(pydicom.dcmread(path))
    assert groups.PixelMeasuresSequence[0].PixelSpacing == pytest.approx([20, 5])
    assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx([2.45, 0, -9.9])
    assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 0, -1]
    geometry = highdicom.imread(path).get_volume_geometry()
    assert geometry is not None
    corners = geometry.map_indices_to_reference(np.array([[0, -0.5, -0.5], [0, 6.5, 6.5]]))
    assert corners == pytest.approx(np.array([[-0.05, 0, 0.1], [34.95, 0, -139.9]])), "the outer edges of the source"


@pytest.mark.parametrize(
    ("said", "along", "below"),
    [
        (["R", "F"], (-1, 0, 0), (0, 0, -1)),
        (["A", "F"], (0, -1, 0), (0, 0, -1)),
        (["LP", "FA"], (1, 0, 0), (0, 0, -1)),
        (["H", "P"], (0, 0, 1), (0, 1, 0)),
    ],
    ids=str,
)
def test_directions_are_those_that_the_source_says(
    make_order: MakeOrder, said: list[str], along: tuple[int, ...], below: tuple[int, ...]
) -> None:
    groups = _shared(_build(make_order(PatientOrientation=said, PixelSpacing=[0.2, 0.1])))
    assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == [*along, *below]
    place = 2.45 * np.array(along) + 9.9 * np.array(below)
    assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(place)


@pytest.mark.parametrize("said", [None, ["L", "R"], ["L", "L"], b"LEFT\\FOOT", b"L"], ids=str)
def test_an_unknown_orientation_is_called_nominal(
    make_order: MakeOrder, write: Callable[[OutputOrder], Path], errors_of: ErrorsOf, said: Any
) -> None:
    path = write(make_order(PatientOrientation=said, PixelSpacing=[0.2, 0.1]))
    dataset = pydicom.dcmread(path)
    assert _shared(dataset).PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert "".join(dataset.ImageComments).startswith("The source does not say its orientation")
    assert "PatientOrientation" not in dataset
    assert errors_of(path, "ParametricMap") == []


def test_no_lengths_are_told_of_a_source_without_spacing(
    make_order: MakeOrder, write: Callable[[OutputOrder], Path], errors_of: ErrorsOf
) -> None:
    path = write(make_order())
    groups = _shared(pydicom.dcmread(path))
    assert "PixelSpacing" not in groups.PixelMeasuresSequence[0]
    assert groups.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]
    assert errors_of(path, "ParametricMap") == []
    assert highdicom.imread(path).get_volume_geometry() is None


def test_maps_of_zones_lie_over_the_lungs(
    make_order: MakeOrder, zones: CongestionFinding, csi_manifest: Manifest
) -> None:
    # 100 rows from row 50 and 50 columns from column 25, in twelve parts each.
    order = make_order(zones, csi_manifest, Rows=200, Columns=100, PixelSpacing=[0.5, 0.5])
    groups = _shared(_build(order))
    assert groups.PixelMeasuresSequence[0].PixelSpacing == pytest.approx([100 / 24, 50 / 24])
    x, y = (25 + 25 / 12 - 0.5) / 2, (50 + 50 / 12 - 0.5) / 2
    assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx([x, 0, -y])


def test_a_frame_may_begin_beyond_the_image(
    make_order: MakeOrder, make_congestion: Callable[..., CongestionFinding], csi_manifest: Manifest
) -> None:
    finding = make_congestion(frame=Frame(-0.1, -0.05, 0.9, 0.95), cams=np.zeros((6, 10, 10), np.float32))
    order = make_order(finding, csi_manifest, Rows=200, Columns=100, PixelSpacing=[1, 1])
    place = _shared(_build(order)).PlanePositionSequence[0].ImagePositionPatient
    assert place == pytest.approx([-10 + 5 - 0.5, 0, 10 - 10 + 0.5])


def test_a_map_of_a_letterbox_lies_over_its_padding_too(make_order: MakeOrder, manifest: Manifest) -> None:
    # 700 x 350 in 224 x 224: 112 columns of padding, 56 on each side, which is half the image's width on each.
    spec = InputSpec(height=224, width=224, resize=Resize.LETTERBOX)
    order = make_order(version=manifest.model_copy(update={"input_spec": spec}), PixelSpacing=[1, 1])
    groups = _shared(_build(order))
    assert groups.PixelMeasuresSequence[0].PixelSpacing == pytest.approx([100, 100])
    assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx([-175 + 49.5, 0, -49.5])


def test_maps_of_one_source_share_a_frame_of_reference(
    make_order: MakeOrder, zones: CongestionFinding, csi_manifest: Manifest
) -> None:
    one, other = _build(make_order()), _build(make_order(zones, csi_manifest))
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.FrameOfReferenceUID.startswith("2.25.")
    replaced = _build(replace(make_order(), revision=1))
    assert replaced.FrameOfReferenceUID != one.FrameOfReferenceUID, "other bytes may be another film"


def test_a_source_without_a_size_is_refused(make_order: MakeOrder) -> None:
    with pytest.raises(Unprocessable, match="Rows"):
        build_parametric_map(make_order(Rows=None))


# Patients, UIDs


@pytest.mark.parametrize(("declared", "name", "character_set"), NAMES, ids=repr)
def test_names_are_copied_byte_by_byte(
    make_order: MakeOrder,
    write: Callable[[OutputOrder], Path],
    errors_of: ErrorsOf,
    declared: bytes | None,
    name: bytes,
    character_set: str | list[str] | None,
) -> None:
    path = write(
        make_order(
            PatientName=name,
            StudyDescription=name.split(b"=")[0],
            **({"SpecificCharacterSet": declared} if declared else {}),
        )
    )
    dataset = pydicom.dcmread(path)
    assert dataset.get_item("PatientName").value.rstrip() == name
    assert dataset.get("SpecificCharacterSet") == character_set
    assert np.array_equal(highdicom.imread(path).get_frames()[0], MAP)
    if declared in (b"ISO 2022 IR 13\\ISO 2022 IR 87", b"GB18030", b"ISO_IR 192"):  # the others are as for pictures
        assert errors_of(path, "ParametricMap") == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientName": None, "PatientID": None, "StudyDate": None, "AccessionNumber": None, "InstanceNumber": None},
        {"StudyInstanceUID": b"not a uid", "SeriesInstanceUID": b"", "SOPClassUID": None},
        {"PatientSex": b"FEMALE", "PatientAge": b"76", "StudyDate": b"2026-03-01"},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": "10.5"},
        {"ImageLaterality": "R", "BodyPartExamined": "HIP"},
        {"BodyPartExamined": None, "PhotometricInterpretation": "MONOCHROME1"},
        {"PixelSpacing": [0.143123456789, 0.143123456789], "TimezoneOffsetFromUTC": "+0530"},
    ],
    ids=lambda attributes: "-".join(attributes),
)
def test_any_source_makes_a_valid_map(
    make_order: MakeOrder, write: Callable[[OutputOrder], Path], errors_of: ErrorsOf, attributes: dict[str, Any]
) -> None:
    path = write(make_order(**attributes))
    assert errors_of(path, "ParametricMap") == []
    assert np.array_equal(highdicom.imread(path).get_frames()[0], MAP)


def test_six_zones_are_valid(
    make_order: MakeOrder,
    zones: CongestionFinding,
    csi_manifest: Manifest,
    write: Callable[[OutputOrder], Path],
    errors_of: ErrorsOf,
) -> None:
    assert errors_of(write(make_order(zones, csi_manifest, PixelSpacing=[0.2, 0.2])), "ParametricMap") == []


def test_lossy_stays_lossy(make_order: MakeOrder) -> None:
    assert _build(make_order()).LossyImageCompression == "00"
    dataset = _build(make_order(LossyImageCompression="01", LossyImageCompressionMethod="ISO_10918_1"))
    assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def test_the_same_source_and_version_give_the_same_object(make_order: MakeOrder, manifest: Manifest) -> None:
    one, again = _build(make_order()), _build(make_order())
    assert (
        one.SOPInstanceUID
        == again.SOPInstanceUID
        == uids.instance_uid("parametric_map", SOURCE_UID, "pneumonia", manifest.version, 0)
    )
    assert one == again
    other = _build(make_order(version=manifest.model_copy(update={"version": "another"})))
    assert other.SOPInstanceUID != one.SOPInstanceUID
    assert other.SeriesInstanceUID != one.SeriesInstanceUID
    capture = build_secondary_capture(make_order(), np.zeros((4, 4, 3), np.uint8))
    assert capture.SeriesInstanceUID != one.SeriesInstanceUID
    assert capture.StudyInstanceUID == one.StudyInstanceUID


def test_it_is_known_again_as_ours(make_order: MakeOrder) -> None:
    assert is_own_output(_build(make_order()))


# Peers


@pytest.mark.peers
def test_dcmtk_parses_it_and_gives_it_back_unchanged(
    make_order: MakeOrder,
    zones: CongestionFinding,
    csi_manifest: Manifest,
    write: Callable[[OutputOrder], Path],
    dcmdump: str,
    dcmtk_storescp: Any,
) -> None:
    path = write(make_order(zones, csi_manifest, SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN))
    done = subprocess.run([dcmdump, path], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert dcmtk_storescp.send(path) == 0x0000
    (stored,) = dcmtk_storescp.directory.iterdir()
    back = pydicom.dcmread(stored, force=True)
    assert back == pydicom.dcmread(path)
    assert np.frombuffer(back.FloatPixelData, "<f4").tobytes() == _bytes_of(zones.cams)


def _bytes_of(cams: NDArray[np.float32] | None) -> bytes:
    assert cams is not None
    return cams.tobytes()
