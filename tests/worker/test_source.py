"""What the records keep of a source instance, and of the patient what is allowed."""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from models.errors import Reason, Unprocessable
from models.records.base import Base
from models.records.dicom import Series, Study
from models.records.patient_identity import ATTRIBUTES
from models.settings import PatientIdentity
from worker.known_terms import known_term
from worker.source import IdentityPolicy, SourceFacts, read_facts

FULL = IdentityPolicy(PatientIdentity.FULL)
PSEUDONYMISED = IdentityPolicy(PatientIdentity.PSEUDONYMISED, b"a key of the clinic")
NONE = IdentityPolicy(PatientIdentity.NONE)

UNWANTED = ("study_description", "series_description", "manufacturer", "manufacturer_model_name", "patient_id_issuer")
"""Texts that may hold anything."""
IDENTIFYING = ("patient_id", "patient_name", "patient_birth_date", "patient_sex", "accession_number", "study_date")


@pytest.fixture
def header() -> Dataset:
    header = Dataset()
    header.StudyInstanceUID = "1.2.3"
    header.SeriesInstanceUID = "1.2.3.4"
    header.AccessionNumber = "ACC1"
    header.StudyDate = "20260131"
    header.StudyDescription = "CHEST PA"
    header.PatientID = "ID7"
    header.IssuerOfPatientID = "CLINIC"
    header.PatientName = "Doe^Jane"
    header.PatientBirthDate = "19700101"
    header.PatientSex = "F"
    header.Modality = "DX"
    header.BodyPartExamined = "CHEST"
    header.SeriesDescription = "PA"
    header.Manufacturer = "Maker"
    header.ManufacturerModelName = "Model"
    header.InstanceNumber = "12"
    header.ViewPosition = "PA"
    header.ImageLaterality = "U"
    return header


def test_with_full_identity_everything_is_kept(header: Dataset) -> None:
    assert read_facts(header, FULL) == SourceFacts(
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        accession_number="ACC1",
        study_date=date(2026, 1, 31),
        study_description="CHEST PA",
        patient_id="ID7",
        patient_id_issuer="CLINIC",
        patient_name="Doe^Jane",
        patient_birth_date=date(1970, 1, 1),
        patient_sex="F",
        modality="DX",
        body_part_examined="CHEST",
        series_description="PA",
        manufacturer="Maker",
        manufacturer_model_name="Model",
        instance_number=12,
        view_position="PA",
        laterality="U",
    )


def _hashed(text: str, key: bytes = b"a key of the clinic") -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]


def test_pseudonymised_identifiers_are_keyed_hashes_and_texts_are_gone(header: Dataset) -> None:
    assert read_facts(header, PSEUDONYMISED) == replace(
        read_facts(header, FULL),
        patient_id=_hashed("CLINIC\0ID7"),
        accession_number=_hashed("ACC1"),
        patient_name=None,
        patient_birth_date=None,
        **dict.fromkeys(UNWANTED),
    )


def test_a_pseudonym_is_that_of_one_patient_of_one_issuer_under_one_key(header: Dataset) -> None:
    def pseudonym(policy: IdentityPolicy = PSEUDONYMISED, **changes: str) -> str | None:
        for keyword, value in {"PatientID": "ID7", "IssuerOfPatientID": "CLINIC", **changes}.items():
            setattr(header, keyword, value)
        return read_facts(header, policy).patient_id

    assert pseudonym() == pseudonym(PatientID=" ID7 ", IssuerOfPatientID="CLINIC ", PatientName="Roe^Jane")
    others = {
        pseudonym(PatientID="ID8"),
        pseudonym(PatientID="id7"),
        pseudonym(IssuerOfPatientID="OTHER CLINIC"),
        pseudonym(IssuerOfPatientID=""),
        pseudonym(IssuerOfPatientID="CLINICI", PatientID="D7"),
        pseudonym(IdentityPolicy(PatientIdentity.PSEUDONYMISED, b"a key of another one")),
    }
    assert len(others) == 6
    assert pseudonym() not in others
    header.PatientID = header.AccessionNumber = "ID7"
    header.IssuerOfPatientID = ""
    facts = read_facts(header, PSEUDONYMISED)
    assert facts.patient_id != facts.accession_number, "a number that is both is not linked by its hash"


