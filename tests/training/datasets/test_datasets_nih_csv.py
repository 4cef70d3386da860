"""The NIH table: findings become classes of a task, images lie anywhere, lists say the splits."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import ConfigurationError
from training.datasets.labelled import list_files, read_labelled
from training.datasets.listing import Format

PNEUMONIA = ("NORMAL", "PNEUMONIA")
NORMALITY = ("Normal", "Abnormal")

ROWS = {
    "00000001_000.png": ("No Finding", 1),
    "00000001_001.png": ("Effusion|Pneumonia", 1),
    "00000002_000.png": ("Cardiomegaly", 2),
    "00000003_000.png": ("No Finding", 3),
    "00000004_000.png": ("Pneumonia", 4),
    "00000005_000.png": ("No Finding", 5),  # not downloaded
}


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"]
    lines += [f"{name},{findings},0,{patient},58" for name, (findings, patient) in ROWS.items()]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines))
    for number, name in enumerate(list(ROWS)[:5]):
        folder = tmp_path / f"images_00{number % 2}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((16, 16), 20 * number, np.uint8))
    return tmp_path


def labels_of(directory: Path, classes: tuple[str, str], split: str | None = None) -> dict[str, int]:
    return {image.path.name[:12]: image.label for image in read_labelled(directory, classes, split=split).images}


def test_pneumonia_is_every_row_that_names_it_and_other_findings_are_left_out(nih: Path) -> None:
    expected = {"00000001_000": 0, "00000001_001": 1, "00000003_000": 0, "00000004_000": 1}
    assert labels_of(nih, PNEUMONIA) == expected
    assert list_files(nih, PNEUMONIA).left_out == 1


def test_abnormal_is_every_finding(nih: Path) -> None:
    assert labels_of(nih, NORMALITY) == {
        **{"00000001_000": 0, "00000001_001": 1, "00000002_000": 1, "00000003_000": 0, "00000004_000": 1}
    }


def test_persons_are_the_patients_and_absent_images_are_named(nih: Path) -> None:
    found = read_labelled(nih, PNEUMONIA)
    assert found.format is Format.NIH_CSV
    assert found.missing == ("00000005_000.png",)
    persons = {image.path.name: image.person for image in found.images}
    assert persons["00000001_000.png"] == persons["00000001_001.png"] == "nih-1"
    assert found.images[0].source == "images_000/images/00000001_000.png"


def test_the_lists_say_the_splits(nih: Path) -> None:
    (nih / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (nih / "test_list.txt").write_text("00000003_000.png\n00000004_000.png\n")
    assert set(labels_of(nih, PNEUMONIA, "train")) == {"00000001_000", "00000001_001"}
    assert set(labels_of(nih, PNEUMONIA, "test")) == {"00000003_000", "00000004_000"}
    assert {i.split for i in read_labelled(nih, PNEUMONIA).images} == {"train", "test"}
    with pytest.raises(ConfigurationError, match="no list of the split val"):
        read_labelled(nih, PNEUMONIA, split="val")


def test_the_table_may_lie_elsewhere_under_another_name(nih: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.mktemp("tables") / "labels.csv"
    (nih / "Data_Entry_2017.csv").rename(table)
    assert len(read_labelled(nih, PNEUMONIA, labels_csv=table).images) == 4


def test_a_table_of_other_columns_is_refused(nih: Path) -> None:
    (nih / "Data_Entry_2017.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigurationError, match="needs the columns Finding Labels, Image Index, Patient ID"):
        read_labelled(nih, PNEUMONIA)
