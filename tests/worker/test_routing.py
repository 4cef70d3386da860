"""Routing: which tasks an instance gets, by the shipped rules and by one's own."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from models.errors import ConfigurationError, Reason, Skipped
from models.tasks import Task
from worker.routing import Routing

SHIPPED = Routing.read(None)

# Senders write lower case where the standard wants upper case; pydicom warns of it when a test does the same.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")


def _header(**attributes: object) -> Dataset:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


def _skip_of(routing: Routing, header: Dataset) -> tuple[Reason, str]:
    with pytest.raises(Skipped) as caught:
        routing.tasks_for(header)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize(
    "attributes",
    [
        {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA"},
        {"Modality": "DX", "BodyPartExamined": "chest", "ViewPosition": "ap"},
        {"Modality": "DX", "BodyPartExamined": "THORAX", "ViewPosition": ""},
        {"Modality": "DX", "BodyPartExamined": "LUNG"},
        {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "AP SUPINE"},
        {"Modality": "DX", "BodyPartExamined": "CHEST", "PresentationIntentType": "FOR PRESENTATION"},
        {"Modality": "CR", "StudyDescription": "XR CHEST 2 VIEWS"},
        {"Modality": "CR", "BodyPartExamined": None, "StudyDescription": "Rx torax PA"},
        {"Modality": "CR", "BodyPartExamined": "CHEST", "PatientSpeciesDescription": "Homo sapiens"},
    ],
    ids=str,
)
def test_frontal_chests_get_pneumonia_and_csi_by_the_shipped_rules(attributes: dict[str, object]) -> None:
    assert SHIPPED.tasks_for(_header(**attributes)) == (Task.PNEUMONIA, Task.CSI)


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "LL"}, "lateral or oblique chest"),
        ({"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "LATERAL"}, "lateral or oblique chest"),
        ({"Modality": "DX", "ViewPosition": "RAO", "StudyDescription": "CHEST"}, "lateral or oblique chest"),
        (
            {"Modality": "DX", "BodyPartExamined": "CHEST", "PresentationIntentType": "FOR PROCESSING"},
            "raw detector data, not for presentation",
        ),
        (
            {"Modality": "DX", "BodyPartExamined": "CHEST", "PatientSpeciesDescription": "Canis lupus familiaris"},
            "not a person",
        ),
    ],
    ids=str,
)
def test_what_a_shipped_rule_excludes_is_skipped_with_the_name_of_the_rule(
    attributes: dict[str, object], rule: str
) -> None:
    assert _skip_of(SHIPPED, _header(**attributes)) == (Reason.EXCLUDED_BY_RULE, rule)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"Modality": "CT", "BodyPartExamined": "CHEST"},
        {"Modality": "DX", "BodyPartExamined": "HIP", "ViewPosition": "AP"},
        {"Modality": "DX", "BodyPartExamined": "HIP", "StudyDescription": "CHEST AND HIP"},
        {"Modality": "CR", "StudyDescription": "Hip left"},
        {"Modality": "CR", "StudyDescription": "Orchestra"},
        {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "XYZ"},
        {"Modality": "OT", "BodyPartExamined": "CHEST", "ViewPosition": "PA"},
    ],
    ids=str,
)
def test_what_no_shipped_rule_matches_is_skipped_as_such(attributes: dict[str, object]) -> None:
    assert _skip_of(SHIPPED, _header(**attributes)) == (Reason.NO_RULE_MATCHED, "")


# Spines

WHOLE_SPINES: list[dict[str, object]] = [
    {"Modality": "DX", "BodyPartExamined": "SPINE", "ViewPosition": "AP"},
    {"Modality": "CR", "BodyPartExamined": "wholespine", "ViewPosition": "PA"},
    {"Modality": "DX", "BodyPartExamined": "SPINE", "ViewPosition": "PA STANDING"},
    {"Modality": "DX", "BodyPartExamined": "SPINE", "SeriesDescription": "W-SPINE_AP"},
    {"Modality": "DX", "BodyPartExamined": "SPINE", "ViewPosition": "AP", "StudyDescription": "EOS full body"},
    {"Modality": "DX", "BodyPartExamined": "TLSPINE", "ViewPosition": "PA", "StudyDescription": "XR SCOLIOSIS 2 VIEWS"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "SCOLIOSIS THORACOLUMBAR SPINE"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Whole-spine standing"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "X-RAY SPINE, ENTIRE"},
    {"Modality": "CR", "ViewPosition": "PA", "StudyDescription": "Ganze Wirbelsäule a.p."},
    {"Modality": "CR", "ViewPosition": "PA", "StudyDescription": "Wirbelsäule, Ganzaufnahme"},
    {"Modality": "CR", "ViewPosition": "PA", "StudyDescription": "Skoliose"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Rachis entier de face"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Columna vertebral completa"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Rx rachide in toto"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Coluna vertebral panorâmica"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "Totale wervelkolom"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "全脊柱正位"},
    {"Modality": "CR", "ViewPosition": "AP", "StudyDescription": "X ray", "SeriesDescription": "Full Spine AP"},
]
PART = "part of a spine"
UNKNOWN = "spine, not known to be a whole one from the front"


@pytest.mark.parametrize("attributes", WHOLE_SPINES, ids=str)
def test_whole_spines_from_the_front_get_landmarks_and_nothing_of_a_chest(attributes: dict[str, object]) -> None:
    assert SHIPPED.tasks_for(_header(**attributes)) == (Task.LANDMARKS,)


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"BodyPartExamined": "SPINE", "ViewPosition": "LL"}, "lateral or oblique spine"),
        ({"BodyPartExamined": "WHOLESPINE", "ViewPosition": "LATERAL"}, "lateral or oblique spine"),
        ({"BodyPartExamined": "LSPINE", "ViewPosition": "RPO"}, "lateral or oblique spine"),
        ({"ViewPosition": "RL", "StudyDescription": "Scoliosis"}, "lateral or oblique spine, by description"),
        ({"BodyPartExamined": "CSPINE", "ViewPosition": "AP"}, PART),
        ({"BodyPartExamined": "TSPINE", "ViewPosition": "AP"}, PART),
        ({"BodyPartExamined": "LSPINE", "ViewPosition": "AP", "StudyDescription": "Scoliosis"}, PART),
        ({"BodyPartExamined": "LSSPINE", "ViewPosition": "PA"}, PART),
        (
            {"BodyPartExamined": "SPINE", "ViewPosition": "AP", "StudyDescription": "LUMBAR SPINE 2 VIEWS"},
            f"{PART}, by study description",
        ),
        (
            {"BodyPartExamined": "SPINE", "ViewPosition": "AP", "StudyDescription": "LWS in 2 Ebenen"},
            f"{PART}, by study description",
        ),
        (
            {"BodyPartExamined": "SPINE", "ViewPosition": "AP", "SeriesDescription": "T-Spine AP"},
            f"{PART}, by series description",
        ),
        ({"BodyPartExamined": "SPINE"}, UNKNOWN),
        ({"BodyPartExamined": "SPINE", "SeriesDescription": "AP/LAT"}, UNKNOWN),
        ({"BodyPartExamined": "SPINE", "SeriesDescription": "map of a cap"}, UNKNOWN),
        ({"BodyPartExamined": "TLSPINE", "ViewPosition": "AP"}, UNKNOWN),
        ({"ViewPosition": "AP", "StudyDescription": "Thoracic spine"}, f"{UNKNOWN}, by description"),
        (
            {"ViewPosition": "AP", "StudyDescription": "Whole spine", "SeriesDescription": "L spine"},
            f"{UNKNOWN}, by description",
        ),
        ({"StudyDescription": "Scoliosis series"}, f"{UNKNOWN}, by description"),
        (
            {"ViewPosition": "AP", "StudyDescription": "CHEST AND WHOLE SPINE"},
            "chest and spine in one description, no BodyPartExamined",
        ),
        (
            {"ViewPosition": "AP", "StudyDescription": "SCOLIOSIS, CHEST"},
            "chest and spine in one description, no BodyPartExamined",
        ),
        (
            {"ViewPosition": "AP", "StudyDescription": "CHEST", "SeriesDescription": "whole spine"},
            "study of a chest, series of a spine, no BodyPartExamined",
        ),
        (
            {"ViewPosition": "PA", "StudyDescription": "Scoliosis", "SeriesDescription": "CHEST PA"},
            "study of a spine, series of a chest, no BodyPartExamined",
        ),
    ],
    ids=str,
)
def test_spines_without_a_task_are_skipped_with_the_name_of_the_rule(attributes: dict[str, object], rule: str) -> None:
    assert _skip_of(SHIPPED, _header(Modality="DX", **attributes)) == (Reason.EXCLUDED_BY_RULE, rule)


@pytest.mark.parametrize("description", ["Scoliosis", "Whole spine", "Wirbelsäule ganz"])
@pytest.mark.parametrize("body_part", ["CHEST", "THORAX", "LUNG"])
def test_a_chest_that_is_named_so_gets_no_landmarks_whatever_its_description(description: str, body_part: str) -> None:
    header = _header(Modality="DX", BodyPartExamined=body_part, ViewPosition="PA", StudyDescription=description)
    assert SHIPPED.tasks_for(header) == (Task.PNEUMONIA, Task.CSI)


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_no_description_takes_long_to_compare() -> None:
    header = _header(Modality="DX", ViewPosition="AP", StudyDescription="chest scolio " * 20_000)
    began = time.perf_counter()
    assert _skip_of(SHIPPED, header)[0] is Reason.EXCLUDED_BY_RULE
    assert time.perf_counter() - began < 5


def _rules(tmp_path: Path, text: str) -> Routing:
    path = tmp_path / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return Routing.read(path)


def test_the_first_rule_that_applies_decides(tmp_path: Path) -> None:
    routing = _rules(
        tmp_path,
        """
        [[rule]]
        name = "first"
        tasks = ["csi", "landmarks"]
        match = {Modality = ["DX"]}
        [[rule]]
        name = "second"
        tasks = ["pneumonia"]
        """,
    )
    assert routing.tasks_for(_header(Modality="DX")) == (Task.CSI, Task.LANDMARKS)
    assert routing.tasks_for(_header(Modality="CR")) == (Task.PNEUMONIA,), "a rule without conditions always applies"


@pytest.mark.parametrize(
    ("value", "applies"), [(None, True), ("", True), ("  ", True), ([], True), ("PA", False), (["", "PA"], True)]
)
def test_an_empty_text_stands_for_an_absent_or_empty_attribute(tmp_path: Path, value: object, applies: bool) -> None:
    routing = _rules(tmp_path, '[[rule]]\nname = "n"\ntasks = ["csi"]\nmatch = {ImageType = [""]}')
    header = _header(ImageType=value)
    if applies:
        assert routing.tasks_for(header) == (Task.CSI,)
        assert routing.tasks_for(Dataset()) == (Task.CSI,)
    else:
        assert _skip_of(routing, header)[0] is Reason.NO_RULE_MATCHED


def test_any_of_several_values_may_match_and_none_may_be_excluded(tmp_path: Path) -> None:
    routing = _rules(
        tmp_path,
        """
        [[rule]]
        name = "n"
        tasks = ["csi"]
        match = {ImageType = ["PRIMARY"]}
        unless = {ImageType = ["~local"]}
        """,
    )
    assert routing.tasks_for(_header(ImageType=["DERIVED", "Primary"])) == (Task.CSI,)
    assert _skip_of(routing, _header(ImageType=["PRIMARY", "LOCALIZER"]))[0] is Reason.NO_RULE_MATCHED


def test_a_pattern_is_searched_and_a_plain_value_is_compared_whole(tmp_path: Path) -> None:
    routing = _rules(
        tmp_path,
        """
        [[rule]]
        name = "n"
        tasks = ["csi"]
        match = {StudyDescription = ["~^spine\\\\b", "BACK (LONG)"]}
        """,
    )
    for description in ("Spine AP", "back (long)"):
        assert routing.tasks_for(_header(StudyDescription=description)) == (Task.CSI,)
    for description in ("Spinecare", "Whole spine", "BACK"):
        assert _skip_of(routing, _header(StudyDescription=description))[0] is Reason.NO_RULE_MATCHED


def test_numbers_are_compared_as_text(tmp_path: Path) -> None:
    routing = _rules(tmp_path, '[[rule]]\nname = "n"\ntasks = ["csi"]\nmatch = {Rows = ["512"]}')
    assert routing.tasks_for(_header(Rows=512)) == (Task.CSI,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[rule]]\nname = "n"\ntasks = ["cancer"]', "rule.0.tasks.0: Input should be 'pneumonia'"),
        ("[[rule]]\ntasks = []", "rule.0.name: Field required"),
        ('[[rule]]\nname = ""\ntasks = []', "rule.0.name: String should have at least 1 character"),
        (
            '[[rule]]\nname = "n"\ntasks = []\nmatch = {BodyPart = ["CHEST"]}',
            "rule.0.match: Value error, BodyPart is not a DICOM keyword",
        ),
        (
            '[[rule]]\nname = "n"\ntasks = []\n[[rule]]\nname = "m"\ntasks = []\nunless = {Modality = ["~("]}',
            "rule.1.unless: Value error, ~( is not a regular expression",
        ),
        ('[[rule]]\nname = "n"\ntasks = []\nmatch = {Modality = "CR"}', "rule.0.match.Modality: "),
        ('[[rule]]\nname = "n"\ntasks = []\nmacth = {}', "rule.0.macth: Extra inputs are not permitted"),
        ("[[rules]]\n", "rule: Field required"),
        ("[[rule]\n", "is not TOML"),
    ],
)
def test_a_wrong_rule_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _rules(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"routing rules: {tmp_path / 'rules.toml'}")
    assert expected in message
    assert "\n" not in message


def test_a_rules_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^routing rules: cannot read .*none\.toml: No such file"):
        Routing.read(tmp_path / "none.toml")


def test_rules_travel_to_the_decoding_processes() -> None:
    again = pickle.loads(pickle.dumps(SHIPPED))
    assert again == SHIPPED
    assert again.tasks_for(_header(Modality="CR", BodyPartExamined="CHEST")) == (Task.PNEUMONIA, Task.CSI)
