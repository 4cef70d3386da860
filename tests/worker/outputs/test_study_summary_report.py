"""Study summaries: every checker takes them, and other readers than ours read in them what the records say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[2] / "stand_ins"))

from patient_names import KOREAN, LATIN, NAMES
from stand_in_records import Records
from summarised_study import CR, PDF, STUDY_UID, write_study

from models.pixels.header import read_header
from models.records.dicom import InstanceState
from models.records.spine import SlipFinding
from models.zones import Zone
from worker.outputs import summary_groups
from worker.outputs.common_modules import OutputOrder
from worker.outputs.loop_guard import is_own_output
from worker.outputs.secondary_capture import write_secondary_capture
from worker.outputs.structured_report import write_structured_report
from worker.outputs.study_summary_report import SummaryOrder, build_study_summary, summary_uid, write_study_summary
from worker.study_summary import Reference, StudyFacts, read_study

Sessions = sessionmaker[Session]
ErrorsOf = Callable[..., list[str]]
MakeHeader = Callable[..., Dataset]

IOD = "Comprehensive3DSR"
NOW = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
BEFORE = Reference("1.2.840.10008.5.1.4.1.1.88.34", "2.25.91", "2.25.92")
CSI, COBB, CHANGE = "MEAN_CSI", "285285000", "CHANGE"


@pytest.fixture
def read(sqlite_sessions: Sessions) -> Callable[..., StudyFacts]:
    """Write records by a function, by default all that can be told, and read what a summary of them says."""

    def make(write: Callable[[Records], Any] = write_study) -> StudyFacts:
        with sqlite_sessions.begin() as session:
            records = Records(session)
            write(records)
            return read_study(session, records.study(STUDY_UID))

    return make


def _only(state: InstanceState, reason: str | None, sop_class_uid: str = CR) -> Callable[[Records], None]:
    def write(records: Records) -> None:
        series = records.series(STUDY_UID, f"{STUDY_UID}.1")
        records.instance(f"{STUDY_UID}.1.1", series, state, reason=reason, sop_class_uid=sop_class_uid)

    return write


def _ungradable(records: Records) -> None:
    film = records.instance(f"{STUDY_UID}.1.1", records.series(STUDY_UID, f"{STUDY_UID}.1"), sop_class_uid=CR)
    records.congestion(film, (None,) * 6, None, None)


CONTENTS: dict[str, Callable[[Records], Any]] = {
    "all": write_study,
    "no earlier study": lambda records: write_study(records, earlier=False),
    "one skipped": _only(InstanceState.SKIPPED, "no_rule_matched"),
    "one skipped that is no image": _only(InstanceState.SKIPPED, "not_a_radiograph", PDF),
    "one of an unknown class": _only(InstanceState.SKIPPED, "not_a_radiograph", "2.25.555"),
    "one failed for a reason of another version": _only(InstanceState.FAILED, "of_tomorrow"),
    "one waiting": _only(InstanceState.QUEUED, None),
    "all ungradable": _ungradable,
}


# What the checkers and peers say


@pytest.mark.parametrize("content", CONTENTS)
def test_it_is_valid_whatever_it_says(
    content: str, read: Callable[..., StudyFacts], make_header: MakeHeader, errors_of: ErrorsOf, tmp_path: Path
) -> None:
    order = SummaryOrder(make_header(), read(CONTENTS[content]), BEFORE, 2)
    path = tmp_path / write_study_summary(order, tmp_path).file_name
    assert errors_of(path, IOD) == []
    assert hd.sr.srread(path).content is not None


@pytest.mark.parametrize(("declared", "name", "expected"), NAMES)
def test_names_in_any_character_set_are_copied_as_bytes(
    declared: bytes | None,
    name: bytes,
    expected: str | list[str] | None,
    read: Callable[..., StudyFacts],
    make_header: MakeHeader,
    errors_of: ErrorsOf,
    tmp_path: Path,
) -> None:
    header = make_header(SpecificCharacterSet=declared, PatientName=name)
    facts = read(CONTENTS["one skipped"])
    path = tmp_path / write_study_summary(SummaryOrder(header, facts), tmp_path).file_name
    if expected != "GBK":  # which dciodvfy does not know
        assert errors_of(path, IOD) == []
    written = pydicom.dcmread(path)
    assert written.get("SpecificCharacterSet") == expected
    assert name in path.read_bytes()


@pytest.mark.parametrize("kind", ["structured report", "secondary capture", "summary"])
@pytest.mark.parametrize(("declared", "name"), [(b"\\ISO 2022 IR 149", KOREAN), (None, LATIN)])
def test_an_output_of_ours_gives_the_very_bytes_that_its_source_gave(
    kind: str,
    declared: bytes | None,
    name: bytes,
    read: Callable[..., StudyFacts],
    make_header: MakeHeader,
    make_order: Callable[[Dataset], OutputOrder],
    tmp_path: Path,
) -> None:
    source = make_header(SpecificCharacterSet=declared, PatientName=name, IssuerOfPatientID="CLINIC", PatientAge="076Y")
    facts = read(CONTENTS["one skipped"])
    if kind == "summary":
        output = write_study_summary(SummaryOrder(source, facts), tmp_path)
    elif kind == "structured report":
        output = write_structured_report(make_order(source), [], tmp_path)
    else:
        output = write_secondary_capture(make_order(source), np.zeros((16, 16, 3), np.uint8), tmp_path)
    header = read_header(tmp_path / output.file_name)
    of_source, of_output = (build_study_summary(SummaryOrder(each, facts), NOW) for each in (source, header))
    tags = [each for each in sorted(of_source.keys()) if each.group in (0x0010, 0x0020) or each == 0x00080005]
    assert len(tags) >= 10
    assert [of_output.get_item(tag) for tag in tags] == [of_source.get_item(tag) for tag in tags]
    assert of_output.get_item(0x00100010).value.rstrip(b" ") == name


@pytest.mark.peers
def test_dcmtk_stores_it(
    read: Callable[..., StudyFacts], make_header: MakeHeader, tmp_path: Path, dcmtk_storescp: Any
) -> None:
    header = make_header(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN)
    path = tmp_path / write_study_summary(SummaryOrder(header, read(), BEFORE), tmp_path).file_name
    assert dcmtk_storescp.send(path) == 0x0000
    (stored,) = dcmtk_storescp.directory.iterdir()
    assert pydicom.dcmread(stored, force=True) == pydicom.dcmread(path)


@pytest.mark.peers
def test_orthanc_stores_it_and_gives_it_back(
    read: Callable[..., StudyFacts], make_header: MakeHeader, tmp_path: Path, orthanc: Any
) -> None:
    header = make_header(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN)
    path = tmp_path / write_study_summary(SummaryOrder(header, read(), BEFORE), tmp_path).file_name
    assert orthanc.send(path) == 0x0000
    (identifier,) = json.loads(orthanc.get("/instances"))
    assert pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{identifier}/file"))) == pydicom.dcmread(path)
    told = json.loads(orthanc.get(f"/instances/{identifier}/simplified-tags"))
    assert (told["SeriesDescription"], told["SeriesNumber"]) == ("AI study summary", "9905")
    assert "홍^길동" in told["PatientName"]


# What other readers read in it


@pytest.fixture
def report(read: Callable[..., StudyFacts], make_header: MakeHeader, tmp_path: Path) -> Path:
    """The summary of everything."""
    return tmp_path / write_study_summary(SummaryOrder(make_header(), read(), BEFORE, 2), tmp_path).file_name


def _groups(report: Path, name: str) -> list[Any]:
    groups = hd.sr.srread(report).content.get_image_measurement_groups()
    return [group for group in groups if group.tracking_identifier == f"study summary {name}"]


def _numbers(group: Any) -> dict[str, float]:
    return {each.name.value: each.value for each in group.get_measurements()}


def test_highdicom_reads_the_very_numbers_of_the_records(report: Path, sqlite_sessions: Sessions) -> None:
    zones = [zone.value for zone in Zone]
    columns = ", ".join(f"MAX(csi_{zone})" for zone in zones)
    with sqlite_sessions() as session:
        of_study = {"uid": STUDY_UID}
        (probability, positive, mean, degrees), scores = (
            session.execute(text(f"SELECT {chosen} WHERE study_instance_uid = :uid"), of_study).one()
            for chosen in (
                "pneumonia_probability, pneumonia_positive, csi_mean, cobb_main FROM study_findings",
                f"{columns} FROM instance_findings",
            )
        )
        slip = session.query(SlipFinding).one().percent
    assert (probability, positive, mean, degrees, slip) == (0.8125, 1, 2.4, 31.25, 27.5)
    (pneumonia,), (csi,), (curve,), (slips,) = (
        _groups(report, name) for name in ("pneumonia", "csi mean", "curve main", "slip")
    )
    assert _numbers(pneumonia) == {"122157": 100 * probability}
    assert _numbers(csi) == {CSI: mean}
    assert _numbers(curve) == {COBB: degrees}
    assert _numbers(slips) == {"SLIP_PERCENT": slip, "MEYERDING": 2}
    assert [_numbers(_groups(report, f"csi {zone}")[0]).get("ZONE_SCORE") for zone in zones] == list(scores)
    present = pneumonia.get_qualitative_evaluations()
    assert [(each.name.value, each.value.value) for each in present] == [("233604007", "52101004")]


def test_highdicom_reads_the_trend_in_its_order(report: Path) -> None:
    def points(name: str) -> list[tuple[str, dict[str, float]]]:
        found = []
        for group in _groups(report, name):
            items = {item.name.value: item for item in group[0].ContentSequence}
            assert items["111060"].value.strftime("%Y-%m-%d") == items["C2348792"].value
            found.append((items["C2348792"].value, _numbers(group)))
        return found

    assert points("trend csi_mean") == [
        ("2025-01-01", {CSI: 1.0}),
        ("2025-02-01", {CSI: 1.5}),
        ("2026-03-01", {CSI: 2.4, CHANGE: 2.4 - 1.5}),
    ]
    assert points("trend cobb_main") == [
        ("2025-01-01", {COBB: 20.0}),
        ("2025-02-01", {COBB: 24.5}),
        ("2026-03-01", {COBB: 31.25, CHANGE: 6.75}),
    ]


@pytest.mark.peers
def test_dsrdump_reads_counts_reasons_and_findings(report: Path, dsrdump: str) -> None:
    done = subprocess.run([dsrdump, "+Pl", report], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in done.stdout.splitlines()]
    for expected in (
        '<contains NUM:(,,"Number of instances analysed")="3.0" (1,UCUM,"no units")>',
        '<contains NUM:(,,"Number of instances skipped")="1.0" (1,UCUM,"no units")>',
        '<contains NUM:(,,"Number of instances whose analysis failed")="1.0" (1,UCUM,"no units")>',
        '<contains CODE:(,,"Why the image was not analysed")=(not_a_radiograph,99RADSTREAM,"It is no radiograph")>',
        '<contains CODE:(,,"Why the image was not analysed")=(decode_timeout,99RADSTREAM,"Decoding it took too long")>',
        '<contains NUM:(,,"Probability")="81.25" (%,UCUM,"percent")>',
        '<contains CODE:(,,"Pneumonia")=(52101004,SCT,"Present")>',
        '<contains CODE:(,,"Class of heart failure by the mean")=(HF_HIGH,99RADSTREAM,"Heart failure class high")>',
        '<contains NUM:(,,"Cobb angle")="31.25" (deg,UCUM,"degree")>',
        '<contains NUM:(,,"Slip in lengths of the lower end plate")="27.5" (%,UCUM,"percent")>',
        '<contains UIDREF:(,,"Procedure Study Instance UID")="1.2.7.1">',
    ):
        assert expected in lines
    assert "Predecessor Docs    : 1" in lines
    assert done.stderr == ""


def test_the_words_say_the_same(report: Path) -> None:
    words = [item.TextValue for item in pydicom.dcmread(report).ContentSequence if item.ValueType == "TEXT"]
    assert words[-2] == (
        "Instances of the study: 5; 3 analysed, 1 skipped, 1 failed."
        " Failed, which says nothing about the patient: decode_timeout (1)."
        " Skipped, which says nothing about the patient: not_a_radiograph (1)."
        " pneumonia 1.0: pneumonia, highest probability 0.812 (threshold 0.500)."
        " normality 1.0: normal, highest probability 0.406 (threshold 0.500)."
        " csi 3.0: highest mean CSI 2.40, heart failure class high, 5 of 6 zones gradable."
        " landmarks 5.0: main curve 31.2 deg, T4 to T11. landmarks 5.0: upper curve 12.0 deg, T1 to T4."
        " landmarks 5.0: lower curve 9.5 deg, T1 to T4. landmarks 5.0: anterolisthesis of L4/L5, 27.5 percent."
        " A person should look at the landmarks of 1 instances."
        " Earlier mean CSI: 2025-01-01 1.00, 2025-02-01 1.50; now 2.40, change since the last +0.90."
        " Earlier main Cobb angle: 2025-01-01 20.00 deg, 2025-02-01 24.50 deg; now 31.25 deg, change since the last"
        " +6.75 deg."
    )
    assert words[-1] == "Research use only - not a medical device"


# References


def test_whatever_the_content_names_is_in_the_evidence_once_and_nothing_else(report: Path) -> None:
    dataset = pydicom.dcmread(report)
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    evidence = [
        (series.SeriesInstanceUID, each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    ]
    sr = BEFORE.sop_class_uid
    assert sorted(evidence) == [
        (f"{STUDY_UID}.1", CR, f"{STUDY_UID}.1.1"),
        (f"{STUDY_UID}.1", CR, f"{STUDY_UID}.1.2"),
        (f"{STUDY_UID}.1", CR, f"{STUDY_UID}.1.9"),
        (f"{STUDY_UID}.1", PDF, f"{STUDY_UID}.1.8"),
        (f"{STUDY_UID}.2", CR, f"{STUDY_UID}.2.1"),
        ("2.25.80", sr, "2.25.1"),
        ("2.25.80", sr, "2.25.2"),
    ]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item.ValueType
        for item in _all_items(dataset)
        if "ReferencedSOPSequence" in item
    }
    assert set(named) == {uid for _, _, uid in evidence}
    assert {named[uid] for _, kind, uid in evidence if kind == CR} == {"IMAGE"}
    assert {named[uid] for _, kind, uid in evidence if kind != CR} == {"COMPOSITE"}


def _all_items(item: Dataset) -> list[Dataset]:
    inner = [each for content in item.get("ContentSequence", []) for each in _all_items(content)]
    return [item, *inner]


def test_of_very_many_that_were_not_analysed_some_are_named_and_all_are_counted(
    read: Callable[..., StudyFacts], make_header: MakeHeader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(records: Records) -> None:
        series = records.series(STUDY_UID, f"{STUDY_UID}.1")
        for number in range(7):
            records.instance(f"{STUDY_UID}.1.{number}", series, InstanceState.SKIPPED, reason="no_rule_matched")

    monkeypatch.setattr(summary_groups, "REFERENCES_AT_MOST", 3)
    path = tmp_path / write_study_summary(SummaryOrder(make_header(), read(write)), tmp_path).file_name
    (group,) = _groups(path, "skipped no_rule_matched")
    assert _numbers(group) == {"INSTANCES": 7}
    (study,) = pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence
    assert len(study.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 3


# What it is


def test_the_same_content_is_the_same_object_whoever_tells_of_the_patient(
    read: Callable[..., StudyFacts], make_header: MakeHeader
) -> None:
    facts = read()
    one, two = (
        build_study_summary(SummaryOrder(make_header(SeriesInstanceUID=uid, SOPInstanceUID=uid), facts), NOW)
        for uid in ("1.2.3", "1.2.4")
    )
    assert one == two
    assert one.SOPInstanceUID == summary_uid(facts)


def test_the_loop_guard_knows_it(report: Path) -> None:
    dataset = pydicom.dcmread(report)
    assert is_own_output(dataset)
    del dataset.Manufacturer
    assert is_own_output(dataset), "an archive coerced it"


@pytest.mark.parametrize(("content", "flag"), [("all", "COMPLETE"), ("one waiting", "PARTIAL")])
def test_it_is_partial_while_instances_wait(
    content: str, flag: str, read: Callable[..., StudyFacts], make_header: MakeHeader
) -> None:
    dataset = build_study_summary(SummaryOrder(make_header(), read(CONTENTS[content])), NOW)
    assert dataset.CompletionFlag == flag
    assert ("CurrentRequestedProcedureEvidenceSequence" in dataset) == (flag == "COMPLETE")
