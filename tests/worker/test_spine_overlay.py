"""The picture of a spine: thin lines over a film that can still be read, words beside it, doubt in its own colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import stand_in_spine
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from models.pixels.placement import Placement
from models.spine.corners import ImageSide
from models.spine.schemas import SCHEMAS, SpineView
from worker.caption import WARNING
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding
from worker.spine_overlay import angle_words, caption_lines, draw_spine_overlay, warning_words

MakeLandmarks = Callable[..., LandmarkFinding]
Picture = NDArray[np.uint8]

FILM = (1024, 640)  # four pixels for each of the image
SPINE = stand_in_spine.corners(80, 128, 2.0)
IMAGE = SourceImage(256, 160, placement=Placement(0.5, 0.5, 24, 0))
OUTLINE, MAIN = (110, 205, 235), (255, 221, 64)


@pytest.fixture
def film() -> Picture:
    """(1024, 640) uint8, a grey that none of the colours is."""
    return np.full(FILM, 100, np.uint8)


def _near(picture: NDArray[np.int_], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(picture - np.array(colour)).max(axis=-1) < 40)


def _drawn(film: Picture, finding: LandmarkFinding) -> NDArray[np.int_]:
    return draw_spine_overlay(film, finding, "1.0.0")[: film.shape[0], : film.shape[1]].astype(int)


def _doubt(*places: int) -> NDArray[np.float64]:
    confidence = np.full(68, 0.9)
    confidence[list(places)] = 0.1
    return confidence


def test_outlines_run_along_the_edges_of_every_vertebra(film: Picture, make_landmarks: MakeLandmarks) -> None:
    picture = _drawn(film, make_landmarks())
    for body in (SPINE * 4).reshape(17, 4, 2)[[1, 2, 5, 8, 15]]:  # none of them ends a curve
        for first, last in ((0, 1), (2, 3), (0, 2), (1, 3)):
            for share in (0.25, 0.5, 0.75):
                x, y = body[first] + share * (body[last] - body[first])
                place = picture[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2]
                assert _near(place, OUTLINE).any()


def test_the_inside_of_a_vertebra_is_left_as_it_is(film: Picture, make_landmarks: MakeLandmarks) -> None:
    picture = _drawn(film, make_landmarks())
    for body in (SPINE * 4).reshape(17, 4, 2):
        x, y = body.mean(axis=0)
        assert (picture[int(y) - 6 : int(y) + 6, int(x) - 20 : int(x) + 20] == 100).all()


def test_lines_are_thin_enough_to_read_the_film(film: Picture, make_landmarks: MakeLandmarks) -> None:
    picture = _drawn(film, make_landmarks())
    left, right = 320 - 40 - 2, 320 + 40 + 2
    spine = (np.abs(picture[100:930, left:right] - 100) > 60).any(axis=-1)
    assert 0.05 < spine.mean() < 0.12
    across = np.flatnonzero((picture[:, 320] != 100).any(axis=-1))
    runs = np.split(across, np.flatnonzero(np.diff(across) > 1) + 1)
    assert max(map(len, runs)) <= 7, "pixels of a line with its rim on the way down the middle of the spine"


def test_the_lines_of_the_main_curve_cross_its_end_vertebrae_and_reach_beyond(
    film: Picture, make_landmarks: MakeLandmarks
) -> None:
    picture = _drawn(film, make_landmarks())
    corners = (SPINE * 4).reshape(17, 4, 2)
    for body, plate, tilt in ((corners[3], (0, 1), 15), (corners[10], (2, 3), -10)):
        x, y = body[list(plate)].mean(axis=0)
        for away in (-60, 0, 60):  # the vertebra is 40 wide on either side
            at_x, at_y = x + away, y + away * np.tan(np.radians(tilt))
            place = picture[int(at_y) - 2 : int(at_y) + 3, int(at_x) - 1 : int(at_x) + 2]
            assert _near(place, MAIN).any()


def test_a_vertebra_to_be_reviewed_is_dashed_in_a_colour_of_its_own(
    film: Picture, make_landmarks: MakeLandmarks
) -> None:
    plain, doubted = (_drawn(film, make_landmarks(confidence=_doubt(*places))) for places in ((), (33,)))
    body = (SPINE * 4).reshape(17, 4, 2)[8]
    top, bottom = int(body[:, 1].min()) - 2, int(body[:, 1].max()) + 3
    box = (slice(top, bottom), slice(320 - 43, 320 + 43))
    assert not _near(plain[box], WARNING).any()
    assert _near(doubted[box], WARNING).sum() > 50
    assert not _near(doubted[box], OUTLINE).any()
    # Two outlines of one length, the second with gaps.
    drawn = [(picture[box] != 100).any(axis=-1).sum() for picture in (plain, doubted)]
    assert drawn[1] < 0.75 * drawn[0]


def test_doubt_without_a_vertebra_is_said_below(film: Picture, make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(image=replace(IMAGE, view=SpineView.LATERAL))
    strip = draw_spine_overlay(film, finding, "1.0.0")[FILM[0] :].astype(int)
    assert _near(strip, WARNING).any()
    sure = draw_spine_overlay(film, make_landmarks(), "1.0.0")[FILM[0] :]
    assert not _near(sure.astype(int), WARNING).any()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_lines_and_words_show_on_dark_and_on_bright_film(grey: int, make_landmarks: MakeLandmarks) -> None:
    picture = _drawn(np.full(FILM, grey, np.uint8), make_landmarks())
    colour, others = _near(picture, MAIN), picture != grey
    assert colour.sum() > 300
    assert others.any(axis=-1).sum() > 3000
    words = picture[:, 420:]
    assert words.min() < 60
    assert words.max() > 200


def test_words_that_find_no_room_on_the_film_stand_beside_it(make_landmarks: MakeLandmarks) -> None:
    # A spine that fills the film from left to right.
    wide = (SPINE - [80, 128]) * [7.5, 1] + [80, 128]
    picture = draw_spine_overlay(np.full(FILM, 100, np.uint8), make_landmarks(wide), "1.0.0")
    assert picture.shape[1] > FILM[1]
    narrow = draw_spine_overlay(np.full(FILM, 100, np.uint8), make_landmarks(), "1.0.0")
    assert narrow.shape[1] == FILM[1]


@pytest.mark.parametrize("place", [(0.0, 0.0), (-1e4, 0.0), (1e30, -1e30), (0.0, 1e6)], ids=str)
@pytest.mark.parametrize("shape", [(100, 80), (512, 512), (20, 1000), (1000, 20), (3, 3), (2048, 700)], ids=str)
def test_any_film_and_any_landmarks_make_a_picture_with_its_strip_below(
    shape: tuple[int, int], place: tuple[float, float], make_landmarks: MakeLandmarks
) -> None:
    film = np.full(shape, 90, np.uint8)
    finding = make_landmarks(SPINE + np.array(place))
    picture = draw_spine_overlay(film, finding, "1.0.0")
    assert picture.dtype == np.uint8
    assert min(picture.shape[:2]) >= 100
    assert picture.shape[1] >= 512
    assert max(picture.shape) < 6500
    assert np.array_equal(film, np.full(shape, 90, np.uint8))


def test_a_film_without_any_landmark_is_shown_as_it_is(film: Picture, make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(thresholds=dict.fromkeys(SCHEMAS["aasce68"].labels, 0.95))
    assert (_drawn(film, finding) == 100).all()
    assert caption_lines(finding, "1.0.0")[0] == "No angle or slip was measured"


def test_the_caption_says_angles_version_and_disclaimer(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks()
    assert angle_words(finding) == ("Main Cobb 25.0° (T4-T11)", "also 15.0° (T1-T4)", "10.0° (T11-L5)")
    assert caption_lines(finding, "1.0.0") == (
        "Main Cobb 25.0° (T4-T11)",
        "AI landmarks, version 1.0.0",
        DISCLAIMER,
    )
    assert warning_words(finding) == ()


def test_the_caption_of_a_doubtful_finding_says_why_and_what_dashes_mean(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(confidence=_doubt(33), image=replace(IMAGE, view=SpineView.LATERAL))
    assert warning_words(finding) == ("REVIEW: low confidence (T9)", "other view")
    assert caption_lines(finding, "1.0.0")[:2] == ("No angle or slip was measured", "dashed: to be reviewed")


def test_the_caption_of_a_lateral_film_says_slips_with_their_grade(make_landmarks: MakeLandmarks) -> None:
    corners = [
        (x, y)
        for place, left in enumerate((60, 60, 60, 60, 60, 70))
        for y in ((20 + 30 * place, 44 + 30 * place) if place < 5 else (20 + 30 * place,))
        for x in (left, left + 40)
    ]
    image = replace(IMAGE, view=SpineView.LATERAL, anterior=ImageSide.LEFT)
    finding = make_landmarks(np.array(corners, np.float64), schema="buu_la22", image=image)
    assert angle_words(finding) == ("L5-S1 anterolisthesis 25% (Meyerding I)",)
    assert draw_spine_overlay(np.full(FILM, 100, np.uint8), finding, "1.0.0").shape[1] == FILM[1]


def test_a_finding_of_another_version_has_another_strip_and_the_same_film(
    film: Picture, make_landmarks: MakeLandmarks
) -> None:
    one, other = (draw_spine_overlay(film, make_landmarks(), version) for version in ("1.0.0", "2.0.0"))
    assert np.array_equal(one[: FILM[0]], other[: FILM[0]])
    assert not np.array_equal(one[FILM[0] :], other[FILM[0] :])
