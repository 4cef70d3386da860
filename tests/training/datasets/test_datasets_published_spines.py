"""The spines that the AASCE challenge published: whose they are, their faults, and their angles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import main
from training.datasets import landmark_images
from training.datasets.landmark_images import LandmarkImages, read_landmark_images
from training.datasets.landmark_splits import kfold_landmarks
from training.landmark_agreement import label_agreement
from training.landmark_evaluation import given_angles, landmark_metrics, measured_angles

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "aasce"

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/aasce")


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """Decode each radiograph once, however often the set is read, and look once for those that are there twice."""
    find = cache(landmark_images.find_near_duplicates)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(landmark_images, "find_near_duplicates", lambda keypoints: find(tuple(keypoints)))
        monkeypatch.setattr(landmark_images, "_look_closely", cache(landmark_images._look_closely))
        yield


@pytest.fixture(scope="module")
def real_aasce(read_once: None) -> LandmarkImages:
    """The published radiographs, those with faulty landmarks among them."""
    return read_landmark_images(REAL, keep_faulty=True)


def test_aasce_is_split_by_the_person_in_its_names(real_aasce: LandmarkImages) -> None:
    images = [image for image in real_aasce.images if image.usable]
    assert len(images) == 472
    shots = [image.person for image in images if "-237 " in image.source]
    assert len(shots) > 3
    assert len(set(shots)) == 1
    splits = kfold_landmarks(images, 5, seed=0)
    assert sum(len(split.validation) for split in splits) == 472
    for split in splits:
        assert not {image.person for image in split.train} & {image.person for image in split.validation}


def test_radiographs_that_aasce_published_twice_are_one_persons(real_aasce: LandmarkImages) -> None:
    pairs = [{pair.first.path.stem[10:], pair.second.path.stem[10:]} for pair in real_aasce.near_duplicates]
    assert len(pairs) == 24
    # Seen by eye to be one exposure, cut out anew; labelled twice, under numbers of two persons.
    assert {"10-Jan-2017-238 C AP", "10-Jan-2017-239 C AP"} in pairs
    assert {"20-Jul-2016-coronal11", "25-Jul-2016-63 C AP"} in pairs
    assert {"26-Jul-2016-80 A AP", "30-Dec-2016-159 A AP2"} in pairs
    persons = {image.path.stem[10:]: image.person for image in real_aasce.images}
    assert persons["10-Jan-2017-238 A AP"] == persons["10-Jan-2017-239 B AP"]
    assert persons["19-Jan-2017-275 C AP"] == persons["20-Jan-2017-275 D AP"] != persons["16-Jan-2017-274 A AP"]
    assert len(set(persons.values())) == 223


def test_labels_of_the_same_radiographs_differ_as_two_readers_do(real_aasce: LandmarkImages) -> None:
    agreement = label_agreement(real_aasce.near_duplicates, real_aasce.schema)
    assert agreement is not None
    assert 5 < agreement["mre_px"] < 7
    assert 88 < agreement["sdr_24"] < 95
    assert 7 < agreement["cobb_smape"] < 10
    assert agreement["columns"] == {"named": 21, "level_off": 1, "slipped": 2}


def test_the_published_angles_are_those_of_the_published_landmarks(real_aasce: LandmarkImages) -> None:
    sound = [each for each in real_aasce.images if not each.repairs and not each.faults]
    points = np.stack([each.points for each in sound])
    assert len(sound) > 440
    apart = np.abs(given_angles(sound) - measured_angles(sound, points, real_aasce.schema))
    # The landmarks are rounded to five digits of the image's sides: a tenth of a degree.
    assert apart.max() < 0.15
    metrics = landmark_metrics(sound, points, real_aasce.schema, bootstrap=0)
    assert (metrics["mre_px"], metrics["sdr_6"]) == (0, 100)
    assert metrics["cobb_smape"] < 0.1


def test_the_two_dozen_rows_out_of_order_of_aasce_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "--task", "landmarks", "--data-dir", str(REAL), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["usable"]) == (481, 472)
    problems = {each["code"]: each for each in report["problems"]}
    problem = problems["vertebrae_out_of_order"]
    done = [group[0].rpartition(": ")[2] for group in problem["groups"]]
    assert (done.count("sorted from top to bottom"), done.count("left out of training")) == (17, 7)
    # Found by another way: the mean y of a row's vertebrae, as they stand in the table, does not rise throughout.
    table = np.loadtxt(REAL / "training_landmarks.csv", delimiter=",")
    heights = table[:, 68:].reshape(len(table), 17, 4).mean(axis=2)
    names = (REAL / "training_filenames.csv").read_text().splitlines()
    expected = {f"training/{names[row]}" for row in np.flatnonzero((np.diff(heights) <= 0).any(axis=1))}
    assert {group[0].rpartition(": ")[0] for group in problem["groups"]} == expected
    assert len(problems["vertebra_drawn_twice"]["groups"]) == 7
