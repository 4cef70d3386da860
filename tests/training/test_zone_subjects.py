"""What grades zones: a version of the store as it serves, and which versions are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zone_sets import write_csi_version

from models.errors import ConfigurationError
from models.store.store import open_version
from models.tasks import Task
from models.zones import ZONES, Congestion, Zone
from training.zone_subjects import EngineZoneSubject


def test_the_active_version_answers_zone_by_zone(csi_store: Path) -> None:
    subject = EngineZoneSubject.open(csi_store, "active", threads=1)
    assert (subject.name, subject.input_spec.height, subject.input_spec.width) == ("csi 1.0.0", 24, 16)
    images = np.zeros((2, 1, 24, 16), np.float32)
    images[1, :, 8:16, 8:] = 0.5  # middle row, right half of the image: the patient's left
    probability, cam = subject.answer(images)
    assert (probability.shape, cam.shape) == ((2, 6, 5), (2, 6, 3, 2))
    zone = ZONES.index(Zone.LEFT_MID)
    assert probability[1].argmax(axis=1).tolist() == [0, 0, 0, Congestion.MODERATE, 0, 0]
    np.testing.assert_allclose(cam[1, zone], [[0, 0], [0, 0.5], [0, 0]])


def test_a_version_is_described_without_paths_and_times(csi_store: Path) -> None:
    described = EngineZoneSubject.open(csi_store, "1.0.0", threads=1).describe()
    assert (described["subject"], described["kind"], described["network"]) == ("csi 1.0.0", "engine", "brightness")
    assert str(csi_store) not in str(described)
    assert "2026" not in str(described)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": Task.PNEUMONIA}, "is of task pneumonia; zones are graded by task csi"),
        ({"labels": ("a", "b", "c", "d", "e")}, "has not the labels normal, mild, moderate, severe, ungradable"),
        ({"output_names": ("probability",)}, r"has not the outputs probability \(N, 6, 5\) and cam \(N, 6, h, w\)"),
    ],
    ids=["task", "labels", "outputs"],
)
def test_a_version_that_grades_no_zones_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_csi_version(tmp_path / "1.0.0", **changes)
    with pytest.raises(ConfigurationError, match=message):
        EngineZoneSubject(open_version(tmp_path / "1.0.0"), threads=1)


def test_a_version_that_is_not_there_is_refused(csi_store: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no version 9\.9\.9"):
        EngineZoneSubject.open(csi_store, "9.9.9")
