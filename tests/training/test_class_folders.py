"""Class folders: persons, duplicates, unreadable files, and the split that keeps both apart."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import ConfigurationError
from training.datasets.class_folders import LabelledImage, person_of, read_class_folders, split_by_person

LABELS = ("NORMAL", "PNEUMONIA")
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chest_xray_224" / "train"


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("person123_bacteria_4.jpeg", "person123"),
        ("person447_virus_921_1.jpeg", "person447"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0467-0001-0002.jpeg", "IM-0467"),
        ("NORMAL2-IM-0381-0001.jpeg", "NORMAL2-IM-0381"),
        ("NORMAL2-IM-1412-0001-0002.jpeg", "NORMAL2-IM-1412"),
        ("scan_17.png", "scan_17"),
    ],
)
def test_person_is_read_from_the_file_name(name: str, person: str) -> None:
    assert person_of(name) == person


def image(number: int, label: int, person: str | None = None, pixels: str | None = None) -> LabelledImage:
    return LabelledImage(Path(f"{number}.png"), label, person or f"p{number}", pixels or f"h{number}")


def test_images_of_one_person_stand_on_one_side() -> None:
    images = tuple(image(i, i % 2, person=f"p{i % 2}-{i // 6}") for i in range(120))
    for seed in range(20):
        split = split_by_person(images, 0.25, seed)
        assert not {i.person for i in split.train} & {i.person for i in split.validation}
        assert len(split.train) + len(split.validation) == 120


def test_the_same_pixels_stand_on_one_side_whoever_they_are_said_to_be() -> None:
    # Chains: 0 and 1 share pixels, 1 and 2 a person, 2 and 3 pixels.
    chained = (image(0, 0, pixels="x"), image(1, 0, "anna", "x"), image(2, 0, "anna", "y"), image(3, 0, pixels="y"))
    images = chained + tuple(image(i, i % 2) for i in range(4, 24))
    for seed in range(30):
        split = split_by_person(images, 0.3, seed)
        assert len(set(chained) & set(split.validation)) in (0, 4)


def test_both_classes_are_held_out_in_the_wanted_part() -> None:
    images = tuple(image(i, int(i >= 300)) for i in range(400))
    held = Counter(i.label for i in split_by_person(images, 0.2, 7).validation)
    assert held == {0: 60, 1: 20}


def test_a_split_depends_on_the_seed_alone() -> None:
    images = tuple(image(i, i % 2) for i in range(50))
    assert split_by_person(images, 0.2, 1) == split_by_person(images, 0.2, 1)
    assert split_by_person(images, 0.2, 1) != split_by_person(images, 0.2, 2)


def test_a_class_of_one_person_cannot_be_split() -> None:
    with pytest.raises(ConfigurationError, match="at least two persons"):
        split_by_person((image(0, 0, "a"), image(1, 0, "a"), image(2, 1), image(3, 1)), 0.5, 0)


def test_unreadable_files_are_reported_and_left_out(class_folders: Path, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    shutil.copytree(class_folders, directory)
    (directory / "NORMAL" / "IM-9999-0001.jpeg").write_bytes(b"\xff\xd8\xff no image")
    (directory / "NORMAL" / "notes.txt").write_text("no image either")
    folders = read_class_folders(directory, LABELS)
    assert [path.name for path in folders.unreadable] == ["IM-9999-0001.jpeg"]
    assert Counter(i.label for i in folders.images) == {0: 12, 1: 12}


def test_a_copy_in_another_format_has_the_same_hash(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    for label, name in (("NORMAL", "a.png"), ("PNEUMONIA", "b.png")):
        (tmp_path / label).mkdir()
        compression = [cv2.IMWRITE_PNG_COMPRESSION, 9 if name == "a.png" else 0]
        cv2.imwrite(str(tmp_path / label / name), pixels, compression)
    first, second = read_class_folders(tmp_path, LABELS).images
    assert first.path.read_bytes() != second.path.read_bytes()
    assert first.pixels_sha256 == second.pixels_sha256


def test_the_digest_knows_pixels_and_labels_but_no_place(class_folders: Path, tmp_path: Path) -> None:
    digest = read_class_folders(class_folders, LABELS).digest
    shutil.copytree(class_folders, tmp_path / "moved")
    assert read_class_folders(tmp_path / "moved", LABELS).digest == digest
    moved = next((tmp_path / "moved" / "NORMAL").iterdir())
    moved.rename(tmp_path / "moved" / "PNEUMONIA" / moved.name)
    assert read_class_folders(tmp_path / "moved", LABELS).digest != digest


@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_a_missing_or_empty_class_is_named(class_folders: Path, tmp_path: Path, broken: str) -> None:
    directory = tmp_path / "set"
    shutil.copytree(class_folders, directory)
    shutil.rmtree(directory / "PNEUMONIA")
    if broken == "empty":
        (directory / "PNEUMONIA").mkdir()
    with pytest.raises(ConfigurationError, match="PNEUMONIA"):
        read_class_folders(directory, LABELS)


def test_limit_takes_some_of_each_class(class_folders: Path) -> None:
    images = read_class_folders(class_folders, LABELS, limit=5).images
    assert Counter(i.label for i in images) == {0: 5, 1: 5}


@pytest.mark.skipif(not REAL.is_dir(), reason="the paediatric pneumonia set is not here")
def test_the_public_set_is_split_without_leaks() -> None:
    images = read_class_folders(REAL, LABELS, limit=400).images
    split = split_by_person(images, 0.2, 0)
    for key in ("person", "pixels_sha256"):
        assert not {getattr(i, key) for i in split.train} & {getattr(i, key) for i in split.validation}
    held = Counter(i.label for i in split.validation)
    assert all(80 <= held[label] <= 90 for label in (0, 1))
