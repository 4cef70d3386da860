"""Presentation states: the greys that the source asks for, and graphics that lie where the finding has them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import stand_in_spine
from numpy.typing import NDArray
from patient_names import KOREAN, NAMES
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from models.engines.engine import EngineInfo
from models.errors import Unprocessable
from models.identity import DISCLAIMER
from models.pixels.header import read_header
from models.pixels.lung_fields import Frame
from models.pixels.placement import Placement
from models.pixels.radiograph import Radiograph
from models.store.manifest import Manifest
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs import uids
from worker.outputs.common_modules import OutputOrder
from worker.outputs.loop_guard import is_own_output
from worker.outputs.parametric_map import write_parametric_map
from worker.outputs.presentation_state import build_presentation_state, write_presentation_state
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding

MakeHeader = Callable[..., Dataset]
MakeOrder = Callable[..., OutputOrder]
ErrorsOf = Callable[..., list[str]]
Write = Callable[[OutputOrder], Path]
MakeLandmarks = Callable[..., LandmarkFinding]
MakeCongestion = Callable[..., CongestionFinding]

SOURCE_UID = "1.2.826.0.1.3680043.9.7433.1.1"
NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
IOD = "GrayscaleSoftcopyPresentationState"
SIZE = {
    "Rows": 200,
    "Columns": 100,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}
SPINE_SIZE = {"Rows": 256, "Columns": 160, "BodyPartExamined": "SPINE"}
SPINE = stand_in_spine.corners(80, 128, 2.0)
HOT = np.zeros((10, 10), np.float32)
HOT[3:7, 5:9] = 1
POSITIVE = Classification("PNEUMONIA", "PNEUMONIA", True, 0.87, 0.52, HOT)


@pytest.fixture
def make_order(make_header: MakeHeader, manifest: Manifest, engine: EngineInfo) -> MakeOrder:
    def make(finding: Finding = POSITIVE, version: Manifest = manifest, **attributes: Any) -> OutputOrder:
        return OutputOrder(make_header(**(SIZE | attributes)), version, engine, SOURCE_UID, 0, finding)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda order: tmp_path / write_presentation_state(order, tmp_path).file_name


@pytest.fixture
def orders(
    make_order: MakeOrder,
    make_congestion: MakeCongestion,
    csi_manifest: Manifest,
    make_landmarks: MakeLandmarks,
    spine_manifest: Manifest,
) -> dict[str, OutputOrder]:
    """One of each task."""
    return {
        "pneumonia": make_order(),
        "csi": make_order(make_congestion((1, 1, 2, 2, 3, None)), csi_manifest),
        "landmarks": make_order(make_landmarks(confidence=_doubt(33)), spine_manifest, **SPINE_SIZE),
    }


def _doubt(*places: int) -> NDArray[np.float64]:
    confidence = np.full(68, 0.9)
    confidence[list(places)] = 0.1
    return confidence


def _lines(dataset: Dataset, layer: str) -> list[NDArray[np.float64]]:
    """Give the lines of a layer, ``(n, 2)`` each."""
    found = []
    for annotation in dataset.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence", []) if annotation.GraphicLayer == layer else []:
            assert (graphic.GraphicType, graphic.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
            line = np.array(graphic.GraphicData, np.float64).reshape(-1, 2)
            assert len(line) == graphic.NumberOfGraphicPoints
            assert ("GraphicFilled" in graphic) == bool((line[0] == line[-1]).all())
            found.append(line)
    return found


def _words(dataset: Dataset, layer: str) -> list[str]:
    return [
        text.UnformattedTextValue
        for annotation in dataset.GraphicAnnotationSequence
        if annotation.GraphicLayer == layer
        for text in annotation.get("TextObjectSequence", [])
    ]


def _layers(dataset: Dataset) -> list[str]:
    return [layer.GraphicLayer for layer in dataset.GraphicLayerSequence]


# Objects and their checkers


@pytest.mark.parametrize("task", ["pneumonia", "csi", "landmarks"])
def test_every_finding_makes_a_valid_presentation_state(
    orders: dict[str, OutputOrder], write: Write, errors_of: ErrorsOf, task: str
) -> None:
    path = write(orders[task])
    assert errors_of(path, IOD) == []
    dataset = pydicom.dcmread(path)
    assert (dataset.Modality, dataset.SeriesNumber, dataset.ContentLabel) == ("PR", 9904, f"AI_{task.upper()}")
    assert dataset.SeriesDescription == f"AI {task} graphics {orders[task].version}"
    assert dataset.ContentDescription == f"AI {task} {orders[task].version}, research use only"[:64]
    assert dataset["ContentCreatorName"].is_empty
    assert DISCLAIMER in _words(dataset, "AI_TEXT")[0]
    assert is_own_output(dataset)


@pytest.mark.peers
@pytest.mark.parametrize("task", ["pneumonia", "csi", "landmarks"])
def test_dcmtk_checks_it(orders: dict[str, OutputOrder], write: Write, dcmpschk: str, task: str) -> None:
    path = write(orders[task])
    dataset = pydicom.dcmread(path)
    # The pattern of DCMTK 3.6.7 for DT knows no offset from UTC that is written with a plus.
    equipment = dataset.ContributingEquipmentSequence[0]
    equipment.ContributionDateTime = str(equipment.ContributionDateTime)[:21]
    dataset.save_as(path)
    done = subprocess.run([dcmpschk, "-v", path], capture_output=True, text=True)
    told = (done.stdout + done.stderr).splitlines()
    assert "W: Test passed." in told, told
    assert [line for line in told if line.startswith(("E:", "F:"))] == []


@pytest.mark.parametrize("task", ["pneumonia", "csi", "landmarks"])
def test_highdicom_takes_its_graphics_and_its_reference(orders: dict[str, OutputOrder], task: str) -> None:
    order = orders[task]
    dataset = build_presentation_state(order, NOW)
    layers = {
        item.GraphicLayer: highdicom.pr.GraphicLayer(item.GraphicLayer, item.GraphicLayerOrder)
        for item in dataset.GraphicLayerSequence
    }
    annotations = []
    for item in dataset.GraphicAnnotationSequence:
        graphics = [
            highdicom.pr.GraphicObject("POLYLINE", line, "PIXEL") for line in _lines(dataset, item.GraphicLayer)
        ]
        texts = [
            highdicom.pr.TextObject(
                text.UnformattedTextValue,
                "PIXEL",
                (*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner),
                text_justification=text.BoundingBoxTextHorizontalJustification,
            )
            for text in item.get("TextObjectSequence", [])
        ]
        # It refuses what lies beyond the image.
        annotations.append(
            highdicom.pr.GraphicAnnotation(
                [order.header], layers[item.GraphicLayer], graphic_objects=graphics, text_objects=texts
            )
        )
    theirs = _theirs(order.header, graphic_annotations=annotations, graphic_layers=list(layers.values()))
    assert dataset.ReferencedSeriesSequence == theirs.ReferencedSeriesSequence
    corners = ("DisplayedAreaTopLeftHandCorner", "DisplayedAreaBottomRightHandCorner", "PresentationSizeMode")
    (area,), (other) = dataset.DisplayedAreaSelectionSequence, theirs.DisplayedAreaSelectionSequence[0]
    assert [area[keyword].value for keyword in corners] == [other[keyword].value for keyword in corners]


def _theirs(header: Dataset, **more: Any) -> Dataset:
    """Make the presentation state that highdicom makes of a source."""
    return highdicom.pr.GrayscaleSoftcopyPresentationState(
        [header], "1.2.3", 1, "1.2.4", 1, "m", "m", "1", "1", "LABEL", **more
    )


@pytest.mark.peers
def test_dcmtk_parses_it_and_gives_it_back_unchanged(
    make_order: MakeOrder, write: Write, dcmdump: str, dcmtk_storescp: Any
) -> None:
    path = write(make_order(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN))
    done = subprocess.run([dcmdump, path], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert dcmtk_storescp.send(path) == 0x0000
    (stored,) = dcmtk_storescp.directory.iterdir()
    assert pydicom.dcmread(stored, force=True) == pydicom.dcmread(path)


@pytest.mark.parametrize(("declared", "name", "character_set"), NAMES, ids=repr)
def test_names_are_copied_byte_by_byte(
    make_order: MakeOrder,
    write: Write,
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
    assert _words(dataset, "AI_TEXT")[0].startswith("PNEUMONIA - probability 0.87, threshold 0.52\r\n")
    if declared in (b"ISO 2022 IR 13\\ISO 2022 IR 87", b"GB18030", b"ISO_IR 192"):  # the others are as for pictures
        assert errors_of(path, IOD) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientName": None, "PatientID": None, "StudyDate": None, "AccessionNumber": None, "InstanceNumber": None},
        {"StudyInstanceUID": b"not a uid", "SeriesInstanceUID": b"", "SOPClassUID": None},
        {"WindowCenter": b"forty", "WindowWidth": "0", "RescaleSlope": "0", "PresentationLUTShape": b"ODD"},
        {"ImageLaterality": "R", "BodyPartExamined": "HIP"},
        {"BodyPartExamined": None, "PixelAspectRatio": b"0\\0"},
        {"PixelSpacing": [0.143123456789, 0.143123456789], "TimezoneOffsetFromUTC": "+0530"},
        {"WindowCenter": 1234.5678901234567, "WindowWidth": 4000.1234567890123},
    ],
    ids=lambda attributes: "-".join(attributes),
)
def test_any_source_makes_a_valid_presentation_state(
    make_order: MakeOrder, write: Write, errors_of: ErrorsOf, attributes: dict[str, Any]
) -> None:
    assert errors_of(write(make_order(**attributes)), IOD) == []


def test_a_source_without_a_size_is_refused(make_order: MakeOrder) -> None:
    with pytest.raises(Unprocessable, match="Rows"):
        build_presentation_state(make_order(Rows=None))


def test_the_same_source_and_version_give_the_same_object(make_order: MakeOrder, manifest: Manifest) -> None:
    one, again = (build_presentation_state(make_order(), NOW) for _ in range(2))
    assert one == again
    assert one.SOPInstanceUID == uids.instance_uid("presentation_state", SOURCE_UID, "pneumonia", manifest.version, 0)
    other = build_presentation_state(make_order(version=manifest.model_copy(update={"version": "another"})), NOW)
    assert other.SOPInstanceUID != one.SOPInstanceUID
    assert other.SeriesInstanceUID != one.SeriesInstanceUID


# Greys


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({}, "IDENTITY"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "INVERSE"),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, "INVERSE"),
        ({"PresentationLUTShape": "INVERSE"}, "INVERSE"),
    ],
    ids=str,
)
def test_the_polarity_is_that_of_the_source(make_order: MakeOrder, attributes: dict[str, Any], shape: str) -> None:
    assert build_presentation_state(make_order(**attributes)).PresentationLUTShape == shape


def test_window_and_rescale_are_what_highdicom_takes_from_the_source(make_order: MakeOrder) -> None:
    order = make_order(
        WindowCenter=[500, 40], WindowWidth=[1000, 400], RescaleSlope="2", RescaleIntercept="-1000", RescaleType="US"
    )
    ours, theirs = build_presentation_state(order), _theirs(order.header)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "PresentationLUTShape"):
        assert ours[keyword].value == theirs[keyword].value, keyword
    (voi,) = ours.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (500, 1000), "of several windows the first, as our pictures have it"
    assert theirs.SoftcopyVOILUTSequence[0].WindowCenter[0] == voi.WindowCenter


def test_a_source_without_a_window_has_none_here(make_order: MakeOrder) -> None:
    dataset = build_presentation_state(make_order())
    for keyword in ("SoftcopyVOILUTSequence", "RescaleSlope", "ModalityLUTSequence"):
        assert keyword not in dataset


RAMP = (np.arange(200 * 100) % 4096).reshape(200, 100).astype(np.uint16)
CURVE = np.rint(4095 * (np.arange(4096) / 4095) ** 2).astype(np.uint16)


def _table(entries: NDArray[np.uint16], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.tobytes())
    return Sequence([item])


@pytest.mark.peers
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "greys",
    [
        {"WindowCenter": 2048, "WindowWidth": 4096},
        {"WindowCenter": 1500, "WindowWidth": 1200},
        {"WindowCenter": 500, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": -1000},
        {"VOILUTSequence": _table(CURVE, 0, 12)},
        {"VOILUTSequence": _table(CURVE, 0, 16), "WindowCenter": 1, "WindowWidth": 1},  # 16 bits declared, 12 used
    ],
    ids=lambda greys: "-".join(greys),
)
def test_dcmtk_shows_with_it_what_our_pictures_show(
    make_order: MakeOrder, write: Write, dcmp2pgm: str, tmp_path: Path, greys: dict[str, Any], interpretation: str
) -> None:
    order = make_order(PhotometricInterpretation=interpretation, **greys)
    source = _with_pixels(order.header, tmp_path / "source.dcm")
    order = replace(order, header=read_header(source))
    bitmap = tmp_path / "shown.pgm"
    done = subprocess.run([dcmp2pgm, "-p", write(order), source, bitmap], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = _read_pgm(bitmap)
    wanted = Radiograph.read(source).to_display(200)
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).max() <= 1
    assert np.ptp(shown) > 200


def _with_pixels(header: Dataset, path: Path) -> Path:
    stream = BytesIO()
    header.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    dataset = pydicom.dcmread(stream)
    dataset.add_new("PixelData", "OW", RAMP.tobytes())
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def _read_pgm(path: Path) -> NDArray[np.uint8]:
    content = path.read_bytes()
    words: list[bytes] = []
    place = 0
    while len(words) < 4:
        line, _, _ = content[place:].partition(b"\n")
        place += len(line) + 1
        words += line.partition(b"#")[0].split()
    columns, rows = int(words[1]), int(words[2])
    if words[0] == b"P2":
        return np.array(content[place:].split(), np.uint8).reshape(rows, columns)
    return np.frombuffer(content[place:], np.uint8).reshape(rows, columns)


# Areas


def test_the_whole_image_is_displayed_in_its_shape(make_order: MakeOrder) -> None:
    for attributes, keyword, value in (
        ({}, "PresentationPixelAspectRatio", [1, 1]),
        ({"PixelAspectRatio": [4, 3]}, "PresentationPixelAspectRatio", [4, 3]),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, "PresentationPixelSpacing", [0.2, 0.1]),
    ):
        (area,) = build_presentation_state(make_order(**attributes)).DisplayedAreaSelectionSequence
        assert (area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner) == ([1, 1], [100, 200])
        assert area.PresentationSizeMode == "SCALE TO FIT"
        assert area[keyword].value == value


# Layers


def test_each_kind_of_graphics_can_be_taken_away(orders: dict[str, OutputOrder]) -> None:
    expected = {
        "pneumonia": ["AI_HEAT", "AI_TEXT"],
        "csi": ["AI_ZONES", "AI_TEXT"],
        "landmarks": ["AI_OUTLINES", "AI_REVIEW", "AI_COBB", "AI_NAMES", "AI_TEXT"],
    }
    for task, order in orders.items():
        dataset = build_presentation_state(order)
        assert _layers(dataset) == expected[task]
        assert [layer.GraphicLayerOrder for layer in dataset.GraphicLayerSequence] == [
            *range(1, len(expected[task]) + 1)
        ]
        assert [annotation.GraphicLayer for annotation in dataset.GraphicAnnotationSequence] == expected[task]
        for annotation in dataset.GraphicAnnotationSequence:
            assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == SOURCE_UID


def test_nothing_lies_beyond_the_image(orders: dict[str, OutputOrder]) -> None:
    for order in orders.values():
        dataset = build_presentation_state(order)
        size = np.array([order.header.Columns, order.header.Rows])
        for annotation in dataset.GraphicAnnotationSequence:
            for line in _lines(dataset, annotation.GraphicLayer):
                assert (line >= 0).all()
                assert (line <= size).all()
            for text in annotation.get("TextObjectSequence", []):
                first, last = text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner
                assert (np.array(first) >= 0).all()
                assert (np.array(first) < last).all()
                assert (np.array(last) <= size + 1e-4).all()


# Pneumonia


def test_heat_is_bordered_where_it_is_half_as_hot_as_can_be(make_order: MakeOrder) -> None:
    # Cells of 10 columns and 20 rows; the map is hot from column 50 to 90 and row 60 to 140.
    (line,) = _lines(build_presentation_state(make_order()), "AI_HEAT")
    assert (line[0] == line[-1]).all()
    assert line.min(axis=0) == pytest.approx([50, 60], abs=1.5)
    assert line.max(axis=0) == pytest.approx([90, 140], abs=1.5)


def test_heat_that_reaches_the_border_is_closed_along_it(make_order: MakeOrder) -> None:
    finding = replace(POSITIVE, cam=np.ones((7, 7), np.float32))
    (line,) = _lines(build_presentation_state(make_order(finding)), "AI_HEAT")
    assert line.min(axis=0) == pytest.approx([0, 0], abs=0.5)
    assert line.max(axis=0) == pytest.approx([100, 200], abs=0.5)


@pytest.mark.parametrize(
    "finding",
    [
        replace(POSITIVE, label="NORMAL", positive=False, probability=0.1),
        replace(POSITIVE, cam=None),
        replace(POSITIVE, cam=np.zeros((7, 7), np.float32)),
    ],
    ids=["negative", "without a map", "cold"],
)
def test_without_a_positive_finding_and_heat_there_are_words_alone(make_order: MakeOrder, finding: Finding) -> None:
    assert _layers(build_presentation_state(make_order(finding))) == ["AI_TEXT"]


def test_the_words_are_those_of_the_picture(make_order: MakeOrder, manifest: Manifest) -> None:
    (words,) = _words(build_presentation_state(make_order()), "AI_TEXT")
    assert words.split("\r\n") == [
        "PNEUMONIA - probability 0.87, threshold 0.52",
        f"AI pneumonia, version {manifest.version}",
        DISCLAIMER,
    ]


# Zones


def test_zones_are_rectangles_with_their_scores(
    make_order: MakeOrder, make_congestion: MakeCongestion, csi_manifest: Manifest
) -> None:
    # The middle of 200 rows and 100 columns: three rows of a sixth, two columns of a quarter.
    dataset = build_presentation_state(make_order(make_congestion((0, 1, 2, 3, 1, None)), csi_manifest))
    lines = _lines(dataset, "AI_ZONES")
    assert len(lines) == 6
    first, last = lines[0], lines[5]
    third = 100 / 3
    assert first == pytest.approx(
        np.array([(25, 50), (50, 50), (50, 50 + third), (25, 50 + third), (25, 50)]), abs=1e-4
    )
    assert last.min(axis=0) == pytest.approx([50, 150 - third], abs=1e-4)
    assert last.max(axis=0) == pytest.approx([75, 150], abs=1e-4)
    assert _words(dataset, "AI_ZONES") == [
        "right_sup 0",
        "left_sup 1",
        "right_mid 2",
        "left_mid 3",
        "right_inf 1",
        "left_inf ungradable",
    ]
    (summary,) = _words(dataset, "AI_TEXT")
    assert summary.startswith("Mean CSI 1.40 (5 of 6 zones) - heart failure class medium\r\nAI csi, version 3.0.0")


def test_zones_beyond_the_image_end_at_its_border(
    make_order: MakeOrder, make_congestion: MakeCongestion, csi_manifest: Manifest
) -> None:
    # From 30 % left of the image to 30 % right of its left border: the left column of zones is not on it.
    finding = make_congestion(frame=Frame(-0.3, 0.5, 0.3, 1.1))
    lines = _lines(build_presentation_state(make_order(finding, csi_manifest)), "AI_ZONES")
    assert len(lines) == 3
    assert lines[2].min(axis=0) == pytest.approx([0, 180], abs=1e-4)
    assert lines[2].max(axis=0) == pytest.approx([30, 200], abs=1e-4)


# Landmarks


def test_outlines_run_through_the_landmarks(
    make_order: MakeOrder, make_landmarks: MakeLandmarks, spine_manifest: Manifest
) -> None:
    dataset = build_presentation_state(make_order(make_landmarks(), spine_manifest, **SPINE_SIZE))
    outlines = _lines(dataset, "AI_OUTLINES")
    assert len(outlines) == 17
    for outline, body in zip(outlines, SPINE.reshape(17, 4, 2), strict=True):
        assert outline == pytest.approx(body[[0, 1, 3, 2, 0]], abs=1e-3)


def test_lines_of_the_angles_cross_their_end_plates(
    make_order: MakeOrder, make_landmarks: MakeLandmarks, spine_manifest: Manifest
) -> None:
    dataset = build_presentation_state(make_order(make_landmarks(), spine_manifest, **SPINE_SIZE))
    lines = {tuple(np.rint(line.mean(axis=0)).astype(int)): line for line in _lines(dataset, "AI_COBB")}
    bodies = SPINE.reshape(17, 4, 2)
    for body, plate, tilt in ((bodies[3], (0, 1), 15), (bodies[10], (2, 3), -10)):
        middle = body[list(plate)].mean(axis=0)
        line = lines[tuple(np.rint(middle).astype(int))]
        reach = line[1] - line[0]
        assert np.degrees(np.arctan2(reach[1], reach[0])) == pytest.approx(tilt, abs=0.1)
        assert reach[0] == pytest.approx(2.2 * 20, abs=0.1), "of its own width 0.6 on both sides"
    assert "25 deg\r\nT4-T11" in _words(dataset, "AI_COBB")
    (summary,) = _words(dataset, "AI_TEXT")
    assert summary.split("\r\n")[0] == "Main Cobb 25.0 deg (T4-T11)"


def test_vertebrae_to_be_reviewed_have_a_layer_of_their_own(orders: dict[str, OutputOrder]) -> None:
    dataset = build_presentation_state(orders["landmarks"])
    (outline,) = _lines(dataset, "AI_REVIEW")
    assert outline == pytest.approx(SPINE.reshape(17, 4, 2)[8][[0, 1, 3, 2, 0]], abs=1e-3)
    assert len(_lines(dataset, "AI_OUTLINES")) == 16
    assert _words(dataset, "AI_REVIEW") == ["T9"]
    assert "REVIEW: low confidence (T9)" in _words(dataset, "AI_TEXT")[0]
    styles = {
        annotation.GraphicLayer: annotation.GraphicObjectSequence[0].LineStyleSequence[0].LineDashingStyle
        for annotation in dataset.GraphicAnnotationSequence
        if "GraphicObjectSequence" in annotation
    }
    assert styles == {"AI_OUTLINES": "SOLID", "AI_REVIEW": "DASHED", "AI_COBB": "SOLID"}


def test_a_vertebra_that_reaches_beyond_the_image_is_cut(
    make_order: MakeOrder, make_landmarks: MakeLandmarks, spine_manifest: Manifest, write: Write, errors_of: ErrorsOf
) -> None:
    moved = SPINE - np.array([75.0, 0.0])  # each is 20 wide; its middle is now 5 from the left border
    finding = make_landmarks(moved, image=SourceImage(256, 160, placement=Placement(0.5, 0.5, 24, 0)))
    path = write(make_order(finding, spine_manifest, **SPINE_SIZE))
    lines = _lines(pydicom.dcmread(path), "AI_REVIEW")
    assert len(lines) == 3 * 17, "the two end plates and the right side of each, open"
    for line in lines:
        assert len(line) == 2
        assert (line[:, 0] >= 0).all()
    plate = moved.reshape(17, 4, 2)[3, :2]
    share = -plate[0, 0] / (plate[1, 0] - plate[0, 0])
    border = plate[0] + share * (plate[1] - plate[0])
    assert any(np.allclose(line, [border, plate[1]], atol=1e-3) for line in lines)
    assert errors_of(path, IOD) == []


def test_landmarks_that_are_absent_or_far_away_draw_nothing(
    make_order: MakeOrder, make_landmarks: MakeLandmarks, spine_manifest: Manifest, write: Write, errors_of: ErrorsOf
) -> None:
    absent = make_landmarks(thresholds={label: 0.5 for label in spine_manifest.labels}, confidence=_doubt(0))
    dataset = build_presentation_state(make_order(absent, spine_manifest, **SPINE_SIZE))
    assert len(_lines(dataset, "AI_OUTLINES")) + len(_lines(dataset, "AI_REVIEW")) == 16
    away = SPINE.copy()
    away[:4] -= (500.0, 0.0)
    path = write(make_order(make_landmarks(away), spine_manifest, **SPINE_SIZE))
    dataset = pydicom.dcmread(path)
    assert len(_lines(dataset, "AI_OUTLINES")) == 16
    assert "AI_REVIEW" not in _layers(dataset)
    assert "T1" not in _words(dataset, "AI_NAMES"), "where its vertebra is not, a name would mislead"
    assert errors_of(path, IOD) == []
    dataset = build_presentation_state(make_order(make_landmarks(SPINE + 10_000.0), spine_manifest, **SPINE_SIZE))
    assert _layers(dataset) == ["AI_TEXT"]
    nothing = make_landmarks(thresholds={label: 0.95 for label in spine_manifest.labels})
    assert _layers(build_presentation_state(make_order(nothing, spine_manifest, **SPINE_SIZE))) == ["AI_TEXT"]


def test_a_sacrum_is_one_line(make_order: MakeOrder, make_landmarks: MakeLandmarks, spine_manifest: Manifest) -> None:
    points = np.array([(x, y) for y in range(40, 240, 20) for x in (60.0, 100.0)] + [(60.0, 240.0), (100.0, 240.0)])
    finding = make_landmarks(points, schema="buu_la22")
    lines = _lines(build_presentation_state(make_order(finding, spine_manifest, **SPINE_SIZE)), "AI_OUTLINES")
    assert [len(line) for line in lines] == [5, 5, 5, 5, 5, 2]


@pytest.mark.peers
def test_orthanc_gives_graphics_and_maps_back_unchanged(
    make_order: MakeOrder, write: Write, orthanc: Any, tmp_path: Path
) -> None:
    order = make_order(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN)
    of_map = write_parametric_map(order, tmp_path)
    assert of_map is not None
    sent = {path: pydicom.dcmread(path) for path in (write(order), tmp_path / of_map.file_name)}
    for path in sent:
        assert orthanc.send(path) == 0x0000
    back = [
        pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{identifier}/file")))
        for identifier in json.loads(orthanc.get("/instances"))
    ]
    assert {dataset.SOPInstanceUID: dataset for dataset in back} == {
        dataset.SOPInstanceUID: dataset for dataset in sent.values()
    }
