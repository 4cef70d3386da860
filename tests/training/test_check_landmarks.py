"""check-data --task landmarks: counts, and a message of its own for each thing that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from landmark_sets import SIZE, AasceWriter, column, noise

from training.__main__ import main
from training.datasets.landmark_rows import Points


@pytest.fixture
def sound(aasce: AasceWriter) -> AasceWriter:
    """Eight straight spines of eight persons; nothing is wrong with them but that there are few."""
    for number in range(8):
        aasce.add(image=noise(number), split="training" if number < 6 else "test")
    return aasce


def check(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Give the exit status and the JSON report."""
    status = main(["check-data", "--task", "landmarks", "--data-dir", str(directory), "--json", *options])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, report


def codes(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["code"]: each for each in report["problems"]}


def bodies() -> Points:
    """Give the 17 vertebrae of `column`, ``(17, 4, 2)``."""
    return column().reshape(17, 4, 2)


def turned(degrees: float) -> Points:
    """Give a column whose T8 is turned: its main Cobb angle."""
    return column(tilts=[0.0] * 7 + [degrees] + [0.0] * 9)


def test_counts_are_of_every_split_and_severity(aasce: AasceWriter, capsys: pytest.CaptureFixture[str]) -> None:
    for number, degrees in enumerate((0.0, 9.9, 10.0, 24.9, 25.0, 39.9, 40.0)):
        split = "test" if number == 2 else "training"
        aasce.add(turned(degrees), noise(number), angles=(degrees, 0, 0), split=split)
    status, report = check(aasce.write(), capsys)
    assert status == 0
    assert (report["format"], report["schema"], report["images"]) == ("aasce", "aasce68", 7)
    assert (report["persons"], report["usable"], report["smallest"]) == (7, 7, list(SIZE))
    test, training = report["counts"]
    assert (test["split"], test["images"], training["images"], training["persons"]) == ("test", 1, 6, 6)
    assert test["severity"] == {"none": 0, "mild": 1, "moderate": 0, "severe": 0}
    assert training["severity"] == {"none": 2, "mild": 1, "moderate": 2, "severe": 1}
    assert training["slips"] is None
    assert report["vertebrae"]["T1"] == report["vertebrae"]["L5"] == 7


def test_a_sound_set_has_no_error_and_no_fault(sound: AasceWriter, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = check(sound.write(), capsys)
    assert status == 0
    assert set(codes(report)) == {"severities_that_never_occur", "resized_before"}
    assert "severity mild, moderate, severe" in codes(report)["severities_that_never_occur"]["message"]


def test_vertebrae_out_of_order_are_named_with_what_was_done(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = bodies()[[0, 1, 3, 2, *range(4, 17)]]
    sound.add(swapped.reshape(-1, 2), noise(20), name="swapped-1 A AP.png")
    jumbled = bodies()[[0, 1, 3, 2, *range(4, 17)]]
    jumbled[9] = jumbled[8] + [0, -1]  # sorting does not help: one is drawn twice
    sound.add(jumbled.reshape(-1, 2), noise(21), name="jumbled-1 A AP.png")
    status, report = check(sound.write(), capsys)
    assert (status, report["images"], report["usable"]) == (0, 10, 9)
    problem = codes(report)["vertebrae_out_of_order"]
    assert problem["level"] == "warning"
    assert problem["groups"] == [
        ["test/jumbled-1 A AP.png: left out of training"],
        ["test/swapped-1 A AP.png: sorted from top to bottom"],
    ]
    assert problem["message"].startswith("2 images with vertebrae out of vertical order. Of these 1 are sound once")
    assert codes(report)["vertebra_drawn_twice"]["groups"] == [["test/jumbled-1 A AP.png"]]


def spoilt_twice(points: Points) -> None:
    points[6] = points[5] + [0, 0.5]


def spoilt_overlap(points: Points) -> None:
    points[6] -= [0, 7.5]  # 13.6 between middles, 9.6 high: a third lies in the one above


def spoilt_flat(points: Points) -> None:
    points[6, 2:] = points[6, :2] + [0, 1]


def spoilt_crossed(points: Points) -> None:
    points[6, 3] = points[6, 0] + [8, 3]


def spoilt_same_place(points: Points) -> None:
    points[6, 3] = points[6, 2] + [1, 0]


def spoilt_outside(points: Points) -> None:
    points[:, :, 0] -= 60


@pytest.mark.parametrize(
    ("spoil", "code", "level", "words"),
    [
        (spoilt_twice, "vertebra_drawn_twice", "warning", "1 image where a vertebra is drawn twice"),
        (spoilt_overlap, "vertebrae_overlap", "note", "1 image where neighbouring vertebrae overlap"),
        (spoilt_flat, "vertebra_without_height", "note", "1 image with a vertebra that has hardly any height"),
        (spoilt_crossed, "crossed_corners", "note", "1 image with corners that are those of no vertebra"),
        (spoilt_same_place, "landmarks_in_the_same_place", "note", "1 image with two corners of a vertebra in one"),
        (spoilt_outside, "landmark_outside_the_image", "note", "1 image with landmarks outside the image"),
    ],
    ids=["twice", "overlap", "flat", "crossed", "same-place", "outside"],
)
def test_each_fault_has_a_message_of_its_own(
    sound: AasceWriter,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Points], None],
    code: str,
    level: str,
    words: str,
) -> None:
    points = bodies()
    spoil(points)
    name = sound.add(points.reshape(-1, 2), noise(20))
    _, report = check(sound.write(), capsys)
    problem = codes(report)[code]
    assert (problem["level"], problem["groups"]) == (level, [[name]])
    assert problem["message"].startswith(words)