@pytest.mark.filterwarnings("ignore:.*The value length.*exceeds:UserWarning")
def test_identifiers_that_are_too_long_are_hashed_whole_or_left_out(header: Dataset) -> None:
    pseudonyms = set()
    for end in "ab":
        header.PatientID = "7" * 64 + end
        header.AccessionNumber = "8" * 64 + end
        assert (read_facts(header, FULL).patient_id, read_facts(header, FULL).accession_number) == (None, None)
        pseudonyms |= {read_facts(header, PSEUDONYMISED).patient_id, read_facts(header, PSEUDONYMISED).accession_number}
    assert len(pseudonyms) == 4
    header.PatientID = "7" * 64
    assert read_facts(header, FULL).patient_id == "7" * 64


def test_the_key_is_in_no_text_of_a_policy() -> None:
    assert "clinic" not in repr(PSEUDONYMISED)


def test_without_identity_nothing_of_the_patient_is_kept(header: Dataset) -> None:
    assert read_facts(header, NONE) == replace(read_facts(header, FULL), **dict.fromkeys((*IDENTIFYING, *UNWANTED)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("policy", [PSEUDONYMISED, NONE], ids=lambda policy: policy.mode.value)
def test_a_name_in_any_attribute_is_not_kept(header: Dataset, policy: IdentityPolicy) -> None:
    named = [element.keyword for element in header if element.VR not in {"UI", "IS"}]
    assert len(named) == 15
    for keyword in named:
        setattr(header, keyword, "DOE")
    facts = read_facts(header, policy)
    texts = [value for name in SourceFacts.__slots__ if isinstance(value := getattr(facts, name), str)]
    assert not [text for text in texts if "DOE" in text]
    hashes = {"patient_id", "accession_number"} if policy is PSEUDONYMISED else set()
    kept = {field.name for field in fields(facts) if getattr(facts, field.name) is not None}
    assert kept == {"study_instance_uid", "series_instance_uid", "instance_number"} | hashes


@pytest.mark.parametrize("policy", [PSEUDONYMISED, NONE], ids=lambda policy: policy.mode.value)
def test_code_strings_are_kept_as_the_terms_that_they_are(header: Dataset, policy: IdentityPolicy) -> None:
    header.Modality, header.BodyPartExamined, header.ViewPosition = "CR", "WHOLE SPINE", "LATERAL"
    facts = read_facts(header, policy)
    assert (facts.modality, facts.body_part_examined, facts.view_position) == ("CR", "WHOLE SPINE", "LATERAL")
    assert known_term("body_part_examined", " Chest ") == "CHEST"
    assert known_term("body_part_examined", "CHEST OF DOE") is None


def test_every_term_of_the_shipped_routing_rules_is_known(project_root: Path) -> None:
    rules = tomllib.loads((project_root / "worker" / "routing.toml").read_text())["rule"]
    columns = {"Modality": "modality", "BodyPartExamined": "body_part_examined", "ViewPosition": "view_position"}
    named = {
        (columns[keyword], value)
        for rule in rules
        for keyword, values in rule["match"].items()
        if keyword in columns
        for value in values
        if value and not value.startswith("~")
    }
    assert len(named) > 20
    assert {(column, value) for column, value in named if known_term(column, value) != value} == set()


def test_every_column_that_a_sender_fills_is_in_the_table_of_modes() -> None:
    facts = {field.name for field in fields(SourceFacts)}
    of_the_wire = {"sop_class_uid", "sop_instance_uid", "transfer_syntax_uid", "calling_ae_title"}
    assert {attribute.column for attribute in ATTRIBUTES} == facts | of_the_wire
    columns = {(attribute.table, attribute.column) for attribute in ATTRIBUTES}
    for table in (Study.__table__, Series.__table__):
        filled = {(table.name, column.name) for column in table.columns} - {
            ("study", "id"),
            ("series", "id"),
            ("series", "study_id"),
        }
        assert filled <= columns, "a new column of a study or series needs a decision for each mode"
    assert all(attribute.column in Base.metadata.tables[attribute.table].columns for attribute in ATTRIBUTES)


def test_absent_attributes_are_none(header: Dataset) -> None:
    bare = Dataset()
    bare.StudyInstanceUID, bare.SeriesInstanceUID = "1", "2"
    facts = read_facts(bare, FULL)
    given = {field.name for field in fields(facts) if getattr(facts, field.name) is not None}
    assert given == {"study_instance_uid", "series_instance_uid"}
    assert read_facts(bare, PSEUDONYMISED).patient_id is None, "nothing is not hashed to something"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "no uid", "1.2/3", "1" * 65])
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*The value length.*exceeds:UserWarning")
def test_an_instance_that_belongs_nowhere_is_unprocessable(header: Dataset, keyword: str, value: str | None) -> None:
    setattr(header, keyword, value)
    with pytest.raises(Unprocessable) as caught:
        read_facts(header, FULL)
    assert caught.value.reason is Reason.MALFORMED_DATASET
    assert caught.value.detail == f"{keyword} is missing or invalid"


