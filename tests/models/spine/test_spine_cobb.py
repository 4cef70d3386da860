"""Cobb angles of columns of rectangles with known tilts, and of the published landmarks of AASCE."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.spine.cobb import CobbAngle, Curve, cobb_angles
from models.spine.schemas import SCHEMAS, LandmarkSchema

MakeSpine = Callable[..., NDArray[np.float64]]

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "aasce"
HIGH = 10_000.0
"""Height of an image in whose upper half every spine here lies."""

C_CURVE = [5, 12, 20, 17, 14, 11, 8, 4, 0, -4, -8, -12, -14, -17, -20, -12, -5]
S_CURVE = [0, 3, 7, 10, 4, -2, -8, -14, -20, -12, -5, 2, 10, 18, 25, 15, 5]
#          T1       T4                  T9                      L3      L5


def _read(angles: Sequence[CobbAngle]) -> list[tuple[str, float, str, str]]:
    return [
        (angle.curve.value, round(angle.degrees, 6), angle.upper_vertebra, angle.lower_vertebra) for angle in angles
    ]


def test_a_c_is_measured_to_its_first_and_last_vertebra(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    angles = cobb_angles(aasce, make_spine(aasce, C_CURVE), HIGH)
    assert _read(angles) == [("main", 40, "T3", "L3"), ("upper", 15, "T1", "T3"), ("lower", 15, "L3", "L5")]


def test_an_s_in_the_upper_half_is_measured_outwards_from_its_main_curve(
    make_spine: MakeSpine, aasce: LandmarkSchema
) -> None:
    angles = cobb_angles(aasce, make_spine(aasce, S_CURVE), HIGH)
    assert _read(angles) == [("main", 45, "T9", "L3"), ("upper", 30, "T4", "T9"), ("lower", 20, "L3", "L5")]


def test_above_a_main_curve_in_the_lower_half_lie_both_others_and_the_second_column_is_the_lower_one(
    make_spine: MakeSpine, aasce: LandmarkSchema
) -> None:
    angles = cobb_angles(aasce, make_spine(aasce, S_CURVE), 700.0)
    assert _read(angles) == [("main", 45, "T9", "L3"), ("lower", 30, "T4", "T9"), ("upper", 10, "T1", "T4")]


def test_the_half_is_told_by_the_lower_end_plates(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, S_CURVE)
    upper_plates, lower_plates = (
        sum(landmarks[list(aasce.landmarks_of(name))][corners, 1].mean() for name in ("T9", "L3"))
        for corners in ([0, 1], [2, 3])
    )
    assert upper_plates < lower_plates - 40
    assert cobb_angles(aasce, landmarks, lower_plates - 1)[1].curve is Curve.LOWER
    assert cobb_angles(aasce, landmarks, lower_plates + 1)[1].curve is Curve.UPPER


def test_a_straight_spine_has_no_angles(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    assert [angle.degrees for angle in cobb_angles(aasce, make_spine(aasce), HIGH)] == [0, 0, 0]


def test_a_tilt_is_that_of_the_middles_of_the_sides(aasce: LandmarkSchema, make_spine: MakeSpine) -> None:
    # A wedge: its upper end plate falls by 20 in 60 and its lower one by 0, so its middle line falls by 10 in 60.
    landmarks = make_spine(aasce)
    landmarks[list(aasce.landmarks_of("T6"))[1], 1] += 20
    assert cobb_angles(aasce, landmarks, HIGH)[0].degrees == pytest.approx(np.degrees(np.arctan(10 / 60)))


def test_angles_beyond_a_right_one_are_not_cut(aasce: LandmarkSchema, make_spine: MakeSpine) -> None:
    angles = cobb_angles(aasce, make_spine(aasce, np.linspace(55, -55, 17)), HIGH)
    assert angles[0].degrees == pytest.approx(110)


def test_a_lumbar_film_has_one_angle(make_spine: MakeSpine, frontal: LandmarkSchema) -> None:
    angles = cobb_angles(frontal, make_spine(frontal, [3, 10, 2, -5, -4]), HIGH)
    assert _read(angles) == [("main", 15, "L2", "L4")]


@pytest.mark.parametrize("name", ["buu_la22", "generic40"])
def test_a_lateral_view_has_no_cobb_angle(make_spine: MakeSpine, name: str) -> None:
    assert cobb_angles(SCHEMAS[name], make_spine(SCHEMAS[name], 10.0), HIGH) == ()


def test_a_missing_corner_leaves_no_angle(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, C_CURVE)
    landmarks[30] = np.nan
    assert cobb_angles(aasce, landmarks, HIGH) == ()


def test_a_vertebra_without_width_leaves_no_angle(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, C_CURVE)
    landmarks[8:12] = landmarks[8]
    assert cobb_angles(aasce, landmarks, HIGH) == ()


def _degrees(angles: Sequence[CobbAngle]) -> list[float]:
    return [angle.degrees for angle in angles]


def _ends(angles: Sequence[CobbAngle]) -> list[tuple[str, str, str]]:
    return [(angle.curve.value, angle.upper_vertebra, angle.lower_vertebra) for angle in angles]


@given(seed=st.integers(0, 10_000), scale=st.floats(0.05, 20))
def test_scaling_changes_nothing(make_spine: MakeSpine, aasce: LandmarkSchema, seed: int, scale: float) -> None:
    landmarks = make_spine(aasce, np.random.default_rng(seed).uniform(-30, 30, 17))
    before, after = cobb_angles(aasce, landmarks, 800.0), cobb_angles(aasce, landmarks * scale, 800.0 * scale)
    assert _degrees(after) == pytest.approx(_degrees(before))
    assert _ends(after) == _ends(before)


@given(seed=st.integers(0, 10_000))
def test_a_mirror_image_has_the_same_angles(make_spine: MakeSpine, aasce: LandmarkSchema, seed: int) -> None:
    landmarks = make_spine(aasce, np.random.default_rng(seed).uniform(-30, 30, 17))
    mirrored = (landmarks * [-1, 1] + [600, 0])[list(aasce.mirrored_order)]
    before, after = cobb_angles(aasce, landmarks, 800.0), cobb_angles(aasce, mirrored, 800.0)
    assert _degrees(after) == pytest.approx(_degrees(before))
    assert _ends(after) == _ends(before)


@given(seed=st.integers(0, 10_000), turn=st.floats(-180, 180))
def test_a_turned_film_has_the_same_main_curve(
    make_spine: MakeSpine, aasce: LandmarkSchema, seed: int, turn: float
) -> None:
    landmarks = make_spine(aasce, np.random.default_rng(seed).uniform(-30, 30, 17))
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    before, after = cobb_angles(aasce, landmarks, 800.0), cobb_angles(aasce, landmarks @ [[cos, sin], [-sin, cos]], 1.0)
    assert after[0].degrees == pytest.approx(before[0].degrees)
    assert _ends(after)[0] == _ends(before)[0]


@pytest.mark.skipif(not REAL.is_dir(), reason="the published landmarks of AASCE are not here")
def test_the_published_angles_are_those_of_the_published_landmarks(aasce: LandmarkSchema) -> None:
    landmarks = np.loadtxt(REAL / "training_landmarks.csv", delimiter=",").reshape(-1, 2, 68).transpose(0, 2, 1)
    published = np.loadtxt(REAL / "training_angles.csv", delimiter=",")
    with (REAL / "training_sizes.csv").open(newline="") as file:
        sizes = [(float(row["orig_w"]), float(row["orig_h"])) for row in csv.DictReader(file)]
    ours = np.array(
        [_degrees(cobb_angles(aasce, points * size, size[1])) for points, size in zip(landmarks, sizes, strict=True)]
    )
    apart = np.abs(ours - published)
    assert ours.shape == (481, 3)
    # Every angle of every row. Landmarks and angles are published with five digits.
    assert (apart < 0.5).mean() == 1.0
    smape = 100 * (apart.sum(axis=1) / (ours + published).sum(axis=1)).mean()
    assert smape < 0.01  # percent
