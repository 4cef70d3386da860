"""Structured reports: every checker takes every one of them, and they say what was found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from models.errors import Reason
from models.identity import DISCLAIMER
from models.pixels.header import read_header
from models.pixels.placement import Placement
from models.spine.corners import ImageSide
from models.spine.spacing import Spacing, SpacingSource
from models.store.manifest import Manifest
from worker.findings import Classification, CongestionFinding
from worker.outputs import report_codes, uids
from worker.outputs.common_modules import OutputOrder
from worker.outputs.files import WrittenOutput
from worker.outputs.loop_guard import is_own_output
from worker.outputs.not_analysed_report import NotAnalysedOrder, build_not_analysed_report
from worker.outputs.structured_report import build_structured_report, write_structured_report
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding

MakeHeader = Callable[..., Dataset]
MakeOrder = Callable[[Dataset], OutputOrder]
ErrorsOf = Callable[..., list[str]]
Build = Callable[[], Dataset]

NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
OVERLAY = WrittenOutput("1.2.840.10008.5.1.4.1.1.7", "2.25.71", "2.25.72", "2.25.71.dcm")
SCT = {"upper": "281392002", "middle": "281393007", "lower": "281394001", "right": "24028007", "left": "7771000"}
NAMES = (
    "pneumonia",
    "no pneumonia",
    "zones, one ungradable",
    "zones, all ungradable",
    "spine, spacing unknown",
    "spine, spacing known",
    "lumbar spine with sacrum",
    "spine beyond the image",
    "skipped",
    "failed",
)


def lumbar() -> NDArray[np.float64]:
    """(22, 2): five square vertebrae and the end plate of S1, each 4 pixels further to the left than the one below."""
    corners = []
    for place in range(6):
        left, top = 60.0 + 4 * place, 20.0 + 30 * place
        corners += [(left, top), (left + 40, top), (left, top + 20), (left + 40, top + 20)]
    return np.array(corners[:22])


@pytest.fixture(scope="module")
def orders(
    make_header: MakeHeader,
    make_order: MakeOrder,
    make_congestion: Callable[..., CongestionFinding],
    csi_manifest: Manifest,
    make_landmarks: Callable[..., LandmarkFinding],
    spine_manifest: Manifest,
) -> Mapping[str, OutputOrder]:
    order = make_order(make_header(Rows=256, Columns=160))
    placement = Placement(0.5, 0.5, 24, 0)
    spaced = SourceImage(256, 160, placement=placement, spacing=Spacing(0.2, 0.2, SpacingSource.PIXEL_SPACING))
    lateral = replace(spaced, anterior=ImageSide.LEFT)
    zones, spine = replace(order, manifest=csi_manifest), replace(order, manifest=spine_manifest)
    beyond = make_landmarks().landmarks.copy()
    beyond[0] = (-30, 30)
    return {
        "pneumonia": order,
        "no pneumonia": replace(order, finding=Classification("NORMAL", "PNEUMONIA", False, 1 / 3, 0.52, None)),
        "zones, one ungradable": replace(zones, finding=make_congestion((1, 1, 2, 2, 3, None))),
        "zones, all ungradable": replace(zones, finding=make_congestion((None,) * 6, lungs_found=False)),
        "spine, spacing unknown": replace(spine, finding=make_landmarks()),
        "spine, spacing known": replace(spine, finding=make_landmarks(image=spaced)),
        "lumbar spine with sacrum": replace(spine, finding=make_landmarks(lumbar(), schema="buu_la22", image=lateral)),
        "spine beyond the image": replace(spine, finding=make_landmarks(beyond)),
    }


@pytest.fixture(scope="module")
def built(orders: Mapping[str, OutputOrder]) -> Mapping[str, Build]:
    header = orders["pneumonia"].header
    skipped = NotAnalysedOrder(header, "1.2.3", 0, Reason.NO_RULE_MATCHED, True)
    failed = NotAnalysedOrder(header, "1.2.3", 0, Reason.UNSUPPORTED_TRANSFER_SYNTAX, False)
    findings = {
        name: lambda order=order: build_structured_report(order, [OVERLAY], NOW) for name, order in orders.items()
    }
    return {
        **findings,
        "skipped": lambda: build_not_analysed_report(skipped, NOW),
        "failed": lambda: build_not_analysed_report(failed, NOW),
    }


@pytest.fixture(scope="module")
def saved(built: Mapping[str, Build], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("reports")

    def save(name: str) -> Path:
        path = directory / f"{name}.dcm"
        if not path.exists():
            built[name]().save_as(path, enforce_file_format=True)
        return path

    return save


@pytest.fixture(scope="module")
def read(saved: Callable[[str], Path]) -> Callable[[str], Any]:
    """Give a function that gives reports as highdicom reads them; nobody may change them."""
    return cache(lambda name: hd.sr.srread(saved(name)))


# Checkers


@pytest.mark.parametrize("name", NAMES)
def test_dciodvfy_finds_no_error(saved: Callable[[str], Path], errors_of: ErrorsOf, name: str) -> None:
    assert errors_of(saved(name), "Comprehensive3DSR") == []


@pytest.mark.peers
@pytest.mark.parametrize("name", NAMES)
def test_dsrdump_reads_it(saved: Callable[[str], Path], dsrdump: str, name: str) -> None:
    done = subprocess.run([dsrdump, "+Pl", "+Pc", saved(name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Comprehensive 3D SR Document" in done.stdout
    assert "Completion Flag     : COMPLETE" in done.stdout
    assert "Verification Flag   : UNVERIFIED" in done.stdout
    assert DISCLAIMER in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_highdicom_reads_it(read: Callable[[str], Any], name: str) -> None:
    report = read(name)
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    content = report.content
    assert isinstance(content, hd.sr.MeasurementReport)
    (observer,) = content.get_observer_contexts()
    assert observer.observer_identifying_attributes.uid == report.DeviceUID
    groups = len(content.get_image_measurement_groups()) + len(content.get_planar_roi_measurement_groups())
    assert groups == len(_container(report, "126010").ContentSequence)


def _container(report: Dataset, code: str) -> Dataset:
    (found,) = (item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == code)
    container: Dataset = found
    return container


@pytest.mark.peers
def test_dcmtk_stores_every_report_byte_by_byte(
    read: Callable[[str], Any], saved: Callable[[str], Path], dcmtk_storescp: Any
) -> None:
    for name in ("pneumonia", "zones, one ungradable", "spine, spacing known", "failed"):
        path = saved(name)
        assert dcmtk_storescp.send(path) == 0x0000
        (stored,) = dcmtk_storescp.directory.iterdir()
        assert _encoded_content(stored) == _encoded_content(path), name
        assert pydicom.dcmread(stored, force=True) == pydicom.dcmread(path)
        stored.unlink()


def _encoded_content(path: Path) -> bytes:
    dataset = pydicom.dcmread(path, force=True)
    del dataset.file_meta
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return stream.getvalue()


@pytest.mark.peers
def test_orthanc_stores_every_report_and_gives_it_back(
    read: Callable[[str], Any], saved: Callable[[str], Path], orthanc: Any
) -> None:
    for name in ("pneumonia", "zones, one ungradable", "spine, spacing known", "failed"):
        path = saved(name)
        assert orthanc.send(path) == 0x0000
        uid = pydicom.dcmread(path).SOPInstanceUID
        found = orthanc.find(uid)
        assert pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{found}/file"))) == pydicom.dcmread(path), name


@pytest.mark.parametrize("name", NAMES)
def test_the_content_is_encoded_as_pydicom_encodes_it(built: Mapping[str, Build], name: str) -> None:
    dataset, ours, theirs = built[name](), BytesIO(), BytesIO()
    dataset.save_as(ours, enforce_file_format=True)
    assert dataset.ContentSequence  # now read, so that it is encoded anew
    dataset.save_as(theirs, enforce_file_format=True)
    assert ours.getvalue() == theirs.getvalue()


# What is said


def _groups(report: Any) -> dict[str, Any]:
    content = report.content
    found = [*content.get_image_measurement_groups(), *content.get_planar_roi_measurement_groups()]
    return {group.tracking_identifier: group for group in found}


def _numbers(group: Any) -> dict[str, tuple[float, str]]:
    return {each.name.value: (each.value, each.unit.value) for each in group.get_measurements()}


def _answers(group: Any) -> dict[str, str]:
    return {each.name.value: each.value.value for each in group.get_qualitative_evaluations()}


@pytest.mark.parametrize(
    ("name", "probability", "answer"), [("pneumonia", 87.0, "52101004"), ("no pneumonia", 100 / 3, "272519000")]
)
def test_pneumonia_is_said_with_probability_threshold_and_algorithm(
    read: Callable[[str], Any], name: str, probability: float, answer: str
) -> None:
    (group,) = _groups(read(name)).values()
    assert group.finding_type == Code("233604007", "SCT", "Pneumonia")
    assert _numbers(group) == {"122157": (pytest.approx(probability, rel=1e-15), "%"), "122411": (52.0, "%")}
    assert _answers(group) == {"233604007": answer}
    texts = [
        item.TextValue
        for item in group[0].ContentSequence
        if item.ValueType == "TEXT" and item.RelationshipType != "HAS OBS CONTEXT"
    ]
    assert texts == [
        "radstream pneumonia efficientnet_lite0",
        "efficientnet_lite0-2026.11",
        "radstream",
        "threshold PNEUMONIA 0.52",
        f"source: onnxruntime fp32, network {'b' * 64}",
    ]


def test_a_number_is_written_twice_as_text_of_16_characters_and_as_the_double_itself(
    read: Callable[[str], Any],
) -> None:
    (group,) = _container(read("no pneumonia"), "126010").ContentSequence
    (value,) = next(item for item in group.ContentSequence if item.ValueType == "NUM").MeasuredValueSequence
    assert value.FloatingPointValue == 100 * (1 / 3)
    assert str(value.NumericValue) == "33.3333333333333"


def test_six_zones_are_said_with_their_sides_and_the_ungradable_one_has_no_score(read: Callable[[str], Any]) -> None:
    groups = _groups(read("zones, one ungradable"))
    places = {}
    for name in ("right_sup", "left_sup", "right_mid", "left_mid", "right_inf", "left_inf"):
        group = groups[f"csi {name}"]
        (site,) = group.finding_sites
        score = _numbers(group).get("ZONE_SCORE", (None, None))[0]
        places[site.value.value, site.laterality.value] = score
        assert _answers(group) == ({"GRADABILITY": "UNGRADABLE"} if score is None else {})
    assert places == {
        (SCT["upper"], SCT["right"]): 1,
        (SCT["upper"], SCT["left"]): 1,
        (SCT["middle"], SCT["right"]): 2,
        (SCT["middle"], SCT["left"]): 2,
        (SCT["lower"], SCT["right"]): 3,
        (SCT["lower"], SCT["left"]): None,
    }
    numbers = _numbers(groups["csi mean"])
    assert numbers == {"MEAN_CSI": (1.8, "1"), "GRADABLE_ZONES": (5, "1")}
    assert _answers(groups["csi mean"]) == {"HF_CLASS": "HF_MEDIUM", "LUNGS_FOUND": "373066001"}


def test_without_a_gradable_zone_there_is_no_mean(read: Callable[[str], Any]) -> None:
    group = _groups(read("zones, all ungradable"))["csi mean"]
    assert _numbers(group) == {"GRADABLE_ZONES": (0, "1")}
    assert _answers(group) == {"LUNGS_FOUND": "373067005"}


def test_the_outline_of_a_vertebra_is_that_of_its_corners_in_pixels_of_the_source(
    orders: Mapping[str, OutputOrder], read: Callable[[str], Any]
) -> None:
    finding: Any = orders["spine, spacing unknown"].finding
    group = _groups(read("spine, spacing unknown"))["landmarks T1"]
    assert group.roi.graphic_type is hd.sr.GraphicTypeValues.POLYLINE
    top_left, top_right, bottom_left, bottom_right = finding.landmarks[:4]
    expected = [top_left, top_right, bottom_right, bottom_left, top_left]
    assert group.roi.value == pytest.approx(np.array(expected), abs=1e-4)
    # The known spine of 2 pixels a unit around (80, 128): the first vertebra is not tilted, 96 above, 8 high, 20 wide.
    assert group.roi.value[:2] == pytest.approx(np.array([(70, 28), (90, 28)]), abs=1e-3)
    (site,) = group.finding_sites
    assert site.value == Code("64864005", "SCT", "T1 vertebra")
    assert _answers(group) == {"REVIEW": "373067005"}


def test_angles_have_their_end_vertebrae_and_heights_are_in_mm_where_the_spacing_is_known(
    read: Callable[[str], Any],
) -> None:
    known, unknown = _groups(read("spine, spacing known")), _groups(read("spine, spacing unknown"))
    main = known["landmarks curve main"]
    # By hand: T4 is tilted by 15 degrees, T11 by -10.
    assert _numbers(main) == {"285285000": (pytest.approx(25, abs=0.01), "deg")}
    assert [(site.value.value, site.topographical_modifier.value) for site in main.finding_sites] == [
        ("73071006", "UPPER_END"),
        ("12989004", "LOWER_END"),
    ]
    height = _numbers(known["landmarks T1"])
    assert height["HEIGHT_LEFT"] == (pytest.approx(8 * 0.2, abs=1e-4), "mm")
    assert _numbers(unknown["landmarks T1"])["HEIGHT_LEFT"] == (pytest.approx(8, abs=1e-3), "{pixels}")
    assert _numbers(known["landmarks disc T1/T2"])["HEIGHT_LEFT"][1] == "mm"
    assert _answers(known["landmarks spine"])["SPACING"] == "pixel_spacing"


def test_slips_are_said_in_percent_and_mm_with_their_grade(read: Callable[[str], Any]) -> None:
    groups = _groups(read("lumbar spine with sacrum"))
    # The front is at the left, and each vertebra lies 4 of 40 pixels to the left of the next one: 10 percent forwards.
    slip = groups["landmarks slip L5/S1"]
    assert _numbers(slip) == {
        "SLIP_PERCENT": (pytest.approx(10, abs=1e-4), "%"),
        "SLIP_OFFSET": (pytest.approx(4 * 0.2, abs=1e-5), "mm"),
        "SLIP_ANGLE": (pytest.approx(0, abs=1e-4), "deg"),
        "MEYERDING": (1, "1"),
    }
    assert _answers(slip) == {"SLIP_KIND": "SLIP_ANTERIOR"}
    assert _answers(groups["landmarks spine"])["ANTERIOR_SIDE"] == "IMAGE_LEFT"
    (measurement,) = (each for each in groups["landmarks S1"].get_measurements() if each.name.value == "CONFIDENCE")
    (plate,) = measurement.referenced_coordinates
    assert plate.value == pytest.approx(np.array([(80, 170), (120, 170)]), abs=1e-4)


def test_corners_beyond_the_image_have_no_place_in_it(read: Callable[[str], Any]) -> None:
    groups = _groups(read("spine beyond the image"))
    (measurement,) = (each for each in groups["landmarks T1"].get_measurements() if each.name.value == "CONFIDENCE")
    (points,) = measurement.referenced_coordinates
    assert len(points.value) == 3
    assert _answers(groups["landmarks T1"]) == {"REVIEW": "373066001"}
    reasons = [each.value.value for each in groups["landmarks spine"].get_qualitative_evaluations()]
    assert "beyond_image" in reasons


def test_source_and_overlay_are_in_library_and_evidence(
    read: Callable[[str], Any], orders: Mapping[str, OutputOrder]
) -> None:
    header, report = orders["pneumonia"].header, read("pneumonia")
    (group,) = _container(report, "111028").ContentSequence
    listed = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in group.ContentSequence]
    assert listed == [header.SOPInstanceUID, "2.25.71"]
    evidence = report.get_evidence()
    study = header.StudyInstanceUID
    assert evidence == [
        (study, header.SeriesInstanceUID, header.SOPInstanceUID, header.SOPClassUID),
        (study, OVERLAY.series_instance_uid, OVERLAY.sop_instance_uid, OVERLAY.sop_class_uid),
    ]


def test_every_standard_code_is_one_of_ps3_16(built: Mapping[str, Build]) -> None:
    from pydicom.sr._concepts_dict import concepts  # type: ignore[attr-defined]

    known = {(scheme, value) for scheme, words in concepts.items() for word in words.values() for value in word}
    # Pneumonia is SNOMED CT's, and PS3.16 names neither it nor the unit of pixels; RFC 5646 is that of languages.
    known |= {("SCT", "233604007"), ("UCUM", "{pixels}"), ("RFC5646", "en-US")}

    def used(item: Dataset) -> set[tuple[str, str]]:
        found = set()
        for element in item:
            for inner in element.value if element.VR == "SQ" else ():
                if "CodingSchemeDesignator" in inner and "CodeMeaning" in inner:
                    value = inner.get("CodeValue") or inner.LongCodeValue
                    found.add((str(inner.CodingSchemeDesignator), str(value)))
                found |= used(inner)
        return found

    every = set().union(*(used(build()) for build in built.values()))
    assert {code for code in every if code[0] != report_codes.SCHEME} <= known
    assert standard.SCT.CobbAngle.value in {value for _, value in every}


# Not analysed


def test_a_report_of_a_failure_says_the_reason_and_finds_nothing(read: Callable[[str], Any]) -> None:
    (group,) = _groups(read("failed")).values()
    assert _answers(group) == {"ANALYSIS": "FAILED", "REASON": "unsupported_transfer_syntax"}
    assert _numbers(group) == {}
    comments = [item.TextValue for item in read("failed").ContentSequence if item.ValueType == "TEXT"]
    assert comments[-2] == (
        "Not analysed: the analysis failed. Its transfer syntax cannot be read (unsupported_transfer_syntax)."
        " This says nothing about the patient."
    )


def test_every_reason_of_an_instance_has_words() -> None:
    of_others = (
        "_unavailable",
        "destination_",
        "commitment_",
        "out_of_space",
        "output_file_missing",
        "source_not_kept",
    )
    for reason in Reason:
        meaning = report_codes.reason_code(reason).meaning
        assert len(meaning) <= 64
        if not any(part in reason.value for part in of_others):
            assert meaning != reason.value.replace("_", " ").capitalize(), reason


# Identity


def test_the_same_finding_gives_the_same_objects_and_another_version_others(
    orders: Mapping[str, OutputOrder], built: Mapping[str, Build]
) -> None:
    order = orders["pneumonia"]
    first, again = built["pneumonia"](), built["pneumonia"]()
    assert first == again
    assert first.SOPInstanceUID == uids.instance_uid(
        "structured_report", order.source_sop_instance_uid, "pneumonia", order.manifest.version, 0
    )
    newer = build_structured_report(replace(order, manifest=order.manifest.model_copy(update={"version": "2"})))
    assert newer.SOPInstanceUID != first.SOPInstanceUID
    assert newer.SeriesInstanceUID != first.SeriesInstanceUID
    both = (hd.sr.Comprehensive3DSR.from_dataset(report) for report in (first, newer))
    tracked = {_groups(report)["pneumonia pneumonia"].tracking_uid for report in both}
    assert len(tracked) == 1, "the same thing, whoever measures it"
    assert first.SeriesNumber == 9902


def test_a_report_that_comes_back_is_known_as_ours(saved: Callable[[str], Path]) -> None:
    assert is_own_output(read_header(saved("pneumonia")))
    assert is_own_output(read_header(saved("failed")))


def test_a_storage_class_that_nobody_knows_gets_its_report(
    read: Callable[[str], Any],
    make_header: MakeHeader,
    orders: Mapping[str, OutputOrder],
    errors_of: ErrorsOf,
    tmp_path: Path,
) -> None:
    order = replace(orders["spine, spacing known"], header=make_header(SOPClassUID="1.2.3.4.5", SeriesInstanceUID=None))
    path = tmp_path / write_structured_report(order, [], tmp_path).file_name
    assert errors_of(path, "Comprehensive3DSR") == []
    assert len(_groups(hd.sr.srread(path))) == 1 + 17 + 16 + 3
