"""check-data: each thing that can be wrong with a set gives its own message, and errors end with status 1."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.__main__ import main

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chest_xray_224" / "train"


@pytest.fixture
def folders(class_folders: Path, tmp_path: Path) -> Path:
    """A sound set that may be spoilt."""
    return Path(shutil.copytree(class_folders, tmp_path / "set"))


@pytest.fixture
def split_folders(class_folders: Path, tmp_path: Path) -> Path:
    """Two splits of different persons."""
    for split in ("train", "test"):
        for path in sorted(class_folders.rglob("*.jpeg")):
            number = re.search(r"\d+", path.name)
            if number and (int(number[0]) < 8) == (split == "train"):
                target = tmp_path / "splits" / split / path.parent.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return tmp_path / "splits"


def check(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Give the exit status and the JSON report."""
    status = main(["check-data", "--data-dir", str(directory), "--json", *options])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, report


def problem(report: dict[str, Any], code: str) -> dict[str, Any]:
    found = [each for each in report["problems"] if each["code"] == code]
    assert len(found) == 1, [each["code"] for each in report["problems"]]
    result: dict[str, Any] = found[0]
    return result


def test_a_sound_set_has_no_error(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = check(folders, capsys)
    assert status == 0
    assert not [each for each in report["problems"] if each["level"] == "error"]
    assert report["format"] == "class-folders"
    normal, pneumonia = report["counts"]
    assert (normal["label"], normal["images"], normal["persons"], normal["unreadable"]) == ("NORMAL", 12, 12, 0)
    assert pneumonia["median"] == [80, 70]
    assert pneumonia["encodings"] == {"JPEG grey": 12}


def test_a_corrupted_image_is_a_warning_with_its_reason(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folders / "NORMAL" / "IM-0003-0001.jpeg"
    path.write_bytes(path.read_bytes()[:100])
    status, report = check(folders, capsys)
    assert status == 0
    unreadable = problem(report, "unreadable")
    assert unreadable["level"] == "warning"
    assert unreadable["groups"] == [["NORMAL/IM-0003-0001.jpeg: not a readable PNG or JPEG"]]
    assert report["counts"][0]["unreadable"] == 1


def test_an_empty_class_is_an_error(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folders / "PNEUMONIA").iterdir():
        path.unlink()
    status, report = check(folders, capsys)
    assert status == 1
    assert problem(report, "empty_class")["message"] == "Class PNEUMONIA has no readable image."
    assert report["shortcuts"] == []


def test_one_image_with_two_labels_is_an_error(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folders / "NORMAL" / "IM-0003-0001.jpeg", folders / "PNEUMONIA" / "person99_virus_1.jpeg")
    status, report = check(folders, capsys)
    assert status == 1
    conflict = problem(report, "conflicting_labels")
    assert conflict["groups"] == [["NORMAL/IM-0003-0001.jpeg", "PNEUMONIA/person99_virus_1.jpeg"]]
    assert conflict["message"].startswith("1 image with the same pixels in both classes.")


def test_copies_within_a_class_are_a_note(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folders / "NORMAL" / "IM-0003-0001.jpeg", folders / "NORMAL" / "IM-0099-0001.jpeg")
    status, report = check(folders, capsys)
    assert status == 0
    assert problem(report, "duplicates")["level"] == "note"


def test_splits_of_different_persons_are_sound(split_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = check(split_folders, capsys)
    assert status == 0
    assert [(count["split"], count["label"], count["images"]) for count in report["counts"]] == [
        *(("test", "NORMAL", 4), ("test", "PNEUMONIA", 4), ("train", "NORMAL", 8), ("train", "PNEUMONIA", 8)),
    ]


def test_an_image_in_two_splits_is_an_error(split_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = split_folders / "train" / "NORMAL" / "IM-0003-0001.jpeg"
    shutil.copy(source, split_folders / "test" / "NORMAL" / "IM-0099-0001.jpeg")
    status, report = check(split_folders, capsys)
    assert status == 1
    leak = problem(report, "duplicates_across_splits")
    assert leak["groups"] == [["test/NORMAL/IM-0099-0001.jpeg", "train/NORMAL/IM-0003-0001.jpeg"]]
    assert check(split_folders, capsys, "--split", "train")[0] == 0


def test_a_person_in_two_splits_is_an_error(split_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = split_folders / "test" / "PNEUMONIA" / "person9_virus_9.jpeg"
    path.rename(path.with_name("person3_bacteria_77.jpeg"))
    status, report = check(split_folders, capsys)
    assert status == 1
    leak = problem(report, "persons_across_splits")
    assert leak["groups"] == [
        ["test/PNEUMONIA/person3_bacteria_77.jpeg", "train/PNEUMONIA/person3_virus_3.jpeg"],
    ]


def test_a_class_that_one_split_lacks_is_named_with_it(split_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (split_folders / "test" / "NORMAL").iterdir():
        path.unlink()
    status, report = check(split_folders, capsys)
    assert status == 1
    assert problem(report, "empty_class")["message"] == "Class NORMAL of split test has no readable image."


def test_an_image_that_shows_nothing_is_a_warning(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(folders / "NORMAL" / "IM-0099-0001.png"), np.full((80, 70), 90, np.uint8))
    _, report = check(folders, capsys)
    assert problem(report, "near_constant")["groups"] == [["NORMAL/IM-0099-0001.png"]]


def test_files_that_tell_no_person_are_a_warning(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, path in enumerate(sorted(folders.rglob("*.jpeg"))):
        path.rename(path.with_name(f"scan{number}.jpeg"))
    _, report = check(folders, capsys)
    assert "persons.csv" in problem(report, "persons_unknown")["message"]


def test_a_size_that_gives_the_class_away_is_a_warning(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folders / "PNEUMONIA").iterdir():
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        cv2.imwrite(str(path), cv2.resize(image, (70, 96)))
    _, report = check(folders, capsys)
    shortcuts = {each["name"]: each for each in report["shortcuts"]}
    assert shortcuts["rows"]["means"] == [80, 96]
    assert (shortcuts["rows"]["auc"], shortcuts["columns"]["auc"]) == (1.0, 0.5)
    warnings = [each["message"] for each in report["problems"] if each["code"] == "shortcut"]
    assert any(
        message.startswith("Rows alone tells NORMAL from PNEUMONIA with an AUC of 1.00.") for message in warnings
    )


def test_people_get_tables_and_a_verdict(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(7):
        shutil.copy(folders / "NORMAL" / f"IM-000{number}-0001.jpeg", folders / "PNEUMONIA" / f"copy{number}.jpeg")
    assert main(["check-data", "--data-dir", str(folders)]) == 1
    captured = capsys.readouterr()
    assert "NORMAL/IM-0000-0001.jpeg, PNEUMONIA/copy0.jpeg" in captured.out
    assert "… and 2 more" in captured.out
    assert "1 error, " in captured.out
    assert captured.err.count("\n") == 1
    assert "1 error in the data" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--limit", "0"], "limit 0"), (["--format", "tables"], "format tables"), (["--labels-csv", "no.csv"], "no.csv")],
)
def test_a_wrong_option_is_one_line(
    folders: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["check-data", "--data-dir", str(folders), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.skipif(not REAL.is_dir(), reason="the paediatric pneumonia set is not here")
def test_the_public_set_is_sound_but_for_its_frame(capsys: pytest.CaptureFixture[str]) -> None:
    status, report = check(REAL, capsys, "--limit", "150")
    assert status == 0
    assert [count["images"] for count in report["counts"]] == [150, 150]
    assert problem(report, "resized_before")["level"] == "note"
