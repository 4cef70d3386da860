"""Pictures of landmarks: drawn of whatever a set holds, and the same bytes for the same figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from landmark_sets import column, noise

from models.spine.schemas import SCHEMAS
from training.datasets.landmark_images import LandmarkImage
from training.landmark_evaluation import landmark_metrics, radial_errors_px
from training.landmark_plots import (
    LandmarkSample,
    draw_cobb,
    draw_errors,
    draw_landmark_sample,
    draw_vertebrae,
)


def sample() -> LandmarkSample:
    return LandmarkSample(
        display=noise(0),
        name="spine.png",
        answered=column() + 2,
        truth=column(),
        confidence=np.full(68, 0.9),
        schema=SCHEMAS["aasce68"],
        error_px=5.66,
        angles=([10.0, np.nan, 0.0], (12.0, 3.0, 0.0)),
        faults=("vertebrae_overlap",),
    )


def test_a_sample_shows_truth_in_orange_and_the_network_in_blue(tmp_path: Path) -> None:
    draw_landmark_sample(tmp_path / "sample.png", sample())
    blue, _, red = np.moveaxis(cv2.imread(str(tmp_path / "sample.png")).astype(int), 2, 0)
    assert ((red - blue > 120) & (red > 180)).sum() > 300
    assert ((blue - red > 120) & (blue > 180)).sum() > 300
    draw_landmark_sample(tmp_path / "again.png", sample())
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sample.png").read_bytes()


def test_samples_that_lack_landmarks_and_angles_are_drawn(tmp_path: Path) -> None:
    truth = column()
    truth[:5] = np.nan
    sacrum = replace(
        sample(), truth=truth[:22], answered=column()[:22], schema=SCHEMAS["buu_la22"], confidence=np.ones(22)
    )
    draw_landmark_sample(tmp_path / "lacking.png", replace(sacrum, angles=([np.nan] * 3, None), faults=()))
    draw_landmark_sample(tmp_path / "wide.png", replace(sample(), display=noise(1, (60, 400))))
    assert all(cv2.imread(str(path)).std() > 10 for path in tmp_path.glob("*.png"))


def test_sets_without_angles_without_intervals_and_of_few_vertebrae_are_drawn(tmp_path: Path) -> None:
    points = np.full((40, 2), np.nan)
    points[:8] = 100.0
    image = LandmarkImage(Path("a"), "a", "a", "h", (512, 512), points)
    answers = np.full((1, 40, 2), 100.0)
    metrics = landmark_metrics([image], answers, SCHEMAS["generic40"], bootstrap=0)
    draw_errors(tmp_path / "errors.png", radial_errors_px([image], answers), metrics, "title")
    draw_vertebrae(tmp_path / "vertebrae.png", metrics, "title")
    draw_cobb(tmp_path / "cobb.png", np.full((1, 3), np.nan), np.full((1, 3), np.nan), metrics, "title")
    assert len(list(tmp_path.glob("*.png"))) == 3