def _raw(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value


@pytest.fixture
def from_wire() -> Callable[..., SourceFacts]:
    """Facts of a dataset as its bytes come, values unchecked."""

    def read(*elements: tuple[int, int, bytes, bytes]) -> SourceFacts:
        uids = [(0x0020, 0x000D, b"UI", b"1.2\x00"), (0x0020, 0x000E, b"UI", b"1.3\x00")]
        encoded = b"".join(_raw(*element) for element in sorted([*elements, *uids]))
        return read_facts(read_dataset(BytesIO(encoded), False, True), FULL)

    return read


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", [b"20261301", b"yesterday", b"2026", b"20260101-20261231", b"\xff\xfe", b"00000000"])
def test_a_date_that_is_none_is_absent(from_wire: Callable[..., SourceFacts], value: bytes) -> None:
    assert from_wire((0x0008, 0x0020, b"DA", value)).study_date is None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"7", 7), (b" 8 ", 8), (b"x", None), (b"1.5", None), (b"99999999999", None), (b"1\\2", None), (b"", None)],
)
def test_an_instance_number_that_the_records_cannot_hold_is_absent(
    from_wire: Callable[..., SourceFacts], value: bytes, expected: int | None
) -> None:
    assert from_wire((0x0020, 0x0013, b"IS", value)).instance_number == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_texts_are_cut_to_what_the_records_take_and_freed_of_control_characters(
    from_wire: Callable[..., SourceFacts],
) -> None:
    facts = from_wire(
        (0x0008, 0x0005, b"CS", b"ISO_IR 192"),
        (0x0008, 0x1030, b"LO", b"a" * 100),
        (0x0008, 0x103E, b"LO", b"nul\x00 bell\x07 \x1b[2Jescape"),
        (0x0008, 0x0070, b"LO", b"One\\Two"),
        (0x0008, 0x1090, b"LO", "山田　太郎".encode()),
        (0x0018, 0x0015, b"CS", b"  "),
        (0x0010, 0x0010, b"PN", "Müller^Jörg=山田".encode()),
    )
    assert facts.study_description == "a" * 64
    assert facts.series_description == "nul bell [2Jescape"
    assert facts.manufacturer == "One\\Two"
    assert facts.manufacturer_model_name == "山田　太郎"
    assert facts.body_part_examined is None
    assert facts.patient_name == "Müller^Jörg=山田"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_that_fit_no_character_set_are_still_storable_text(from_wire: Callable[..., SourceFacts]) -> None:
    facts = from_wire((0x0008, 0x0005, b"CS", b"ISO_IR 192"), (0x0010, 0x0010, b"PN", b"\xff\xfe^\x80"))
    assert facts.patient_name is not None
    facts.patient_name.encode("utf-8")


def test_the_laterality_of_the_image_comes_before_that_of_the_series(header: Dataset) -> None:
    header.Laterality = "L"
    assert read_facts(header, FULL).laterality == "U"
    del header.ImageLaterality
    assert read_facts(header, FULL).laterality == "L"
