"""The scatter of tilts that suits held-out answers best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from landmark_sets import SIZE, column

from models.spine.cobb import cobb_angles
from models.spine.schemas import SCHEMAS, LandmarkSchema
from training.datasets.landmark_images import LandmarkImage
from training.landmark_evaluation import LandmarkAnswers
from training.landmark_readings import FEWEST_FILMS, found_tilt_scatter
from training.located_images import LocatedImages

AASCE = SCHEMAS["aasce68"]


def _answers(films: int, scatter: float, *, with_angles: bool = True) -> LocatedImages:
    """Give films answered without an error, whose angles came from readers with a scatter."""
    random = np.random.default_rng(3)
    images, points = [], []
    for number in range(films):
        bend = random.uniform(2, 25)
        tilts = bend * np.sin(np.linspace(0, np.pi * random.uniform(1, 2), 17))
        read = cobb_angles(AASCE, column(tilts=tilts + random.normal(0, scatter, 17)), SIZE[0])
        first, second, third = (angle.degrees for angle in read)
        answer = column(tilts=tilts)
        points.append(answer)
        angles = (first, second, third) if with_angles else None
        images.append(LandmarkImage(Path("a.png"), "a.png", f"person {number}", "h", SIZE, answer, angles=angles))
    return _located(AASCE, images, np.array(points))


def _located(schema: LandmarkSchema, images: list[LandmarkImage], points: np.ndarray) -> LocatedImages:
    sure, nothing = np.ones(points.shape[:2]), np.full((len(images), 2), np.nan)
    return LocatedImages(tuple(images), schema, LandmarkAnswers(points, sure), sure, nothing)


@pytest.mark.parametrize("scatter", [1.0, 2.0])
def test_the_scatter_of_the_readers_is_found(scatter: float) -> None:
    assert found_tilt_scatter(_answers(60, scatter)) == pytest.approx(scatter, abs=0.4)


def test_landmarks_that_readers_agree_on_are_measured_as_they_lie() -> None:
    assert found_tilt_scatter(_answers(FEWEST_FILMS, 0.0)) is None


def test_a_few_films_and_films_without_angles_tell_no_scatter() -> None:
    assert found_tilt_scatter(_answers(FEWEST_FILMS - 1, 2.0)) is None
    assert found_tilt_scatter(_answers(FEWEST_FILMS, 2.0, with_angles=False)) is None


def test_a_part_of_a_spine_has_none() -> None:
    schema = SCHEMAS["buu_ap20"]
    image = LandmarkImage(Path("a.png"), "a.png", "p", "h", SIZE, np.zeros((20, 2)), angles=(1.0, 2.0, 3.0))
    assert found_tilt_scatter(_located(schema, [image] * FEWEST_FILMS, np.zeros((FEWEST_FILMS, 20, 2)))) is None


def test_angles_of_answers_are_read_with_their_scatter_and_beside_it_as_they_lie() -> None:
    plain = _answers(60, 2.0)
    read = LocatedImages(plain.images, AASCE, plain.answers, plain.spread, plain.spacings, 2.0)
    before, after = plain.measured(0), read.measured(0)
    assert before["angles_as_landmarks_lie"] is None
    assert after["angles_as_landmarks_lie"] == {name: before[name] for name in ("cobb_smape", "cobb_mae")}
    assert after["cobb_mae"] < before["cobb_mae"]
    assert after["mre_px"] == before["mre_px"] == 0
    assert (read.angles[:, 0] > plain.angles[:, 0]).mean() > 0.9, "an angle is the largest of differences"
    assert read.chosen([4]).tilt_scatter == 2.0
