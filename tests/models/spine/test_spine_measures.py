"""Heights of bodies and discs, and what is not measured on another view or of missing vertebrae."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.spine.corners import ImageSide
from models.spine.measures import Height, Part, SpineMeasures, implausible, measure_heights, measure_spine
from models.spine.schemas import SCHEMAS, LandmarkSchema, SpineView
from models.spine.spacing import Spacing, SpacingSource

MakeSpine = Callable[..., NDArray[np.float64]]

TWICE_AS_HIGH = Spacing(0.4, 0.2, SpacingSource.IMAGER_PIXEL_SPACING)


def _of(heights: tuple[Height, ...], part: Part, upper: str) -> Height:
    (height,) = [height for height in heights if (height.part, height.upper_vertebra) == (part, upper)]
    return height


def test_rectangles_have_their_heights_in_pixels_and_in_mm(make_spine: MakeSpine, lateral: LandmarkSchema) -> None:
    heights = measure_heights(lateral, make_spine(lateral, size=(60.0, 30.0), gap=10.0), TWICE_AS_HIGH)
    # S1 has an end plate and no body.
    assert [(height.part, height.upper_vertebra, height.lower_vertebra) for height in heights] == [
        (part, f"L{number}", below)
        for number in range(1, 6)
        for part, below in ((Part.BODY, f"L{number}"), (Part.DISC, f"L{number + 1}" if number < 5 else "S1"))
        if (part, number) != (Part.DISC, 5)
    ] + [(Part.DISC, "L5", "S1")]
    body, disc = _of(heights, Part.BODY, "L3"), _of(heights, Part.DISC, "L3")
    assert (body.left_px, body.right_px, body.mean_px) == pytest.approx((30, 30, 30))
    assert (body.left_mm, body.right_mm, body.mean_mm) == pytest.approx((12, 12, 12))
    assert (disc.mean_px, disc.mean_mm) == pytest.approx((10, 4))


def test_a_height_along_x_has_the_spacing_of_columns(make_spine: MakeSpine, frontal: LandmarkSchema) -> None:
    lying = make_spine(frontal)[:, ::-1] * [-1, 1]  # turned by a quarter
    body = _of(measure_heights(frontal, lying, TWICE_AS_HIGH), Part.BODY, "L1")
    assert (body.mean_px, body.mean_mm) == pytest.approx((30, 6))


def test_front_and_back_of_a_wedge(make_spine: MakeSpine, lateral: LandmarkSchema) -> None:
    landmarks = make_spine(lateral)
    landmarks[lateral.landmarks_of("L1")[0], 1] += 12  # top left: the left side is 18 of 30 high
    body = _of(measure_heights(lateral, landmarks, TWICE_AS_HIGH, ImageSide.LEFT), Part.BODY, "L1")
    assert (body.anterior_px, body.posterior_px, body.mean_px) == pytest.approx((18, 30, 24))
    assert (body.anterior_mm, body.posterior_mm) == pytest.approx((7.2, 12))
    body = _of(measure_heights(lateral, landmarks, None, ImageSide.RIGHT), Part.BODY, "L1")
    assert (body.anterior_px, body.posterior_px) == pytest.approx((30, 18))
    assert (body.anterior_mm, body.posterior_mm, body.mean_mm) == (None, None, None)


def test_no_side_is_the_front_where_it_is_not_known(make_spine: MakeSpine, lateral: LandmarkSchema) -> None:
    body = measure_heights(lateral, make_spine(lateral), TWICE_AS_HIGH)[0]
    assert (body.anterior_px, body.posterior_px, body.anterior_mm, body.posterior_mm) == (None,) * 4


def test_a_slip_makes_a_disc_no_higher_and_overlap_makes_it_negative(
    make_spine: MakeSpine, lateral: LandmarkSchema
) -> None:
    landmarks = make_spine(lateral, gap=10.0)
    landmarks[:4, 0] += 25
    assert _of(measure_heights(lateral, landmarks), Part.DISC, "L1").mean_px == pytest.approx(10)
    landmarks[:4, 1] += 13
    assert _of(measure_heights(lateral, landmarks), Part.DISC, "L1").mean_px == pytest.approx(-3)


def test_a_disc_that_opens_to_one_side(make_spine: MakeSpine, lateral: LandmarkSchema) -> None:
    # Plates of 60 that lie 10 apart at the left and enclose 12 degrees: square to their bisector each end of the upper
    # one is as far from it as that of the lower one, so the gap grows by twice 60 sin(6 degrees).
    landmarks = make_spine(lateral)
    down, up = np.radians([6, -6])
    landmarks[list(lateral.landmarks_of("L5"))[2:]] = [[0, 0], [60 * np.cos(up), 60 * np.sin(up)]]
    landmarks[list(lateral.landmarks_of("S1"))] = [[0, 10], [60 * np.cos(down), 10 + 60 * np.sin(down)]]
    disc = _of(measure_heights(lateral, landmarks), Part.DISC, "L5")
    assert (disc.left_px, disc.right_px) == pytest.approx((10, 10 + 120 * np.sin(down)))


def test_unnamed_levels_have_heights_and_nothing_else(make_spine: MakeSpine) -> None:
    schema = SCHEMAS["generic40"]
    measures = measure_spine(
        schema, make_spine(schema, 10.0), image_height=900, spacing=TWICE_AS_HIGH, anterior=ImageSide.LEFT
    )
    assert (measures.cobb, measures.slips) == ((), ())
    assert len(measures.heights) == 19


def test_landmarks_of_another_view_are_not_measured(make_spine: MakeSpine, lateral: LandmarkSchema) -> None:
    landmarks = make_spine(lateral)
    for view in (None, SpineView.LATERAL):
        of_view = measure_spine(lateral, landmarks, image_height=900, anterior=ImageSide.LEFT, view=view)
        assert len(of_view.slips) == 5
    wrong = measure_spine(lateral, landmarks, image_height=900, anterior=ImageSide.LEFT, view=SpineView.FRONTAL)
    assert wrong == SpineMeasures()


def test_cobb_angles_are_those_of_the_patient_where_pixels_are_not_square(
    make_spine: MakeSpine, frontal: LandmarkSchema
) -> None:
    landmarks = make_spine(frontal)
    landmarks[list(frontal.landmarks_of("L1")), 1] += [0, 15, 0, 15]  # falls by 15 in 60 pixels
    plain = measure_spine(frontal, landmarks, image_height=900).cobb[0]
    stretched = measure_spine(frontal, landmarks, image_height=900, spacing=TWICE_AS_HIGH).cobb[0]
    assert plain.degrees == pytest.approx(np.degrees(np.arctan(15 / 60)))
    assert stretched.degrees == pytest.approx(np.degrees(np.arctan(30 / 60)))


def test_the_front_is_of_no_account_on_a_frontal_view(make_spine: MakeSpine, frontal: LandmarkSchema) -> None:
    landmarks = make_spine(frontal)
    left, none = (
        measure_spine(frontal, landmarks, image_height=900, anterior=anterior) for anterior in (ImageSide.LEFT, None)
    )
    assert left == none
    assert len(left.slips) == 4


def test_a_missing_corner_costs_its_vertebra_and_the_discs_beside_it(
    make_spine: MakeSpine, frontal: LandmarkSchema
) -> None:
    landmarks = make_spine(frontal)
    landmarks[frontal.landmarks_of("L3")[2]] = np.nan
    heights = measure_heights(frontal, landmarks)
    assert [height.upper_vertebra for height in heights if height.part is Part.BODY] == ["L1", "L2", "L4", "L5"]
    assert [height.upper_vertebra for height in heights if height.part is Part.DISC] == ["L1", "L4"]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_nothing_is_measured_where_nothing_is(name: str) -> None:
    nothing = np.full((len(SCHEMAS[name]), 2), np.nan)
    assert measure_spine(SCHEMAS[name], nothing, image_height=9, anterior=ImageSide.LEFT) == SpineMeasures()
    assert implausible(SCHEMAS[name], nothing) == ()


@given(
    name=st.sampled_from(sorted(SCHEMAS)),
    values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, -1e30, 512.0, float("nan")]), min_size=1),
    seed=st.integers(0, 1000),
)
def test_whatever_a_network_answers_is_measured_or_left_out(name: str, values: list[float], seed: int) -> None:
    schema = SCHEMAS[name]
    landmarks = np.random.default_rng(seed).choice(values, (len(schema), 2))
    measures = measure_spine(schema, landmarks, image_height=9, spacing=TWICE_AS_HIGH, anterior=ImageSide.RIGHT)
    implausible(schema, landmarks)
    numbers = [angle.degrees for angle in measures.cobb] + [slip.percent for slip in measures.slips]
    assert np.isfinite([*numbers, *(height.mean_px for height in measures.heights)]).all()
