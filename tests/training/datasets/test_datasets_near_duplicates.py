"""Radiographs that a set holds twice: cut out, scaled and toned differently they are one; two exposures are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from landmark_sets import AasceWriter, column

from models.pixels.radiograph import Radiograph
from training.datasets.landmark_images import read_landmark_images
from training.datasets.near_duplicates import Keypoints, find_near_duplicates, keypoints_of


def film(seed: int, rows: int = 700, columns: int = 350) -> np.ndarray:
    """Give ``(rows, columns) uint8`` with shades of many sizes, as a radiograph has."""
    draw = np.random.default_rng(seed)
    shades = sum(
        sigma * cv2.GaussianBlur(draw.standard_normal((rows, columns)), (0, 0), sigma) for sigma in (2, 4, 8, 16, 32)
    )
    low, high = shades.min(), shades.max()
    return np.asarray((shades - low) / (high - low) * 255, np.uint8)


def again(greys: np.ndarray, scale: float = 0.93, turn: float = 0.0, gamma: float = 1.0) -> np.ndarray:
    """Give another picture of a film: less of it by 30 rows and 20 columns, of another size, in other tones."""
    rows, columns = greys.shape
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), turn, 1.0)
    turned = cv2.warpAffine(greys, matrix, (columns, rows), flags=cv2.INTER_CUBIC)[30:, 20:]
    smaller = cv2.resize(turned, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(255 * (smaller / 255) ** gamma, np.uint8)


def points_of(*films: np.ndarray) -> list[Keypoints]:
    return [keypoints_of(Radiograph.from_grayscale(each)) for each in films]


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("scale", [0.8, 0.93, 1.2])
def test_one_radiograph_in_other_cuts_scales_and_tones_is_found(scale: float, gamma: float) -> None:
    original = film(1)
    first, other = film(2), film(3)
    found = find_near_duplicates(points_of(first, original, other, again(original, scale, gamma=gamma)))
    (duplicate,) = found
    assert (duplicate.first, duplicate.second) == (1, 3)
    corners = np.array([[20.0, 30.0], [350.0, 700.0], [120.0, 430.0]])
    np.testing.assert_allclose(duplicate.to_second(corners), (corners - [20, 30]) * scale, atol=1.5)


def test_places_are_in_pixels_of_the_original_however_large_it_is() -> None:
    small = film(1)
    large = cv2.resize(small, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    (duplicate,) = find_near_duplicates(points_of(small, large))
    np.testing.assert_allclose(duplicate.to_second(np.array([[100.0, 300.0]])), [[300, 900]], atol=1.5)


def test_a_film_that_is_turned_is_another_exposure() -> None:
    original = film(1)
    assert find_near_duplicates(points_of(original, again(original, turn=2.0))) == []


def test_a_film_of_which_but_a_part_is_the_same_is_another_exposure() -> None:
    original, bent = film(1), film(1)
    bent[350:] = np.roll(bent[350:], 12, axis=1)
    assert find_near_duplicates(points_of(original, bent)) == []


def test_films_that_show_nothing_are_no_pair() -> None:
    black = np.zeros((300, 200), np.uint8)
    assert points_of(black)[0].places.shape == (0, 2)
    assert find_near_duplicates(points_of(black, black, film(1))) == []
    assert find_near_duplicates([]) == []


def test_pictures_of_one_radiograph_make_their_persons_one(aasce: AasceWriter) -> None:
    original = film(1)
    pictures = {
        "set-05 A AP.png": original,
        "set-02 A AP.png": again(original),
        "set-02 B AP.png": film(2),
        "coronal.png": again(film(2), 1.1),
        "set-07 A AP.png": film(3),
    }
    for name, greys in pictures.items():
        aasce.add(column(greys.shape[:2]), greys, name=name, split="training")
    found = read_landmark_images(aasce.write())
    persons = {image.path.name: image.person for image in found.images}
    # The coronal film is of 02, and so is that of 05; the name that is first in the alphabet stands.
    assert {persons[name] for name in pictures if name != "set-07 A AP.png"} == {"set-02"}
    assert persons["set-07 A AP.png"] == "set-07"
    assert [(pair.first.path.name, pair.second.path.name) for pair in found.near_duplicates] == [
        ("set-05 A AP.png", "set-02 A AP.png"),
        ("set-02 B AP.png", "coronal.png"),
    ]
    (first, _) = found.near_duplicates
    np.testing.assert_allclose(first.transferred, (first.first.points - [20, 30]) * 0.93, atol=1.5)
