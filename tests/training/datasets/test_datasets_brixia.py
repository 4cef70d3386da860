"""Brixia scores as a set of two classes: adults whose lungs are clear or clearly diseased."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import ConfigurationError
from training.datasets.labelled import list_files, read_labelled
from training.datasets.listing import Format

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "brixia_cohen"
LABELS = ("NORMAL", "PNEUMONIA")
HEADER = "file," + ",".join(f"{reader}-{letter}" for reader in "SJ" for letter in "ABCDEF") + ",patient"


def write_set(directory: Path, *rows: str) -> Path:
    for row in rows:
        path = directory / row.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(len(row)).integers(0, 255, (40, 40), dtype=np.uint8))
    (directory / "scores.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return directory


def test_the_senior_s_sum_makes_the_class_and_what_lies_between_is_left_out(tmp_path: Path) -> None:
    data = write_set(
        tmp_path,
        "images/clear.png,0,0,0,0,0,1,3,3,3,3,3,3,1",
        "images/mild.png,0,1,0,0,1,0,0,0,0,0,0,0,2",
        "images/five.png,1,1,1,1,1,0,3,3,3,3,3,3,3",
        "images/six.png,1,1,1,1,1,1,0,0,0,0,0,0,1",
    )
    listing = list_files(data, LABELS)
    assert listing.format is Format.BRIXIA
    assert [(file.source, file.label, file.person) for file in listing.files] == [
        ("images/clear.png", 0, "patient-1"),
        ("images/six.png", 1, "patient-1"),
    ]
    assert listing.left_out == 2


def test_what_is_missing_is_said_and_another_table_is_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path, "a.png,0,0,0,0,0,0,0,0,0,0,0,0,1", "b.png,3,3,3,3,3,3,0,0,0,0,0,0,2")
    (data / "b.png").unlink()
    assert list_files(data, LABELS, format="brixia").missing == ("b.png",)
    (data / "scores.csv").write_text("file,score\na.png,1\n")
    with pytest.raises(ConfigurationError, match="needs the columns file and S-A to S-F"):
        list_files(data, LABELS, format="brixia")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs are not here")
def test_the_real_adults_are_two_classes() -> None:
    images = read_labelled(REAL, LABELS, split="adults")
    counts = [sum(image.label == label for image in images.images) for label in (0, 1)]
    assert counts == [19, 94]
