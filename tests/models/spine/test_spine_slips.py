"""Slips of squares on squares, whose offsets are whole pixels, and the borders of Meyerding's grades."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.spine.corners import ImageSide
from models.spine.schemas import SCHEMAS, LandmarkSchema
from models.spine.slips import Meyerding, Slip, SlipKind, measure_slips, meyerding
from models.spine.spacing import Spacing, SpacingSource

MakeSpine = Callable[..., NDArray[np.float64]]

LEFT, RIGHT = ImageSide
SQUARES = {"size": (100.0, 100.0), "gap": 20.0}


def _slipped(schema: LandmarkSchema, make_spine: MakeSpine, x: float, above: str = "L4") -> NDArray[np.float64]:
    """Squares of 100 pixels, those down to one vertebra moved along x."""
    landmarks = make_spine(schema, **SQUARES)
    landmarks[: max(schema.landmarks_of(above)) + 1, 0] += x
    return landmarks


def _at(slips: tuple[Slip, ...], upper: str) -> Slip:
    (slip,) = [slip for slip in slips if slip.upper_vertebra == upper]
    return slip


@pytest.mark.parametrize(
    ("percent", "grade"),
    [
        (0, Meyerding.NONE),
        (4.9, Meyerding.NONE),
        (5, Meyerding.I),
        (25, Meyerding.I),
        (25.01, Meyerding.II),
        (50, Meyerding.II),
        (50.01, Meyerding.III),
        (75, Meyerding.III),
        (75.01, Meyerding.IV),
        (100, Meyerding.IV),
        (100.01, Meyerding.V),
        (180, Meyerding.V),
    ],
)
def test_borders_belong_to_the_lower_grade(
    lateral: LandmarkSchema, make_spine: MakeSpine, percent: float, grade: Meyerding
) -> None:
    assert meyerding(percent) is meyerding(-percent) is grade
    for anterior, x in ((LEFT, -percent), (RIGHT, percent)):
        slip = _at(measure_slips(lateral, _slipped(lateral, make_spine, x), None, anterior), "L4")
        assert slip.percent == pytest.approx(percent)
        assert slip.grade is grade


def test_a_slip_forwards_and_one_backwards(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    landmarks = _slipped(lateral, make_spine, 30.0)
    forwards, backwards = (measure_slips(lateral, landmarks, None, side) for side in (RIGHT, LEFT))
    assert [slip.kind for slip in forwards] == [*[SlipKind.NORMAL] * 3, SlipKind.ANTEROLISTHESIS, SlipKind.NORMAL]
    assert [slip.kind for slip in backwards] == [*[SlipKind.NORMAL] * 3, SlipKind.RETROLISTHESIS, SlipKind.NORMAL]
    assert _at(forwards, "L4").percent == pytest.approx(30)
    assert _at(backwards, "L4").percent == pytest.approx(-30)
    assert _at(backwards, "L4").grade is Meyerding.II


def test_l5_slips_on_the_end_plate_of_s1(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    slip = _at(measure_slips(lateral, _slipped(lateral, make_spine, 60.0, "L5"), None, RIGHT), "L5")
    assert (slip.lower_vertebra, slip.kind, slip.grade) == ("S1", SlipKind.ANTEROLISTHESIS, Meyerding.III)
    assert (slip.offset_px, slip.offset_mm) == (pytest.approx(60), None)


def test_the_posterior_corner_tells_and_not_the_anterior_one(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    landmarks = make_spine(lateral, **SQUARES)
    bottom_right = lateral.landmarks_of("L4")[3]
    landmarks[bottom_right, 0] += 20  # a bony spur
    assert _at(measure_slips(lateral, landmarks, None, RIGHT), "L4").percent == pytest.approx(0)
    assert _at(measure_slips(lateral, landmarks, None, LEFT), "L4").percent == pytest.approx(-20)


@pytest.mark.parametrize(("anterior", "expected"), [(RIGHT, 10.0), (LEFT, -10.0)])
def test_end_plates_that_open_to_the_front_have_a_positive_angle(
    lateral: LandmarkSchema, make_spine: MakeSpine, anterior: ImageSide, expected: float
) -> None:
    landmarks = make_spine(lateral, **SQUARES)
    landmarks[lateral.landmarks_of("S1")[1], 1] += 100 * np.tan(np.radians(10))
    slips = measure_slips(lateral, landmarks, None, anterior)
    assert [slip.angle_degrees for slip in slips] == pytest.approx([0, 0, 0, 0, expected])


def test_where_pixels_are_not_square_a_slip_is_measured_in_mm(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    landmarks = make_spine(lateral, **SQUARES)
    below, above = list(lateral.landmarks_of("S1")), list(lateral.landmarks_of("L5"))[2:]
    landmarks[below] = [[0, 0], [100, 50]]
    landmarks[above] = [[10, 0], [110, 50]]
    # In mm the end plate is (20, 20) and the corner lies 2 mm along x: sqrt(2) mm along a plate of 20 sqrt(2) mm.
    spacing = Spacing(0.4, 0.2, SpacingSource.CALIBRATED_FIDUCIAL)
    slip = _at(measure_slips(lateral, landmarks, spacing, RIGHT), "L5")
    assert slip.percent == pytest.approx(5)
    assert slip.offset_mm == pytest.approx(2**0.5)
    assert slip.offset_px == pytest.approx(0.05 * np.hypot(100, 50))
    # In square pixels it would be (10, 0) on (100, 50): 1000 of 12500.
    assert _at(measure_slips(lateral, landmarks, None, RIGHT), "L5").percent == pytest.approx(8)


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (10, SlipKind.LEFT_LATEROLISTHESIS),  # the patient's left is on the right of the image
        (-10, SlipKind.RIGHT_LATEROLISTHESIS),
        (4, SlipKind.NORMAL),
    ],
)
def test_a_frontal_view_shows_slips_to_the_side_without_a_grade(
    frontal: LandmarkSchema, make_spine: MakeSpine, x: float, kind: SlipKind
) -> None:
    slips = measure_slips(frontal, _slipped(frontal, make_spine, x, "L2"), None, None)
    assert [slip.kind for slip in slips] == [SlipKind.NORMAL, kind, SlipKind.NORMAL, SlipKind.NORMAL]
    assert _at(slips, "L2").percent == pytest.approx(x)
    assert {slip.grade for slip in slips} == {None}


def test_a_vertebra_that_is_wider_than_the_one_above_has_not_slipped_to_a_side(
    frontal: LandmarkSchema, make_spine: MakeSpine
) -> None:
    landmarks = make_spine(frontal, **SQUARES)
    wider = list(frontal.landmarks_of("L5"))
    landmarks[wider, 0] += [-10, 10, -10, 10]
    assert {slip.kind for slip in measure_slips(frontal, landmarks, None, None)} == {SlipKind.NORMAL}


@pytest.mark.parametrize("name", ["generic40", "aasce68"])
def test_nothing_slips_where_levels_have_no_names_or_the_film_is_of_the_whole_spine(
    make_spine: MakeSpine, name: str
) -> None:
    schema = SCHEMAS[name]
    landmarks = _slipped(schema, make_spine, 60.0, schema.vertebrae[3])
    for anterior in (LEFT, RIGHT, None):
        assert measure_slips(schema, landmarks, None, anterior) == ()


def test_nothing_slips_where_the_front_is_not_known(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    assert measure_slips(lateral, _slipped(lateral, make_spine, 60.0), None, None) == ()


def test_what_is_missing_or_has_no_length_is_left_out(lateral: LandmarkSchema, make_spine: MakeSpine) -> None:
    landmarks = make_spine(lateral, **SQUARES)
    landmarks[lateral.landmarks_of("L2")[0]] = np.nan
    landmarks[list(lateral.landmarks_of("S1"))] = [50, 700]
    slips = measure_slips(lateral, landmarks, None, LEFT)
    assert [(slip.upper_vertebra, slip.lower_vertebra) for slip in slips] == [("L3", "L4"), ("L4", "L5")]


def test_kinds_have_the_order_of_the_labels_of_buu() -> None:
    assert [kind.value.partition("_")[0] for kind in SlipKind] == [
        "normal",
        "left",
        "right",
        "anterolisthesis",
        "retrolisthesis",
    ]


@given(turn=st.floats(-60, 60), scale=st.floats(0.1, 10), slip=st.floats(-150, 150), seed=st.integers(0, 1000))
def test_turning_and_scaling_change_no_slip_and_a_mirror_image_changes_the_side_of_the_front(
    lateral: LandmarkSchema, make_spine: MakeSpine, turn: float, scale: float, slip: float, seed: int
) -> None:
    landmarks = _slipped(lateral, make_spine, slip) + np.random.default_rng(seed).normal(0, 4, (22, 2))
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    turned = scale * landmarks @ [[cos, sin], [-sin, cos]]
    mirrored = (landmarks * [-1, 1])[list(lateral.mirrored_order)]
    before = measure_slips(lateral, landmarks, None, LEFT)
    for other in (measure_slips(lateral, turned, None, LEFT), measure_slips(lateral, mirrored, None, RIGHT)):
        assert [each.percent for each in other] == pytest.approx([each.percent for each in before])
        assert [each.angle_degrees for each in other] == pytest.approx([each.angle_degrees for each in before])
