"""What the active version's answers to held-out persons of a new run come to; every answer is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from landmark_sets import SIZE, AasceWriter, noise
from zone_sets import ZoneSetWriter

from models.errors import ConfigurationError
from models.store.store import ModelStore
from models.tasks import Task
from training.datasets.landmark_images import read_landmark_images
from training.datasets.landmark_splits import LandmarkSplit
from training.datasets.zone_images import read_zone_images
from training.datasets.zone_splits import ZoneSplit
from training.landmark_run import write_landmark_data
from training.regenerate_measure import measure_version
from training.run import RunDirectory
from training.zone_run import write_zone_data


def folder(tmp_path: Path, number: int) -> RunDirectory:
    run = RunDirectory(tmp_path / f"fold-{number}")
    run.path.mkdir()
    return run


def test_zones_of_every_fold_are_measured_together(csi_store: Path, zone_set: ZoneSetWriter, tmp_path: Path) -> None:
    for grades in ((0, 1, 2, 3, 2, 1), (3, 3, 2, 1, 0, 0), (1, 0, 3, 2, 1, 0)):
        zone_set.add(grades, grades)
    zone_set.add((0, 0, 1, 2, 3, 3), (0, 0, 1, 2, 3, 1))  # the reader of the last zone differs by 2
    data_dir = zone_set.write_brixia("S")
    images = read_zone_images(data_dir)
    runs = []
    for number, held in enumerate((slice(0, 2), slice(2, 4))):
        runs.append(folder(tmp_path, number))
        write_zone_data(runs[-1], images, ZoneSplit((), images.images[held]), {})
    version = ModelStore(csi_store).open(Task.CSI)
    measured = measure_version(version, runs, data_dir)
    assert (measured["n"], measured["mae_zone"]) == (4, pytest.approx(2 / 24, abs=1e-6))
    assert measure_version(version, runs[:1], data_dir)["kappa_quadratic"] == 1.0


def test_landmarks_are_measured_and_those_of_another_schema_are_refused(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path
) -> None:
    aasce.add()
    aasce.add(image=np.full(SIZE, 51, np.uint8))  # a mean of 0.1 of the input: off by 8 of 512 pixels in x and y
    aasce.add(image=noise(3))  # not held out
    data_dir = aasce.write()
    images = read_landmark_images(data_dir, split="test")
    run = folder(tmp_path, 0)
    write_landmark_data(run, images, LandmarkSplit(images.images[2:], images.images[:2]), {})
    version = ModelStore(landmark_store).open(Task.LANDMARKS)
    measured = measure_version(version, [run], data_dir)
    assert measured["n"] == 2
    assert measured["mre_px"] == pytest.approx(8 * 2**0.5 / 2, rel=0.02)
    run.write_json("data.json", {**run.read_json("data.json"), "schema": "buu-ap"})
    with pytest.raises(ConfigurationError, match="finds landmarks aasce68, these images have buu-ap"):
        measure_version(version, [run], data_dir)


def test_an_image_that_was_changed_since_is_not_measured(
    csi_store: Path, zone_set: ZoneSetWriter, tmp_path: Path
) -> None:
    for grades in ((0, 1, 2, 3, 2, 1), (3, 3, 2, 1, 0, 0)):
        zone_set.add(grades, grades)
    data_dir = zone_set.write_brixia("S")
    images, run = read_zone_images(data_dir), folder(tmp_path, 0)
    write_zone_data(run, images, ZoneSplit((), images.images), {})
    first, second = (image.path for image in images.images)
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConfigurationError, match="has other pixels"):
        measure_version(ModelStore(csi_store).open(Task.CSI), [run], data_dir)