def test_angles_that_are_not_those_of_the_landmarks_are_a_warning(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = sound.add(turned(20), noise(20), angles=(22, 0, 0))
    sound.add(turned(20), noise(21), angles=(20.9, 0, 0))
    _, report = check(sound.write(), capsys)
    problem = codes(report)["angles_differ"]
    assert (problem["level"], problem["groups"]) == ("warning", [[wrong]])
    assert "main Cobb angle is not that of its landmarks" in problem["message"]


def test_corners_in_another_order_are_a_note(sound: AasceWriter, capsys: pytest.CaptureFixture[str]) -> None:
    name = sound.add(bodies()[:, [1, 3, 0, 2]].reshape(-1, 2), noise(20))
    _, report = check(sound.write(), capsys)
    problem = codes(report)["corners_sorted"]
    assert (problem["level"], problem["groups"]) == ("note", [[name]])


def test_the_same_pixels_with_other_landmarks_or_in_two_splits_are_errors(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add(column() + 3, noise(0), split="training", name="other-1 A AP.png")
    sound.add(image=noise(1), split="test", name="leak-1 A AP.png")
    sound.add(column() + 0.5, noise(2), split="training", name="copy-1 A AP.png")
    status, report = check(sound.write(), capsys)
    assert status == 1
    found = codes(report)
    first, second, third = (f"training/set-01-00{number} A AP.png" for number in range(3))
    conflict, leak = found["conflicting_landmarks"], found["duplicates_across_splits"]
    assert (conflict["level"], [sorted(group) for group in conflict["groups"]]) == (
        "error",
        [["training/other-1 A AP.png", first]],
    )
    assert (leak["level"], [sorted(group) for group in leak["groups"]]) == (
        "error",
        [["test/leak-1 A AP.png", second]],
    )
    copies = found["duplicates"]
    assert (copies["level"], [sorted(group) for group in copies["groups"]]) == (
        "note",
        [["training/copy-1 A AP.png", third]],
    )


def test_a_person_in_two_splits_is_an_error(sound: AasceWriter, capsys: pytest.CaptureFixture[str]) -> None:
    sound.add(image=noise(20), split="test", name="set-01-003 B AP.png")
    status, report = check(sound.write(), capsys)
    assert status == 1
    problem = codes(report)["persons_across_splits"]
    assert problem["message"].startswith("1 person with images in more than one split")
    assert sorted(problem["groups"][0]) == ["test/set-01-003 B AP.png", "training/set-01-003 A AP.png"]
    status, report = check(sound.directory, capsys, "--split", "test")
    assert (status, report["images"]) == (0, 3)
    assert "persons_across_splits" not in codes(report)


def test_files_that_are_missing_unreadable_or_left_out_are_named(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add_row("gone.png", ["0.5"] * 136)
    (sound.directory / "test" / "broken.png").write_bytes(b"\x89PNG no image")
    sound.add_row("broken.png", ["0.5"] * 136)
    (sound.directory / "test" / "short.png").write_bytes(b"")
    sound.add_row("short.png", ["0.5"] * 135)
    status, report = check(sound.write(), capsys, "--exclude", "set-01-005 A AP.png")
    assert (status, report["images"]) == (0, 7)
    found = codes(report)
    assert found["missing"]["groups"] == [["gone.png"]]
    unreadable = dict(group[0].split(": ", 1) for group in found["unreadable"]["groups"])
    assert unreadable["test/broken.png"] == "not a readable PNG or JPEG"
    assert "135" in unreadable["test/short.png"]
    assert found["excluded"]["groups"] == [["set-01-005 A AP.png"]]


def test_images_without_contrast_and_of_unknown_persons_are_listed(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    name = sound.add(image=np.full(SIZE, 80, np.uint8), name="nobody.png")
    _, report = check(sound.write(), capsys)
    assert codes(report)["near_constant"]["groups"] == [[name]]
    assert codes(report)["some_persons_unknown"]["groups"] == [[name]]


def test_slips_and_vertebrae_that_never_occur_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        stem = tmp_path / f"{number + 1:04d}-F-037Y1"
        cv2.imwrite(f"{stem}.png", noise(number))
        slips = [0] * 10 + [3]
        lines = [f"40,{20 * place + 20},80,{20 * place + 20},{slip}" for place, slip in enumerate(slips)]
        Path(f"{stem}.csv").write_text("\n".join(lines))
    _, report = check(tmp_path, capsys)
    assert (report["format"], report["schema"]) == ("buu-la", "buu_la22")
    (count,) = report["counts"]
    assert count["severity"] is None
    assert count["slips"] == {"normal": 20, "left": 0, "right": 0, "antero": 2, "retro": 0}


def test_vertebrae_in_no_image_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), noise(0))
    corners = [[[40, y, 1], [80, y, 1], [40, y + 20, 1], [80, y + 20, 1]] for y in (20, 60, 100)]
    (tmp_path / "a.json").write_text(json.dumps({"boxes": [], "keypoints": corners}))
    _, report = check(tmp_path, capsys)
    assert (report["schema"], report["vertebrae"]["V3"], report["vertebrae"]["V4"]) == ("generic40", 1, 0)
    message = codes(report)["vertebrae_that_never_occur"]["message"]
    assert message.endswith("V4, V5, V6, V7, V8, V9, V10.")


def test_people_get_a_table_of_severities(sound: AasceWriter, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "--task", "landmarks", "--data-dir", str(sound.write())]) == 0
    out = capsys.readouterr().out
    assert "aasce, landmarks aasce68, 8 images of 8 persons, all 256 x 128; 8 to train on" in out
    (row,) = (line.split() for line in out.splitlines() if line.strip().startswith("training"))
    assert row == ["training", "6", "6", "6", "0", "0", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "validation"], "no landmarks of split validation; there are: test, training"),
        (["--limit", "0"], "limit 0"),
        (["--format", "brixia"], "format brixia: unknown; known are auto, aasce"),
        (["--exclude", "i99"], "--exclude: the table names no i99"),
        (["--labels-csv", "labels.csv"], "--labels-csv: not of task landmarks"),
    ],
    ids=["split", "limit", "format", "unknown", "labels"],
)
def test_a_wrong_option_is_one_line(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["check-data", "--task", "landmarks", "--data-dir", str(sound.write()), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_radiograph_that_was_labelled_twice_says_how_far_labels_agree(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    # Noise again in a frame of 16 rows more: the same radiograph, whose column stands 8 pixels farther down.
    framed = np.pad(noise(0), ((16, 0), (0, 0)))
    sound.add(column() + np.array([0, 24]), framed, name="set-77 A AP.png", split="training")
    status, report = check(sound.write(), capsys)
    problem = codes(report)["near_duplicates"]
    assert (status, problem["level"]) == (0, "warning")
    assert problem["groups"] == [["training/set-01-000 A AP.png", "training/set-77 A AP.png"]]
    assert report["persons"] == 8
    agreement = report["agreement"]
    assert (agreement["n"], agreement["sdr_24"]) == (1, 100)
    assert agreement["mre_px"] == pytest.approx(8 * 512 / 272, abs=0.5)
    assert main(["check-data", "--task", "landmarks", "--data-dir", str(sound.directory)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Labels of the same radiographs against each other (n=1): MRE" in out


def test_a_radiograph_in_two_splits_is_a_person_in_two_splits(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add(column() + np.array([0, 16]), np.pad(noise(0), ((16, 0), (0, 0))), name="set-77 A AP.png", split="test")
    status, report = check(sound.write(), capsys)
    assert status == 1
    assert sorted(codes(report)["persons_across_splits"]["groups"][0]) == [
        "test/set-77 A AP.png",
        "training/set-01-000 A AP.png",
    ]


def test_copies_of_a_file_say_nothing_of_how_labels_agree(
    sound: AasceWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.add(image=noise(0), name="set-77 A AP.png", split="training")
    _, report = check(sound.write(), capsys)
    assert report["agreement"] is None
    assert "near_duplicates" not in codes(report)
    assert "duplicates" in codes(report)
