"""Class folders: persons, splits, unreadable files, and the digest of a set."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import ConfigurationError
from training.datasets.class_folders import person_of
from training.datasets.labelled import read_labelled
from training.datasets.listing import Format
from training.datasets.splits import split_by_person

LABELS = ("NORMAL", "PNEUMONIA")
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chest_xray_224" / "train"


@pytest.fixture
def folders(class_folders: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(class_folders, tmp_path / "set"))


@pytest.fixture
def split_folders(class_folders: Path, tmp_path: Path) -> Path:
    for split in ("train", "test"):
        shutil.copytree(class_folders, tmp_path / "splits" / split)
    (tmp_path / "splits" / "__MACOSX").mkdir()
    return tmp_path / "splits"


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("person123_bacteria_4.jpeg", "person123"),
        ("person447_virus_921_1.jpeg", "person447"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0467-0001-0002.jpeg", "IM-0467"),
        ("NORMAL2-IM-0381-0001.jpeg", "NORMAL2-IM-0381"),
        ("NORMAL2-IM-1412-0001-0002.jpeg", "NORMAL2-IM-1412"),
        ("scan_17.png", None),
    ],
)
def test_person_is_read_from_the_file_name(name: str, person: str | None) -> None:
    assert person_of(name) == person


def test_a_file_of_which_nothing_is_known_is_its_own_person(folders: Path) -> None:
    for label in LABELS:
        first = min((folders / label).iterdir())
        first.rename(first.with_name("scan_1.jpeg"))
    persons = {image.person for image in read_labelled(folders, LABELS).images if "scan" in image.source}
    assert persons == {"NORMAL/scan_1.jpeg", "PNEUMONIA/scan_1.jpeg"}


def test_persons_csv_overrules_file_names(folders: Path) -> None:
    lines = ["file,person", "NORMAL/IM-0000-0001.jpeg,anna", "person0_virus_0.jpeg,anna"]
    (folders / "persons.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    persons = {image.source: image.person for image in read_labelled(folders, LABELS).images}
    assert persons["NORMAL/IM-0000-0001.jpeg"] == persons["PNEUMONIA/person0_virus_0.jpeg"] == "anna"
    assert persons["NORMAL/IM-0001-0001.jpeg"] == "IM-0001"


def test_a_persons_csv_of_other_columns_is_refused(folders: Path) -> None:
    (folders / "persons.csv").write_text("name,id\na,b\n")
    with pytest.raises(ConfigurationError, match="needs the columns file and person"):
        read_labelled(folders, LABELS)


def test_images_are_keyed_by_their_name_below_the_directory(split_folders: Path) -> None:
    found = read_labelled(split_folders, LABELS, split="test")
    assert found.format is Format.CLASS_FOLDERS
    assert {image.source.split("/")[0] for image in found.images} == {"test"}
    assert all(split_folders / image.source == image.path for image in found.images)


def test_every_split_is_read_unless_one_is_named(split_folders: Path) -> None:
    assert Counter(i.split for i in read_labelled(split_folders, LABELS).images) == {"train": 24, "test": 24}
    assert {i.split for i in read_labelled(split_folders, LABELS, split="train").images} == {"train"}


def test_the_name_of_a_split_is_only_a_name_where_the_set_has_none(class_folders: Path) -> None:
    assert len(read_labelled(class_folders, LABELS, split="test").images) == 24


def test_a_split_that_is_not_there_is_named_with_those_that_are(split_folders: Path) -> None:
    with pytest.raises(ConfigurationError, match="no split val; there are test, train"):
        read_labelled(split_folders, LABELS, split="val")


def test_folders_are_found_whatever_their_case(folders: Path) -> None:
    (folders / "NORMAL").rename(folders / "normal")
    assert Counter(i.label for i in read_labelled(folders, LABELS).images) == {0: 12, 1: 12}


def test_unreadable_files_are_reported_and_left_out(folders: Path) -> None:
    (folders / "NORMAL" / "IM-9999-0001.jpeg").write_bytes(b"\xff\xd8\xff no image")
    (folders / "NORMAL" / "notes.txt").write_text("no image either")
    (folders / "NORMAL" / "._IM-0000-0001.jpeg").write_bytes(b"of a Mac")
    found = read_labelled(folders, LABELS)
    assert [(each.path.name, each.reason) for each in found.unreadable] == [
        ("IM-9999-0001.jpeg", "not a readable PNG or JPEG")
    ]
    assert Counter(i.label for i in found.images) == {0: 12, 1: 12}


def test_a_copy_in_another_format_has_the_same_hash(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    for label, name in (("NORMAL", "a.png"), ("PNEUMONIA", "b.png")):
        (tmp_path / label).mkdir()
        compression = [cv2.IMWRITE_PNG_COMPRESSION, 9 if name == "a.png" else 0]
        cv2.imwrite(str(tmp_path / label / name), pixels, compression)
    first, second = read_labelled(tmp_path, LABELS).images
    assert first.path.read_bytes() != second.path.read_bytes()
    assert first.pixels_sha256 == second.pixels_sha256


def test_the_digest_knows_pixels_and_labels_but_no_place(class_folders: Path, folders: Path) -> None:
    digest = read_labelled(class_folders, LABELS).digest
    assert read_labelled(folders, LABELS).digest == digest
    moved = next((folders / "NORMAL").iterdir())
    moved.rename(folders / "PNEUMONIA" / moved.name)
    assert read_labelled(folders, LABELS).digest != digest


@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_a_missing_or_empty_class_is_named(folders: Path, broken: str) -> None:
    shutil.rmtree(folders / "PNEUMONIA")
    if broken == "empty":
        (folders / "PNEUMONIA").mkdir()
    with pytest.raises(ConfigurationError, match="PNEUMONIA"):
        read_labelled(folders, LABELS)


def test_a_directory_that_is_no_set_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"neither class folders .* nor Data_Entry_2017.csv, nor a CSV file"):
        read_labelled(tmp_path, LABELS)
    with pytest.raises(ConfigurationError, match="no such directory"):
        read_labelled(tmp_path / "nothing", LABELS)
    with pytest.raises(ConfigurationError, match="format tables: unknown; known are auto, class-folders, nih-csv"):
        read_labelled(tmp_path, LABELS, format="tables")


def test_limit_takes_some_of_each_class(class_folders: Path) -> None:
    images = read_labelled(class_folders, LABELS, limit=5).images
    assert Counter(i.label for i in images) == {0: 5, 1: 5}


@pytest.mark.skipif(not REAL.is_dir(), reason="the paediatric pneumonia set is not here")
def test_the_public_set_is_split_without_leaks() -> None:
    images = read_labelled(REAL, LABELS, limit=400).images
    split = split_by_person(images, 0.2, 0)
    for key in ("person", "pixels_sha256"):
        assert not {getattr(i, key) for i in split.train} & {getattr(i, key) for i in split.validation}
    held = Counter(i.label for i in split.validation)
    assert all(80 <= held[label] <= 90 for label in (0, 1))
