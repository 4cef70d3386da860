"""The overlay of the six zones: grid and scores leave the lungs readable, heat stays in its zone, sides are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from models.pixels.lung_fields import Frame
from models.zones import ZONE_COLUMNS, ZONES
from worker.findings import CongestionFinding
from worker.heat import ALPHA
from worker.zone_overlay import caption_lines, draw_zone_overlay

MakeCongestion = Callable[..., CongestionFinding]
Picture = NDArray[np.uint8]

# The film is 600 x 800, the frame half of each side: zones of 100 rows and 200 columns from row 150, column 200 on.
FILM = (600, 800)
TOP, LEFT, ZONE_HEIGHT, ZONE_WIDTH = 150, 200, 100, 200
NEAR = 6  # pixels that a line with its rim may take


def draw(film: Picture, finding: CongestionFinding) -> NDArray[np.int_]:
    """Give the film part of the picture."""
    height, width = film.shape
    return draw_zone_overlay(film, finding, "1.0.0")[:height, :width].astype(int)


@pytest.fixture
def film() -> Picture:
    """(600, 800) uint8 with every grey."""
    return np.tile(np.linspace(0, 255, FILM[1]).astype(np.uint8), (FILM[0], 1))


@pytest.fixture
def hot() -> NDArray[np.float32]:
    """(6, 12, 12): each map 1 in its own zone and beyond it too, which no map should be."""
    return np.ones((6, 12, 12), np.float32)


def inside(place: int, distance: int = NEAR) -> tuple[slice, slice]:
    """Rows and columns of a zone but for its borders."""
    row, column = divmod(place, ZONE_COLUMNS)
    top, left = TOP + row * ZONE_HEIGHT, LEFT + column * ZONE_WIDTH
    return (
        slice(top + distance, top + ZONE_HEIGHT - distance),
        slice(left + distance, left + ZONE_WIDTH - distance),
    )


def changed(one: NDArray[np.int_], other: NDArray[np.int_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of where two pictures differ."""
    rows, columns = np.nonzero((one != other).any(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_normal_zone_is_untouched_however_hot_its_map(
    film: Picture, hot: NDArray[np.float32], make_congestion: MakeCongestion
) -> None:
    picture = draw(film, make_congestion((0, 0, 0, 0, 0, None), cams=hot))
    for place in range(len(ZONES)):
        for channel in range(3):
            assert np.array_equal(picture[inside(place)][..., channel], film[inside(place)])


def test_heat_is_in_zones_with_a_score_and_nowhere_else(
    film: Picture, hot: NDArray[np.float32], make_congestion: MakeCongestion
) -> None:
    cold = draw(film, make_congestion((0, 0, 0, 0, 0, 0), cams=hot))
    picture = draw(film, make_congestion((0, 0, 0, 2, 0, 0), cams=hot))
    left, top, right, bottom = changed(cold[:, : LEFT + 2 * ZONE_WIDTH], picture[:, : LEFT + 2 * ZONE_WIDTH])
    # left_mid: second row, second column.
    assert (left, top) == (LEFT + ZONE_WIDTH, TOP + ZONE_HEIGHT)
    assert (right, bottom) == (LEFT + 2 * ZONE_WIDTH, TOP + 2 * ZONE_HEIGHT)


def test_the_hottest_place_is_red_and_covers_two_fifths(
    film: Picture, hot: NDArray[np.float32], make_congestion: MakeCongestion
) -> None:
    picture = draw(film, make_congestion((3, 3, 3, 3, 3, 3), cams=hot))
    for place in range(len(ZONES)):
        under, zone = film[inside(place)], picture[inside(place)]
        assert np.abs(zone[..., 1] - under * (1 - ALPHA)).max() <= 4
        assert np.abs(zone[..., 0] - (under * (1 - ALPHA) + 255 * ALPHA)).max() <= 4


@pytest.mark.parametrize("side", [12, 7])
def test_a_map_lies_over_the_frame_in_its_orientation(side: int, make_congestion: MakeCongestion) -> None:
    cams = np.zeros((6, side, side), np.float32)
    cams[0, 1, 1] = 1  # second row and column: in right_sup
    picture = draw(np.full(FILM, 100, np.uint8), make_congestion((3, 0, 0, 0, 0, 0), cams=cams))
    zone = picture[inside(0)]
    middle = np.argwhere(zone[..., 0] - zone[..., 2] > 60).mean(axis=0) + NEAR
    assert middle == pytest.approx([1.5 / side * 300, 1.5 / side * 400], abs=6)


def test_a_frame_beyond_the_film_is_cut_and_its_map_with_it(make_congestion: MakeCongestion) -> None:
    # The frame is twice the film, so that the film shows its middle: half of the middle zones.
    cams = np.zeros((6, 12, 12), np.float32)
    cams[2, 4:8, 3:6] = 1  # right_mid, its medial half
    finding = make_congestion((3, 3, 3, 3, 3, 3), frame=Frame(-0.5, -0.5, 1.5, 1.5), cams=cams)
    picture = draw(np.full(FILM, 100, np.uint8), finding)
    red = picture[..., 0] - picture[..., 2] > 60
    assert red[250:350, 100:390].mean() > 0.95
    assert red[:, 410:].mean() < 0.01


@pytest.mark.parametrize("place", range(len(ZONES)), ids=list(ZONES))
def test_each_score_stands_beside_the_upper_lateral_corner_of_its_own_zone(
    film: Picture, make_congestion: MakeCongestion, place: int
) -> None:
    scores: list[int | None] = [0] * len(ZONES)
    scores[place] = 3
    left, top, right, bottom = changed(draw(film, make_congestion()), draw(film, make_congestion(scores)))
    row, column = divmod(place, ZONE_COLUMNS)
    assert TOP + row * ZONE_HEIGHT <= top
    assert bottom <= TOP + row * ZONE_HEIGHT + ZONE_HEIGHT // 2
    if column == 0:  # of the right lung: on the image's left
        assert LEFT - 50 < left < right <= LEFT
    else:
        assert LEFT + 2 * ZONE_WIDTH <= left < right < LEFT + 2 * ZONE_WIDTH + 50


def test_a_severe_right_upper_zone_is_labelled_left_above_in_the_picture(
    film: Picture, make_congestion: MakeCongestion
) -> None:
    finding = make_congestion((3, 0, 0, 0, 0, 0))
    assert finding.zones[0].zone == "right_sup"
    _, _, right, bottom = changed(draw(film, make_congestion()), draw(film, finding))
    assert right < FILM[1] / 2
    assert bottom < FILM[0] / 2


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_scores_and_lines_show_on_dark_and_on_bright_film(grey: int, make_congestion: MakeCongestion) -> None:
    picture = draw(np.full(FILM, grey, np.uint8), make_congestion((0, 1, 2, 3, None, 0)))
    for row in range(3):
        for columns in (slice(LEFT - 40, LEFT - 4), slice(LEFT + 2 * ZONE_WIDTH + 4, LEFT + 2 * ZONE_WIDTH + 40)):
            label = picture[TOP + row * ZONE_HEIGHT : TOP + row * ZONE_HEIGHT + 40, columns]
            assert label.min() < 30
            assert label.max() > 200
    for line in (picture[TOP + 20 : TOP + 80, LEFT - 3 : LEFT + 4], picture[TOP - 3 : TOP + 4, LEFT + 20 : LEFT + 80]):
        assert np.ptp(line) > 40 or abs(int(line.mean()) - grey) > 40


def test_lines_are_thin_and_half_seen_through(film: Picture, make_congestion: MakeCongestion) -> None:
    picture = draw(film, make_congestion())
    touched = (picture != film[..., np.newaxis]).any(axis=-1)[TOP : TOP + 300, LEFT : LEFT + 400]
    assert 0.005 < touched.mean() < 0.06


def test_an_ungradable_zone_shows_a_dash_that_can_be_seen(make_congestion: MakeCongestion) -> None:
    picture = draw(np.full(FILM, 100, np.uint8), make_congestion((None, 0, 0, 0, 0, 0)))
    label = picture[TOP : TOP + 50, LEFT - 50 : LEFT - NEAR, 0]
    rows, columns = np.nonzero(label > 200)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width >= 10
    assert 2 <= height <= width / 2


@pytest.mark.parametrize(
    "frame",
    [Frame(-0.4, -0.3, 1.4, 1.3), Frame(0, 0, 1, 1), Frame(0.5, 0.5, 1.5, 1.5), Frame(-0.5, -0.5, 0.5, 0.5)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(100, 80), (512, 512), (20, 1000), (1000, 20), (3, 3), (1400, 1200)], ids=str)
def test_any_film_and_any_frame_make_a_picture_with_its_strip_below(
    shape: tuple[int, int], frame: Frame, hot: NDArray[np.float32], make_congestion: MakeCongestion
) -> None:
    film = np.full(shape, 90, np.uint8)
    finding = make_congestion((3, 3, 3, 3, None, 0), frame=frame, cams=hot)
    picture = draw_zone_overlay(film, finding, "1.0.0")
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 512
    assert max(picture.shape) < 2400
    assert np.array_equal(film, np.full(shape, 90, np.uint8))


def test_the_strip_changes_with_the_finding_and_the_film_has_no_text_of_it(
    film: Picture, make_congestion: MakeCongestion
) -> None:
    strips = [
        draw_zone_overlay(film, make_congestion(scores), version)[FILM[0] :]
        for scores, version in [((0,) * 6, "1"), ((3,) * 6, "1"), ((0,) * 6, "2")]
    ]
    assert not np.array_equal(strips[0], strips[1])
    assert not np.array_equal(strips[0], strips[2])
    assert np.median(strips[0]) < 40


def test_without_maps_there_is_no_colour(film: Picture, make_congestion: MakeCongestion) -> None:
    picture = draw_zone_overlay(film, make_congestion((3,) * 6), "1.0.0")[: FILM[0]]
    assert np.array_equal(picture[..., 0], picture[..., 1])
    assert np.array_equal(picture[..., 0], picture[..., 2])


LEGEND = "0 normal, 1 mild, 2 moderate, 3 severe, - ungradable"


@pytest.mark.parametrize(
    ("scores", "answer", "expected"),
    [
        (
            (1, 1, 2, 2, 3, 1),
            {},
            ("Mean CSI 1.67 (6 of 6 zones) - heart failure class medium", "AI csi, version 1.0.0", LEGEND),
        ),
        (
            (0, 1, None, None, 3, 3),
            {},
            ("Mean CSI 1.75 (4 of 6 zones) - heart failure class medium", "AI csi, version 1.0.0", LEGEND),
        ),
        (
            (None,) * 6,
            {"lungs_found": False},
            (
                "No zone is gradable - no mean CSI, no heart failure class",
                "AI csi, version 1.0.0",
                LEGEND,
                "zones on the image grid: lungs not found",
            ),
        ),
        (
            (3,) * 6,
            {"lungs_found": None},
            (
                "Mean CSI 3.00 (6 of 6 zones) - heart failure class high",
                "AI csi, version 1.0.0",
                LEGEND,
                "zones on the image grid",
            ),
        ),
    ],
)
def test_the_caption_says_mean_class_version_and_where_the_zones_are(
    make_congestion: MakeCongestion, scores: Any, answer: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert caption_lines(make_congestion(scores, **answer), "1.0.0") == (*expected, DISCLAIMER)
