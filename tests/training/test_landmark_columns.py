"""Films counted by the names of their bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from landmark_sets import column

from models.spine.schemas import SCHEMAS
from training.datasets.landmark_images import LandmarkImage
from training.landmark_columns import ColumnCounts, column_counts, levels_off
from training.landmark_evaluation import landmark_metrics
from training.landmark_measure import describe_landmarks

AASCE = SCHEMAS["aasce68"]
SIZE = (1024, 512)
GAP = 3.4 * 16
"""Pixels between middles."""


def _lower(distances: list[float]) -> np.ndarray:
    """A straight column, each vertebra so many distances lower than it would be."""
    return column(SIZE) + np.repeat([[0.0, GAP * distance] for distance in distances], 4, axis=0)


@pytest.mark.parametrize(
    ("lower", "levels"),
    [
        ([0.4] * 17, [0] * 17),
        ([0.6] * 17, [1] * 17),
        ([-2.0] * 17, [-2] * 17),
        ([0.0] * 8 + [1.0] * 9, [0] * 8 + [1] * 9),
    ],
)
def test_a_vertebra_is_put_down_to_the_nearest_body_also_beyond_the_column(
    lower: list[float], levels: list[int]
) -> None:
    assert levels_off(column(SIZE), _lower(lower)).tolist() == levels


def _image(person: str) -> LandmarkImage:
    return LandmarkImage(Path(f"{person}.png"), person, person, "h", SIZE, column(SIZE), angles=(5.0, 2.0, 1.0))


def test_films_are_counted_and_told_by_the_names_of_their_bodies() -> None:
    images = [_image(name) for name in "abcd"]
    points = np.stack([each.points for each in images])
    points[1, :, 1] += GAP
    points[2, 4 * 9 :, 1] += GAP
    points[3] = np.nan
    assert column_counts(images, points, AASCE) == ColumnCounts(named=1, level_off=1, slipped=1)
    metrics = landmark_metrics(images, points, AASCE, bootstrap=0)
    assert metrics["columns"] == {"named": 1, "level_off": 1, "slipped": 1}
    assert describe_landmarks("test", metrics).endswith("; 1 named right, 1 a level off, 1 slipped")


def test_other_schemas_have_no_column_to_count() -> None:
    generic = SCHEMAS["generic40"]
    truth = np.zeros((40, 2))
    images = [LandmarkImage(Path("a.png"), "a", "a", "h", SIZE, truth)]
    metrics = landmark_metrics(images, truth[np.newaxis], generic, bootstrap=0)
    assert metrics["columns"] is None
    assert "named right" not in describe_landmarks("test", metrics)
