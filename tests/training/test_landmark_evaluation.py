"""Measures of landmarks, against values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from landmark_sets import column

from models.spine.schemas import SCHEMAS
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_rows import Angles, Points
from training.landmark_evaluation import (
    HEADLINES,
    given_angles,
    image_errors_px,
    landmark_metrics,
    measured_angles,
    radial_errors_px,
)

AASCE, GENERIC = SCHEMAS["aasce68"], SCHEMAS["generic40"]


def image(
    points: Points, size: tuple[int, int] = (1024, 512), person: str = "", angles: Angles | None = None
) -> LandmarkImage:
    number = f"{person or 'p'}.png"
    return LandmarkImage(Path(number), number, person or number, "h", size, points, angles=angles)


def test_distances_are_in_a_letterbox_of_512_pixels_and_pooled_over_landmarks() -> None:
    truth = np.zeros((40, 2)) + 100
    images = [image(truth, (1024, 512), "a"), image(truth, (128, 256), "b")]
    points = np.stack([truth, truth])
    points[0] += [6, 8]  # 10 px of the original, 5 of the letterbox
    points[1, :20, 0] += 10  # 20 px of the letterbox
    metrics = landmark_metrics(images, points, GENERIC, bootstrap=0)
    assert metrics["mre_px"] == pytest.approx((40 * 5 + 20 * 20) / 80)
    assert [metrics[f"sdr_{limit}"] for limit in (6, 12, 18, 24)] == [75, 75, 75, 100]
    assert (metrics["n"], metrics["landmarks"]) == (2, 80)
    assert image_errors_px(images, points).tolist() == [5, 10]
    per = metrics["per_vertebra"]
    assert list(per) == list(GENERIC.vertebrae)
    assert per["V1"] == {"mre_px": 12.5, "sdr_6": 50, "sdr_12": 50, "sdr_18": 50, "sdr_24": 100, "landmarks": 8}
    assert per["V10"]["mre_px"] == 2.5


def test_landmarks_that_are_not_there_do_not_count_and_images_count_by_their_landmarks() -> None:
    full = np.zeros((40, 2))
    few = np.full((40, 2), np.nan)
    few[:8] = 0
    images = [image(full, (512, 512), "a"), image(few, (512, 512), "b")]
    points = np.zeros((2, 40, 2))
    points[1] += [12, 0]
    metrics = landmark_metrics(images, points, GENERIC, bootstrap=0)
    assert metrics["landmarks"] == 48
    assert metrics["mre_px"] == pytest.approx(8 * 12 / 48)
    assert metrics["sdr_6"] == pytest.approx(100 * 40 / 48, abs=1e-6)
    assert metrics["per_vertebra"]["V3"]["landmarks"] == 4
    assert np.isnan(radial_errors_px(images, points)[1, 8:]).all()


def test_a_landmark_without_an_answer_is_as_far_off_as_the_letterbox_is_wide() -> None:
    truth = np.zeros((40, 2))
    points = truth.copy()
    points[0] = np.nan
    metrics = landmark_metrics(
        [image(truth, (200, 100))], points[np.newaxis], GENERIC, spacings=np.array([[0.5, 0.5]]), bootstrap=0
    )
    assert metrics["mre_px"] == pytest.approx(512 / 40)
    assert metrics["sdr_24"] == pytest.approx(97.5)
    assert metrics["mre_mm"] == pytest.approx(200 * 0.5 / 40)


def test_millimetres_take_the_spacing_of_rows_for_y_and_of_columns_for_x() -> None:
    truth = np.zeros((40, 2))
    images = [image(truth, (512, 512), "a"), image(truth, (512, 512), "b")]
    points = np.zeros((2, 40, 2)) + np.array([3, 4])
    spacings = np.array([[0.5, 2.0], [np.nan, np.nan]])
    metrics = landmark_metrics(images, points, GENERIC, spacings=spacings, bootstrap=20)
    assert metrics["mre_mm"] == pytest.approx(np.hypot(3 * 2, 4 * 0.5), abs=1e-6)
    assert metrics["with_spacing"] == 1
    unknown = landmark_metrics(images, points, GENERIC, bootstrap=20)
    assert unknown["mre_mm"] is None
    assert unknown["intervals"]["mre_mm"] == [None, None]


def test_cobb_angles_are_compared_with_those_that_came_with_the_image() -> None:
    straight = column((1024, 512))
    # T8 is turned by 20 degrees: main 20 between a straight vertebra and it.
    curved = column((1024, 512), [0.0] * 7 + [20.0] + [0.0] * 9)
    images = [
        image(straight, person="a", angles=(30.0, 10.0, 0.0)),
        image(straight, person="b", angles=(20.0, 20.0, 10.0)),
        image(straight, person="c"),
    ]
    points = np.stack([straight, curved, curved])
    measured = measured_angles(images, points, AASCE)
    assert measured[0].tolist() == [0, 0, 0]
    assert measured[1, 0] == pytest.approx(20)
    given = given_angles(images)
    apart = np.abs(measured[1] - given[1]).sum()
    smape = (100 + 100 * apart / (measured[1].sum() + 50)) / 2
    metrics = landmark_metrics(images, points, AASCE, bootstrap=0)
    assert metrics["cobb_smape"] == pytest.approx(smape, abs=1e-6)
    assert metrics["cobb_mae"] == pytest.approx((40 / 3 + apart / 3) / 2, abs=1e-6)
    assert metrics["with_angles"] == 2


def test_straight_spines_that_are_called_straight_have_no_error_and_lacking_vertebrae_are_no_angles() -> None:
    straight = column((1024, 512))
    images = [image(straight, person="a", angles=(0.0, 0.0, 0.0)), image(straight, person="b", angles=(30.0, 0.0, 9.0))]
    points = np.stack([straight, straight])
    points[1, 4] = np.nan
    metrics = landmark_metrics(images, points, AASCE, bootstrap=0)
    assert metrics["cobb_smape"] == 50
    assert metrics["cobb_mae"] == pytest.approx(39 / 3 / 2)


def test_sets_without_angles_have_none() -> None:
    truth = np.zeros((40, 2))
    metrics = landmark_metrics([image(truth)], truth[np.newaxis], GENERIC, bootstrap=10)
    assert (metrics["cobb_smape"], metrics["cobb_mae"], metrics["with_angles"]) == (None, None, 0)


def test_keys_stand_in_their_order_and_the_same_answers_give_the_same_bytes() -> None:
    truth = column((1024, 512))
    images = [image(truth, person=f"p{number // 2}", angles=(5.0, 2.0, 1.0)) for number in range(6)]
    points = truth + np.random.default_rng(0).normal(0, 9, (6, 68, 2))
    metrics = landmark_metrics(images, points, AASCE, bootstrap=50)
    keys = [*HEADLINES, "per_vertebra", "columns", "angles_as_landmarks_lie"]
    keys += ["n", "landmarks", "with_spacing", "with_angles", "intervals"]
    assert list(metrics) == keys
    assert HEADLINES[:6] == ("mre_px", "sdr_6", "sdr_12", "sdr_18", "sdr_24", "mre_mm")
    assert list(metrics["intervals"]) == list(HEADLINES)
    assert json.dumps(metrics) == json.dumps(landmark_metrics(images, points, AASCE, bootstrap=50))
    for name in ("mre_px", "sdr_12", "cobb_smape"):
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high


def test_intervals_are_over_persons_not_over_images() -> None:
    truth = np.zeros((40, 2))
    points = np.zeros((40, 40, 2))
    points[20:] += [10, 0]
    alone = [image(truth, (512, 512), person=f"p{number}") for number in range(40)]
    two = [replace(each, person=f"p{number // 20}") for number, each in enumerate(alone)]
    narrow = landmark_metrics(alone, points, GENERIC, bootstrap=200)["intervals"]["mre_px"]
    wide = landmark_metrics(two, points, GENERIC, bootstrap=200)["intervals"]["mre_px"]
    assert wide == [0, 10]
    assert 2 < narrow[0] < 5 < narrow[1] < 8
