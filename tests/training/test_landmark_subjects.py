"""What finds landmarks: a version of the store as it serves, and which versions are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from landmark_sets import column, write_landmark_version

from models.errors import ConfigurationError
from models.pixels.spec import Framing, InputSpec
from models.spine.schemas import SCHEMAS
from models.store.store import open_version
from models.tasks import Task
from training.landmark_subjects import EngineLandmarkSubject


def test_the_active_version_answers_in_pixels_of_its_input(landmark_store: Path) -> None:
    subject = EngineLandmarkSubject.open(landmark_store, "active", threads=1)
    assert (subject.name, subject.schema) == ("landmarks 1.0.0", SCHEMAS["aasce68"])
    images = np.zeros((2, 1, 64, 64), np.float32)
    images[1] = 0.25
    outputs = subject.answer(images)
    expected = column((64, 32)) + np.array([16, 0])
    np.testing.assert_allclose(outputs.landmarks, [expected, expected + 2.5], atol=1e-4)
    assert (outputs.confidence.shape, outputs.spread.shape) == ((2, 68), (2, 68))


def test_a_version_is_described_without_paths_and_times(landmark_store: Path) -> None:
    described = EngineLandmarkSubject.open(landmark_store, "1.0.0", threads=1).describe()
    assert (described["subject"], described["kind"], described["schema"]) == ("landmarks 1.0.0", "engine", "aasce68")
    assert described["tilt_scatter"] is None
    assert str(landmark_store) not in str(described)
    assert "2026" not in str(described)


def test_angles_are_read_with_the_scatter_of_the_version(tmp_path: Path) -> None:
    write_landmark_version(tmp_path / "1.0.0", tilt_scatter=1.5)
    assert EngineLandmarkSubject(open_version(tmp_path / "1.0.0"), threads=1).tilt_scatter == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": Task.CSI}, "is of task csi; landmarks are found by task landmarks"),
        ({"labels": ("a", "b")}, "its labels are no schema of landmarks"),
        ({"labels": SCHEMAS["buu_ap20"].labels}, r"output landmarks must be \(N, 20, 2\)"),
        ({"output_names": ("landmarks", "confidence")}, "names no output spread"),
        ({"input_spec": InputSpec(height=64, width=64, framing=Framing.LUNGS)}, "looked for in the whole image"),
    ],
    ids=["task", "labels", "schema", "outputs", "framing"],
)
def test_a_version_that_finds_no_landmarks_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_landmark_version(tmp_path / "1.0.0", **changes)
    with pytest.raises(ConfigurationError, match=message):
        EngineLandmarkSubject(open_version(tmp_path / "1.0.0"), threads=1)


def test_a_version_that_is_not_there_is_refused(landmark_store: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no version 9\.9\.9"):
        EngineLandmarkSubject.open(landmark_store, "9.9.9")
