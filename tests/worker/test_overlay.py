"""The overlay picture: the film stays readable, the caption stays off it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from worker.heat import ALPHA, COLD
from worker.overlay import OverlayCaption, draw_overlay

CAPTION = OverlayCaption("pneumonia", "PNEUMONIA", "PNEUMONIA", 0.874, 0.52, "efficientnet_lite0-2026.11")


@pytest.fixture
def film() -> NDArray[np.uint8]:
    """(600, 700) uint8 with every grey."""
    return np.tile(np.linspace(0, 255, 700).astype(np.uint8), (600, 1))


def grey_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])
    return picture[..., 0]


def test_where_there_is_no_heat_the_film_is_untouched(film: NDArray[np.uint8]) -> None:
    for cam in (None, np.zeros((7, 7), np.float32), np.full((7, 7), COLD, np.float32)):
        picture = draw_overlay(film, cam, CAPTION)
        assert picture.dtype == np.uint8
        assert picture.shape[1:] == (700, 3)
        assert np.array_equal(grey_of(picture[:600]), film)


def test_the_hottest_place_is_red_and_covers_two_fifths(film: NDArray[np.uint8]) -> None:
    picture = draw_overlay(film, np.ones((7, 7), np.float32), CAPTION)[:600].astype(int)
    # Pure red: the film at 60 percent, and 40 percent of 255 on the red channel.
    assert np.abs(picture[..., 1] - film * (1 - ALPHA)).max() <= 4
    assert np.abs(picture[..., 0] - (film * (1 - ALPHA) + 255 * ALPHA)).max() <= 4


def test_heat_covers_more_where_it_is_higher(film: NDArray[np.uint8]) -> None:
    grey = np.full_like(film, 128)
    changes = []
    for heat in (0.2, 0.3, 0.4, 0.5):
        picture = draw_overlay(grey, np.full((7, 7), heat, np.float32), CAPTION)[:600].astype(int)
        changes.append(np.abs(picture[300, 350] - 128).sum())
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_the_map_covers_the_whole_film_in_its_orientation(film: NDArray[np.uint8]) -> None:
    cam = np.zeros((7, 7), np.float32)
    cam[1, 5] = 1  # second row, sixth column: above and right
    picture = draw_overlay(np.full_like(film, 100), cam, CAPTION)[:600].astype(int)
    red = np.argwhere(picture[..., 0] - picture[..., 2] > 60)
    assert red.mean(axis=0) == pytest.approx([1.5 / 7 * 600, 5.5 / 7 * 700], abs=5)


def test_the_caption_is_below_the_film_and_readable(film: NDArray[np.uint8]) -> None:
    strip = draw_overlay(film, np.zeros((7, 7), np.float32), CAPTION)[600:]
    assert 40 < strip.shape[0] < 150
    assert strip.max() > 200  # bright type
    assert np.median(strip) < 40  # on a dark ground


def test_the_caption_says_finding_threshold_version_and_disclaimer() -> None:
    assert CAPTION.lines() == (
        "PNEUMONIA - probability 0.87, threshold 0.52",
        "AI pneumonia, version efficientnet_lite0-2026.11",
        DISCLAIMER,
    )


def test_a_negative_finding_says_whose_probability_it_gives() -> None:
    caption = replace(CAPTION, label="NORMAL", probability=0.04)
    assert caption.lines()[0] == "NORMAL - PNEUMONIA probability 0.04, threshold 0.52"


def test_a_probability_just_below_the_threshold_does_not_look_equal() -> None:
    caption = replace(CAPTION, label="NORMAL", probability=0.5183)
    assert caption.lines()[0] == "NORMAL - PNEUMONIA probability 0.518, threshold 0.520"


@pytest.mark.parametrize("shape", [(100, 80), (512, 512), (20, 1000), (1000, 20), (3, 3)], ids=str)
def test_pictures_are_wide_enough_to_read(shape: tuple[int, int]) -> None:
    picture = draw_overlay(np.full(shape, 90, np.uint8), np.ones((7, 7), np.float32), CAPTION)
    assert picture.shape[1] >= 512
    assert max(picture.shape) < 2400


def test_a_long_version_and_a_new_finding_change_the_strip(film: NDArray[np.uint8]) -> None:
    cam = np.zeros((7, 7), np.float32)
    strips = [
        draw_overlay(film, cam, caption)[600:]
        for caption in (CAPTION, replace(CAPTION, version="v" * 64), replace(CAPTION, probability=0.9), CAPTION)
    ]
    assert not np.array_equal(strips[0], strips[1])
    assert not np.array_equal(strips[0], strips[2])
    assert np.array_equal(strips[0], strips[3])  # the cached part is not drawn upon


def test_the_film_given_is_not_changed(film: NDArray[np.uint8]) -> None:
    before = film.copy()
    draw_overlay(film, np.ones((7, 7), np.float32), CAPTION)
    assert np.array_equal(film, before)
