"""Sets of landmarks in each of the four formats: points in pixels and in order, persons, splits, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from landmark_sets import SIZE, AasceWriter, column, noise

from models.errors import ConfigurationError
from models.spine.schemas import SCHEMAS
from training.datasets.landmark_faults import LandmarkFault, LandmarkRepair
from training.datasets.landmark_images import LandmarkImages, read_landmark_images
from training.datasets.landmark_rows import LandmarkFormat, Points


def reasons(images: LandmarkImages) -> dict[str, str]:
    return {each.path.name: each.reason for each in images.unreadable}


# AASCE


def test_aasce_gives_pixels_of_normalised_landmarks(aasce: AasceWriter) -> None:
    name = aasce.add(image=noise(0), angles=(12.5, 3.0, 0.0), split="training")
    found = read_landmark_images(aasce.write())
    (image,) = found.images
    assert (found.format, found.schema) == (LandmarkFormat.AASCE, SCHEMAS["aasce68"])
    assert (image.source, image.split, image.size, image.angles) == (name, "training", SIZE, (12.5, 3.0, 0.0))
    np.testing.assert_allclose(image.points, column(), atol=1e-5)
    assert image.visible.all()


def test_aasce_rows_are_all_x_and_then_all_y(aasce: AasceWriter) -> None:
    aasce.add(image=noise(0), split="training")
    aasce.write()
    (line,) = (aasce.directory / "training_landmarks.csv").read_text().splitlines()
    values = [float(value) for value in line.split(",")]
    assert values[0] == pytest.approx(column()[0, 0] / 128)
    assert values[68] == pytest.approx(column()[0, 1] / 256)


def test_the_layout_of_the_challenge_is_read_too(aasce: AasceWriter, tmp_path: Path) -> None:
    aasce.add(image=noise(0), split="training")
    aasce.write()
    for what in ("filenames", "landmarks", "angles"):
        target = tmp_path / "set" / "labels" / "training" / f"{what}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        (aasce.directory / f"training_{what}.csv").rename(target)
    (tmp_path / "set" / "data").mkdir()
    (aasce.directory / "training").rename(tmp_path / "set" / "data" / "training")
    (image,) = read_landmark_images(tmp_path / "set").images
    assert (image.source, image.split) == ("data/training/set-01-000 A AP.png", "training")


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sunhl-1th-10-Jan-2017-237 A AP.png", "sunhl-1th-237"),
        ("sunhl-1th-11-Jan-2017-237 B AP.png", "sunhl-1th-237"),
        ("sunhl-1th-21-Nov-2016-138 D AP2.png", "sunhl-1th-138"),
        ("sunhl-1th-21-Nov-2016-138 D AP (2).png", "sunhl-1th-138"),
        ("sunhl-1th-20-Jul-2016-coronal6.png", "training/sunhl-1th-20-Jul-2016-coronal6.png"),
    ],
)
def test_aasce_names_say_the_person(aasce: AasceWriter, name: str, person: str) -> None:
    aasce.add(image=noise(0), name=name, split="training")
    (image,) = read_landmark_images(aasce.write()).images
    assert image.person == person


def test_aasce_splits_are_read_one_by_one_or_together(aasce: AasceWriter) -> None:
    aasce.add(image=noise(0), split="training")
    aasce.add(image=noise(1), split="test")
    data = aasce.write()
    assert [image.split for image in read_landmark_images(data).images] == ["training"]
    assert [image.split for image in read_landmark_images(data, split="test").images] == ["test"]
    assert [image.split for image in read_landmark_images(data, split=None).images] == ["test", "training"]
    with pytest.raises(ConfigurationError, match="no landmarks of split validation; there are: test, training"):
        read_landmark_images(data, split="validation")


def test_aasce_names_files_and_rows_that_cannot_be_used(aasce: AasceWriter) -> None:
    aasce.add(image=noise(0), split="training")
    for name, values in (
        ("short.png", ["0.5"] * 135),
        ("words.png", ["half"] * 136),
        ("nan.png", ["nan"] * 136),
        ("broken.png", ["0.5"] * 136),
    ):
        (aasce.directory / "training" / name).write_bytes(b"\x89PNG no image")
        aasce.add_row(name, values, split="training")
    aasce.add_row("gone.png", ["0.5"] * 136, split="training")
    aasce.add_row("../outside.png", ["0.5"] * 136, split="training")
    found = read_landmark_images(aasce.write())
    assert len(found.images) == 1
    assert found.missing == ("gone.png", "../outside.png")
    assert set(reasons(found)) == {"short.png", "words.png", "nan.png", "broken.png"}
    assert "135" in reasons(found)["short.png"]
    assert reasons(found)["words.png"] == "has landmarks that are not numbers"


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("filenames", "a.png\nb.png\n", "2 names, 1 rows of landmarks and 1 of angles; they must be as many"),
        ("angles", "1,2\n", "line 1: 3 angles in degrees are wanted"),
        ("angles", "1,2,much\n", "line 1: 3 angles in degrees are wanted"),
        ("angles", "1,2,nan\n", "line 1: 3 angles in degrees are wanted"),
    ],
)
def test_aasce_tables_that_do_not_belong_together_are_refused(
    aasce: AasceWriter, table: str, content: str, message: str
) -> None:
    aasce.add(image=noise(0), split="training")
    data = aasce.write()
    (data / f"training_{table}.csv").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_landmark_images(data)


def test_an_image_that_is_named_twice_is_refused(aasce: AasceWriter) -> None:
    aasce.add(image=noise(0), name="a.png", split="training")
    aasce.add(image=noise(0), name="a.png", split="training")
    with pytest.raises(ConfigurationError, match="names an image for the second time"):
        read_landmark_images(aasce.write())


def test_faulty_rows_are_left_out_unless_they_are_asked_for(aasce: AasceWriter) -> None:
    twice = column().reshape(17, 4, 2)
    twice[5] = twice[4]
    bad = aasce.add(twice.reshape(-1, 2), noise(0), split="training")
    swapped = column().reshape(17, 4, 2)[[1, 0, *range(2, 17)]]
    mended = aasce.add(swapped.reshape(-1, 2), noise(1), split="training")
    data = aasce.write()
    found = read_landmark_images(data)
    assert [image.source for image in found.images] == [mended]
    assert [image.source for image in found.faulty] == [bad]
    assert found.images[0].repairs == (LandmarkRepair.VERTEBRAE_SORTED,)
    np.testing.assert_allclose(found.images[0].points, column(), atol=1e-5)
    everything = read_landmark_images(data, keep_faulty=True)
    assert [image.source for image in everything.images] == [bad, mended]
    assert everything.faulty == ()
    assert LandmarkFault.DRAWN_TWICE in everything.images[0].faults
    assert not everything.images[0].usable


def test_the_digest_is_of_pixels_and_landmarks_and_of_no_path(tmp_path: Path) -> None:
    digests = []
    for number, shift in enumerate((0, 0, 1)):
        writer = AasceWriter(tmp_path / str(number))
        writer.add(column() + shift, noise(0), split="training")
        digests.append(read_landmark_images(writer.write()).digest)
    assert digests[0] == digests[1] != digests[2]


def test_excluded_images_are_left_out_by_any_of_their_names(aasce: AasceWriter) -> None:
    for number in range(4):
        aasce.add(image=noise(number), name=f"{number}.png", split="training")
    found = read_landmark_images(aasce.write(), exclude={"0", "1.png", "training/2.png", "other"})
    assert [image.source for image in found.images] == ["training/3.png"]
    assert set(found.excluded) == {"0", "1.png", "training/2.png"}


# BUU-LSPINE

LINES = {LandmarkFormat.BUU_AP: 10, LandmarkFormat.BUU_LA: 11}


def endplates(lines: int) -> Points:
    """Give both ends of each endplate, ``(lines, 2, 2)``, from top to bottom."""
    return np.array([[[40.0, 20 + 18 * line], [90.0, 22 + 18 * line]] for line in range(lines)])


def write_buu(stem: Path, ends: Points, labels: list[str] | None = None) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.jpg", noise(len(stem.name)))
    labels = labels or ["0"] * len(ends)
    lines = [
        ",".join([*(f"{value:g}" for value in line.ravel()), label]) for line, label in zip(ends, labels, strict=True)
    ]
    Path(f"{stem}.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("view", list(LINES))
def test_buu_endplates_become_corners_left_first(tmp_path: Path, view: LandmarkFormat) -> None:
    ends = endplates(LINES[view])
    right_first = ends[:, ::-1].copy()
    write_buu(tmp_path / "0007-F-037Y", right_first)
    found = read_landmark_images(tmp_path)
    (image,) = found.images
    assert (found.format, len(found.schema)) == (view, 2 * LINES[view])
    np.testing.assert_array_equal(image.points, ends.reshape(-1, 2))
    assert image.person == "buu-0007"
    assert image.repairs == (LandmarkRepair.CORNERS_SORTED,)


def test_buu_slips_are_those_of_the_lines(tmp_path: Path) -> None:
    write_buu(tmp_path / "0001-M-050Y1", endplates(11), [*"00300000040"])
    (image,) = read_landmark_images(tmp_path).images
    assert image.slips == (0, 0, 3, 0, 0, 0, 0, 0, 0, 4, 0)


def test_buu_views_of_one_set_are_told_apart(tmp_path: Path) -> None:
    write_buu(tmp_path / "AP" / "0001-F-037Y0", endplates(10))
    write_buu(tmp_path / "LA" / "0001-F-037Y1", endplates(11))
    with pytest.raises(ConfigurationError, match="landmarks of two views; choose --format buu-ap or buu-la"):
        read_landmark_images(tmp_path)
    frontal, lateral = (read_landmark_images(tmp_path, format=view) for view in LINES)
    assert (frontal.images[0].source, lateral.images[0].source) == ("AP/0001-F-037Y0.jpg", "LA/0001-F-037Y1.jpg")
    assert frontal.images[0].person == lateral.images[0].person


def test_buu_names_tables_that_are_malformed_and_images_that_are_missing(tmp_path: Path) -> None:
    for name, lines, labels in (
        ("0001-F-037Y0", 10, None),
        ("0002-F-037Y0", 9, None),
        ("0003-F-037Y0", 10, [*"000000000", "5"]),
        ("0004-F-037Y0", 10, [*"000000000", "x"]),
        ("0005-F-037Y0", 10, None),
    ):
        write_buu(tmp_path / name, endplates(lines), labels)
    (tmp_path / "0005-F-037Y0.jpg").unlink()
    (tmp_path / "persons.csv").write_text("name,age\nx,3\n")
    found = read_landmark_images(tmp_path)
    assert len(found.images) == 1
    assert found.missing == ("0005-F-037Y0.csv",)
    assert reasons(found) == {
        "0002-F-037Y0.jpg": "has 9 endplates where 10 are wanted",
        "0003-F-037Y0.jpg": "has a label that is no whole number from 0 to 4",
        "0004-F-037Y0.jpg": "has endplates that are not x1, y1, x2, y2, label",
    }


def test_folders_that_are_called_like_splits_are_splits(tmp_path: Path) -> None:
    write_buu(tmp_path / "train" / "0001-F-037Y0", endplates(10))
    write_buu(tmp_path / "test" / "0002-F-037Y0", endplates(10))
    assert [image.split for image in read_landmark_images(tmp_path).images] == ["train"]
    assert [image.split for image in read_landmark_images(tmp_path, split="test").images] == ["test"]
    assert len(read_landmark_images(tmp_path, split=None).images) == 2
    with pytest.raises(ConfigurationError, match="no landmarks of split val; there are: test, train"):
        read_landmark_images(tmp_path, split="val")


# Generic keypoints


def write_generic(stem: Path, keypoints: object) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.png", noise(1))
    Path(f"{stem}.json").write_text(json.dumps({"boxes": [], "keypoints": keypoints}))


def keypoints_of(bodies: Points) -> list[list[list[float]]]:
    return [[[x, y, 1.0] for x, y in body.tolist()] for body in bodies]


def test_generic_vertebrae_run_from_top_to_bottom_whatever_the_order(tmp_path: Path) -> None:
    bodies = column().reshape(17, 4, 2)[:5]
    shuffled = bodies[[3, 0, 4, 1, 2]][:, [2, 3, 1, 0]]
    write_generic(tmp_path / "a", keypoints_of(shuffled))
    found = read_landmark_images(tmp_path)
    (image,) = found.images
    assert (found.format, len(image.points)) == (LandmarkFormat.GENERIC, 40)
    np.testing.assert_array_equal(image.points[:20], bodies.reshape(-1, 2))
    assert not image.visible[20:].any()


def test_generic_corners_that_are_not_seen_are_not_there(tmp_path: Path) -> None:
    keypoints = keypoints_of(column().reshape(17, 4, 2)[:3])
    keypoints[1][2] = [0.0, 0.0, 0.0]
    write_generic(tmp_path / "a", keypoints)
    (image,) = read_landmark_images(tmp_path).images
    assert np.flatnonzero(~image.visible[:12]).tolist() == [6]


def test_generic_annotations_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_generic(tmp_path / split / "images" / "0003-F-037Y1", keypoints_of(column().reshape(17, 4, 2)[:5]))
        target = tmp_path / split / "annotations" / "0003-F-037Y1.json"
        target.parent.mkdir()
        (tmp_path / split / "images" / "0003-F-037Y1.json").rename(target)
    (image,) = read_landmark_images(tmp_path, split="val").images
    assert (image.source, image.person) == ("val/images/0003-F-037Y1.png", "buu-0003")


def test_generic_names_files_that_are_malformed_and_images_that_are_missing(tmp_path: Path) -> None:
    bodies = column().reshape(17, 4, 2)
    write_generic(tmp_path / "good", keypoints_of(bodies[:5]))
    write_generic(tmp_path / "many", keypoints_of(bodies[:11]))
    write_generic(tmp_path / "none", [])
    write_generic(tmp_path / "three", [[[1, 2, 1]] * 3])
    write_generic(tmp_path / "words", [[["a", 2, 1]] * 4])
    write_generic(tmp_path / "gone", keypoints_of(bodies[:5]))
    (tmp_path / "gone.png").unlink()
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    found = read_landmark_images(tmp_path)
    assert [image.source for image in found.images] == ["good.png"]
    assert found.missing == ("gone.json",)
    malformed = "has keypoints that are not 4 times x, y, v of each vertebra"
    assert reasons(found) == {
        "many.png": "has 11 vertebrae; at most 10 are known",
        "none.png": "has no landmark",
        "three.png": malformed,
        "words.png": malformed,
    }


# All of them


def test_a_directory_that_is_none_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no landmarks in a known format"):
        read_landmark_images(tmp_path)
    with pytest.raises(ConfigurationError, match="no such directory"):
        read_landmark_images(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="format brixia: unknown; known are auto, aasce, buu-ap"):
        read_landmark_images(tmp_path, format="brixia")


def test_a_set_of_which_nothing_can_be_used_is_refused(aasce: AasceWriter) -> None:
    twice = column().reshape(17, 4, 2)
    twice[5] = twice[4]
    aasce.add(twice.reshape(-1, 2), noise(0), split="training")
    data = aasce.write()
    with pytest.raises(ConfigurationError, match="none of its 1 images with landmarks can be used"):
        read_landmark_images(data)
