"""Pictures of zone scores in cases that real sets seldom have: nothing graded, frames beyond the film, no interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.pixels.lung_fields import Frame
from models.zones import Congestion
from training.zone_evaluation import ZoneAnswers, zone_metrics
from training.zone_plots import (
    ZoneSample,
    agreements,
    draw_agreement,
    draw_mean_csi,
    draw_zone_confusion,
    draw_zone_confusions,
    draw_zone_sample,
)

UNGRADABLE = int(Congestion.UNGRADABLE)


def sample() -> ZoneSample:
    cam = np.zeros((6, 6, 4), np.float32)
    cam[0, :2, :2] = 1  # the patient's right upper zone
    return ZoneSample(
        display=np.full((120, 120), 128, np.uint8),
        frame=Frame(0.25, 0.25, 0.75, 0.75),
        cam=cam,
        name="film.png",
        called=[2, 0, 0, 0, 0, 0],
        expected=[2.0, 0.1, 0.1, 0.1, 0.1, 0.1],
        readers=[[3, 0, 0, 0, 0, 0]],
        error=1 / 6,
        mean_csi=(2 / 6, 3 / 6),
    )


def test_heat_lies_in_its_zone_of_the_frame(tmp_path: Path) -> None:
    draw_zone_sample(tmp_path / "hot.png", sample())
    draw_zone_sample(tmp_path / "cold.png", replace(sample(), cam=np.zeros((6, 6, 4), np.float32)))
    hot, cold = (cv2.imread(str(tmp_path / name)).astype(int) for name in ("hot.png", "cold.png"))
    rows, columns = np.nonzero(np.abs(hot - cold).max(axis=2) > 60)
    # The second of three panels; the frame begins at a quarter of the film, its upper right zone ends at a half.
    height, width = hot.shape[:2]
    within = columns / width * 3 - 1
    assert within.min() == pytest.approx(0.25, abs=0.03)
    assert within.max() < 0.53
    assert (rows.max() - rows.min()) / (width / 3) == pytest.approx(0.5 / 3, abs=0.05)
    assert rows.max() < 0.55 * height


def test_frames_beyond_the_film_and_zones_nobody_graded_are_drawn(tmp_path: Path) -> None:
    strange = replace(
        sample(),
        frame=Frame(-0.1, -0.2, 1.05, 1.3),
        called=[UNGRADABLE, 0, 0, 0, 0, 0],
        readers=[[UNGRADABLE, 3, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]],
    )
    draw_zone_sample(tmp_path / "strange.png", strange)
    draw_zone_sample(tmp_path / "again.png", strange)
    assert (tmp_path / "strange.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_sets_with_one_grade_and_without_intervals_are_drawn(tmp_path: Path) -> None:
    truth = np.full((2, 6), UNGRADABLE)
    truth[:, 1] = 2
    metrics = zone_metrics(truth, ZoneAnswers.of_reader(np.full((2, 6), 2)), groups=["a", "b"], bootstrap=0)
    assert metrics["kappa_quadratic"] is None
    draw_zone_confusion(tmp_path / "matrix.png", metrics, "title")
    draw_zone_confusions(tmp_path / "matrices.png", metrics, "title")
    draw_mean_csi(tmp_path / "means.png", np.array([2.0, 2.0]), np.array([2.0, 2.0]), metrics, "title")
    draw_agreement(tmp_path / "agreement.png", agreements(metrics, metrics), "title")
    assert len(list(tmp_path.glob("*.png"))) == 4
