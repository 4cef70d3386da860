"""DICOM files with a table of labels: found by name or UID, persons from the header, refusals with a line number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ConfigurationError
from training.datasets.labelled import LabelledImages, read_labelled
from training.datasets.listing import Format

LABELS = ("NORMAL", "PNEUMONIA")
WriteDicom = Callable[..., Path]
Noise = Callable[[int], NDArray[np.uint16]]


@pytest.fixture
def instances(tmp_path: Path, write_dicom: WriteDicom, noise: Noise) -> Path:
    """Four instances of three patients; one file has no suffix, as PACS exports have it."""
    write_dicom(tmp_path / "a" / "1.dcm", noise(1), "1.2.1", PatientID="P1")
    write_dicom(tmp_path / "a" / "2.dcm", noise(2), "1.2.2", PatientID="P1", IssuerOfPatientID="")
    write_dicom(tmp_path / "b" / "IM0003", noise(3), "1.2.3", PatientID="P1", IssuerOfPatientID="elsewhere")
    write_dicom(tmp_path / "b" / "4.dcm", noise(4), "1.2.4", PatientID="", StudyInstanceUID="1.2.99")
    return tmp_path


def read(directory: Path, *lines: str, split: str | None = None) -> LabelledImages:
    (directory / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_labelled(directory, LABELS, split=split)


def test_files_are_found_by_name(instances: Path) -> None:
    found = read(instances, "file,label", "a/1.dcm,normal", r"b\IM0003,PNEUMONIA", "c/9.dcm,NORMAL")
    assert found.format is Format.DICOM_CSV
    assert [(image.source, image.label) for image in found.images] == [("a/1.dcm", 0), ("b/IM0003", 1)]
    assert found.missing == ("c/9.dcm",)


def test_files_are_found_by_sop_instance_uid(instances: Path) -> None:
    found = read(instances, "sop_instance_uid,label", "1.2.4,NORMAL", "1.2.3,PNEUMONIA", "1.2.5,NORMAL")
    assert [(image.source, image.label) for image in found.images] == [("b/4.dcm", 0), ("b/IM0003", 1)]
    assert found.missing == ("1.2.5",)


def test_a_person_is_the_patient_of_the_header_under_a_pseudonym(instances: Path) -> None:
    found = read(instances, "file,label", "a/1.dcm,NORMAL", "a/2.dcm,NORMAL", "b/IM0003,PNEUMONIA", "b/4.dcm,PNEUMONIA")
    first, second, other_issuer, study = (
        next(image.person for image in found.images if image.source == source)
        for source in ("a/1.dcm", "a/2.dcm", "b/IM0003", "b/4.dcm")
    )
    assert first == second != other_issuer
    assert "P1" not in first
    assert study.startswith("study-")


def test_the_table_overrules_the_header(instances: Path) -> None:
    found = read(instances, "file,label,person", "a/1.dcm,NORMAL,anna", "a/2.dcm,PNEUMONIA,bert")
    assert [image.person for image in found.images] == ["anna", "bert"]


def test_the_table_may_name_splits(instances: Path) -> None:
    lines = ("file,label,split", "a/1.dcm,NORMAL,train", "a/2.dcm,PNEUMONIA,train", "b/4.dcm,NORMAL,test")
    assert [image.source for image in read(instances, *lines, split="train").images] == ["a/1.dcm", "a/2.dcm"]
    with pytest.raises(ConfigurationError, match="no split val; there are test, train"):
        read(instances, *lines, split="val")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,label", "a/1.dcm,NORMAL", "a/2.dcm,ill"), "line 3 has a label that is none of NORMAL, PNEUMONIA"),
        (("file,label", "a/1.dcm,NORMAL", "a/./1.dcm,PNEUMONIA"), "line 3 names a file that an earlier line names"),
        (("file,label", "a/1.dcm,NORMAL", "../secret.dcm,PNEUMONIA"), "no readable image of class PNEUMONIA"),
    ],
    ids=["label", "twice", "outside"],
)
def test_a_table_that_cannot_be_right_is_refused(instances: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(instances, *lines)


def test_several_tables_are_not_guessed_between(instances: Path) -> None:
    (instances / "other.csv").write_text("file,label\n")
    with pytest.raises(ConfigurationError, match="several tables of labels; choose one with --labels-csv"):
        read(instances, "file,label", "a/1.dcm,NORMAL")
