"""check-data --task csi: counts and agreement, and a message of its own for each thing that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from zone_sets import ZoneSetWriter

from training.__main__ import main


def shown(number: int) -> list[int]:
    """Give what image `number` of `sound` shows; no two of them show the same."""
    return [(number + zone) % 4 for zone in range(5)] + [number % 5]


@pytest.fixture
def sound(zone_set: ZoneSetWriter) -> ZoneSetWriter:
    """Six images of six persons; each zone has each grade at least once, and the second reader differs in one zone."""
    for number in range(6):
        senior = [(number + zone) % 4 for zone in range(6)]
        zone_set.add(shown(number), senior, [*senior[:5], 0])
    return zone_set


def check(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Give the exit status and the JSON report."""
    status = main(["check-data", "--task", "csi", "--data-dir", str(directory), "--json", *options])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, report


def codes(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["code"]: each for each in report["problems"]}


def test_counts_are_per_zone_and_grade_of_the_first_reader(
    sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = check(sound.write_brixia(), capsys)
    assert status == 0
    assert (report["format"], report["images"], report["persons"]) == ("brixia", 6, 6)
    assert report["smallest"] == report["median"] == report["largest"] == [96, 64]
    first = report["counts"][0]  # grades 0, 1, 2, 3, 0, 1
    assert first["zone"] == "right_sup"
    assert first["classes"] == {"normal": 2, "mild": 2, "moderate": 1, "severe": 1, "ungradable": 0}
    assert {each["level"] for each in report["problems"]} <= {"warning", "note"}


def test_two_readers_are_compared(sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = check(sound.write_brixia(), capsys)
    senior = np.array([[(number + zone) % 4 for zone in range(6)] for number in range(6)])
    junior = senior.copy()
    junior[:, 5] = 0
    second = report["second_reader"]
    # The senior's grades of the last zone are 1, 2, 3, 0, 1, 2: nine grades off, of 36 zones.
    assert (second["n"], second["mae_zone"]) == (6, 9 / 36)
    kappa = cohen_kappa_score(senior.ravel(), junior.ravel(), weights="quadratic")
    assert second["kappa_quadratic"] == pytest.approx(kappa, abs=1e-6)
    assert [count["mae_zone"] for count in report["counts"]] == [0, 0, 0, 0, 0, 9 / 6]


def test_one_reader_has_nobody_to_agree_with(zone_set: ZoneSetWriter, capsys: pytest.CaptureFixture[str]) -> None:
    zone_set.add([0, 1, 2, 3, 0, 1], [0, 1, 4, 3, 0, 1])
    _, report = check(zone_set.write_csi(), capsys)
    assert (report["format"], report["second_reader"]) == ("csi", None)
    assert report["counts"][2]["classes"]["ungradable"] == 1
    assert report["counts"][0]["kappa_quadratic"] is None


def test_the_same_pixels_with_other_scores_are_an_error(
    sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add(shown(0), [3] * 6, person="p0")
    status, report = check(sound.write_brixia(), capsys)
    assert status == 1
    problem = codes(report)["conflicting_scores"]
    assert (problem["level"], problem["groups"]) == ("error", [["images/i00.png", "images/i06.png"]])


def test_the_same_pixels_with_the_same_scores_are_a_note_unless_of_two_persons(
    sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, person in ((0, "p0"), (1, "somebody else")):
        senior = [(number + zone) % 4 for zone in range(6)]
        sound.add(shown(number), senior, [*senior[:5], 0], person=person)
    status, report = check(sound.write_brixia(), capsys)
    assert status == 0
    found = codes(report)
    assert (found["duplicates"]["level"], found["duplicates"]["groups"]) == (
        "note",
        [["images/i00.png", "images/i06.png"]],
    )
    across = found["duplicates_across_persons"]
    assert (across["level"], across["groups"]) == ("warning", [["images/i01.png", "images/i07.png"]])


def test_files_that_are_missing_unreadable_or_left_out_are_named(
    sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add_row("images/gone.png", [0] * 6)
    sound.add_row("images/broken.png", [0] * 6)
    (sound.directory / "images" / "broken.png").write_bytes(b"\x89PNG no image")
    status, report = check(sound.write_brixia(), capsys, "--exclude", "images/i05.png")
    assert (status, report["images"]) == (0, 5)
    found = codes(report)
    assert found["missing"]["groups"] == [["images/gone.png"]]
    assert found["unreadable"]["groups"] == [["images/broken.png: not a readable PNG or JPEG"]]
    assert found["excluded"]["groups"] == [["images/i05.png"]]


def test_rare_and_absent_grades_are_warnings(zone_set: ZoneSetWriter, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        zone_set.add([0, 1, 2, 1, 0, number % 3], [0, 1, 2, 1, 0, number % 3])
    zone_set.add([0, 3, 2, 1, 0, 1], [0, 3, 2, 1, 0, 1])
    _, report = check(zone_set.write_brixia("S"), capsys)
    warnings = [each["message"] for each in report["problems"] if each["code"] == "few_persons"]
    assert warnings == ["Grade severe has 1 person: too few for 5 folds."]
    never = codes(report)["grades_that_never_occur"]
    assert (
        "mild in right_sup, mild in right_mid, mild in right_inf, moderate in right_sup, moderate in left_sup, "
        in never["message"]
    )
    assert "severe in left_sup" not in never["message"]


def test_images_without_lungs_or_contrast_are_listed(sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]) -> None:
    sound.add([2] * 6, [2] * 6)
    _, report = check(sound.write_brixia(), capsys)
    found = codes(report)
    assert found["near_constant"]["groups"] == [["images/i06.png"]]
    assert found["lungs_not_found"]["level"] == "note"
    assert ["images/i06.png"] in found["lungs_not_found"]["groups"]


def test_sets_that_name_no_person_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "FileID;right_sup;left_sup;right_mid;left_mid;right_inf;left_inf"
    (tmp_path / "labels.csv").write_text(f"{header}\na;0;1;2;3;0;1\nb.png;1;1;1;1;1;1\n")
    for number, name in enumerate(("a.png", "b.png")):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), noise)
    _, report = check(tmp_path, capsys)
    assert codes(report)["persons_unknown"]["message"].endswith("Give a column patient.")


def test_people_get_a_table_of_zones_and_classes(sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "--task", "csi", "--data-dir", str(sound.write_brixia())]) == 0
    out = capsys.readouterr().out
    assert "brixia, 6 images of 6 persons, all 96 x 64" in out
    assert "ungradable" in out
    (row,) = (line.split() for line in out.splitlines() if line.strip().startswith("right_sup"))
    assert row[:6] == ["right_sup", "2", "2", "1", "1", "0"]
    assert "Two readers of 6 images: quadratic kappa" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "--split: not of task csi"),
        (["--limit", "0"], "limit 0"),
        (["--format", "nih-csv"], "format nih-csv: unknown; known are auto, csi, brixia"),
        (["--exclude", "i99"], "--exclude: the table names no i99"),
        (["--exclude", "none.txt"], "none.txt: cannot be read as a list of names"),
        (["--task", "pneumonia", "--exclude", "i00"], "--exclude: of tasks csi and landmarks only"),
    ],
    ids=["split", "limit", "format", "unknown", "list", "exclude"],
)
def test_a_wrong_option_is_one_line(
    sound: ZoneSetWriter, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["check-data", "--task", "csi", "--data-dir", str(sound.write_brixia()), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
