"""Cobb angles of columns whose tilts are known but for a scatter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.spine.cobb import CobbAngle, Curve, cobb_angles
from models.spine.cobb_readings import read_cobb_angles
from models.spine.schemas import SCHEMAS, LandmarkSchema

MakeSpine = Callable[..., NDArray[np.float64]]

HIGH = 10_000.0
SCATTER = 1.6
C_CURVE = [5, 12, 20, 17, 14, 11, 8, 4, 0, -4, -8, -12, -14, -17, -20, -12, -5]
FLAT_ENDS = [0, 9, 10, 10, 10, 9, 6, 3, 0, -3, -6, -9, -10, -10, -10, -9, 0]
"""Several vertebrae are nearly as tilted as the most tilted one, at both ends of the curve."""


def _degrees(angles: Sequence[CobbAngle]) -> list[float]:
    return [angle.degrees for angle in angles]


@pytest.mark.parametrize("scatter", [None, 0.0])
def test_without_a_scatter_landmarks_are_measured_as_they_lie(
    make_spine: MakeSpine, aasce: LandmarkSchema, scatter: float | None
) -> None:
    landmarks = make_spine(aasce, C_CURVE)
    assert read_cobb_angles(aasce, landmarks, HIGH, scatter) == cobb_angles(aasce, landmarks, HIGH)


@pytest.mark.parametrize(
    ("tilts", "gain"),
    [(FLAT_ENDS, 0.2), (C_CURVE, -0.1)],
    ids=["where it matters", "and not missed elsewhere"],
)
def test_the_angles_of_readers_are_met(
    make_spine: MakeSpine, aasce: LandmarkSchema, tilts: list[float], gain: float
) -> None:
    random = np.random.default_rng(7)
    readers = [
        np.array(_degrees(cobb_angles(aasce, make_spine(aasce, tilts + random.normal(0, SCATTER, 17)), HIGH)))
        for _ in range(300)
    ]
    landmarks = make_spine(aasce, tilts)
    plain, read = (
        np.abs(np.array(readers) - _degrees(angles)).mean()
        for angles in (cobb_angles(aasce, landmarks, HIGH), read_cobb_angles(aasce, landmarks, HIGH, SCATTER))
    )
    assert read < plain - gain  # degrees
    main = read_cobb_angles(aasce, landmarks, HIGH, SCATTER)[0].degrees
    assert main == pytest.approx(float(np.median([reader[0] for reader in readers])), abs=0.7)


def test_what_is_given_belongs_together(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    main, upper, lower = read_cobb_angles(aasce, make_spine(aasce, C_CURVE), HIGH, SCATTER)
    assert [angle.curve for angle in (main, upper, lower)] == [Curve.MAIN, Curve.UPPER, Curve.LOWER]
    assert (upper.upper_vertebra, upper.lower_vertebra) == ("T1", main.upper_vertebra)
    assert (lower.upper_vertebra, lower.lower_vertebra) == (main.lower_vertebra, "L5")


def test_a_little_scatter_changes_little(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, C_CURVE)
    plain, read = cobb_angles(aasce, landmarks, HIGH), read_cobb_angles(aasce, landmarks, HIGH, 0.01)
    assert _degrees(read) == pytest.approx(_degrees(plain), abs=0.05)
    assert [angle.upper_vertebra for angle in read] == [angle.upper_vertebra for angle in plain]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_mirror_image_has_the_same_angles(make_spine: MakeSpine, aasce: LandmarkSchema, seed: int) -> None:
    landmarks = make_spine(aasce, np.random.default_rng(seed).uniform(-30, 30, 17))
    mirrored = (landmarks * [-1, 1] + [600, 0])[list(aasce.mirrored_order)]
    before, after = (read_cobb_angles(aasce, points, 800.0, SCATTER) for points in (landmarks, mirrored))
    assert _degrees(after) == pytest.approx(_degrees(before))
    assert [angle.curve for angle in after] == [angle.curve for angle in before]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.05, 20))
def test_scaling_changes_nothing(make_spine: MakeSpine, aasce: LandmarkSchema, seed: int, scale: float) -> None:
    landmarks = make_spine(aasce, np.random.default_rng(seed).uniform(-30, 30, 17))
    before = read_cobb_angles(aasce, landmarks, 800.0, SCATTER)
    after = read_cobb_angles(aasce, landmarks * scale, 800.0 * scale, SCATTER)
    assert _degrees(after) == pytest.approx(_degrees(before))


def test_the_same_landmarks_give_the_same_angles(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, FLAT_ENDS)
    once, again = (read_cobb_angles(aasce, landmarks.copy(), HIGH, SCATTER) for _ in range(2))
    assert once == again


def test_a_part_of_a_spine_is_measured_as_it_lies(make_spine: MakeSpine, frontal: LandmarkSchema) -> None:
    landmarks = make_spine(frontal, [3, 10, 2, -5, -4])
    assert read_cobb_angles(frontal, landmarks, HIGH, SCATTER) == cobb_angles(frontal, landmarks, HIGH)


@pytest.mark.parametrize("name", ["buu_la22", "generic40"])
def test_a_lateral_view_has_no_cobb_angle(make_spine: MakeSpine, name: str) -> None:
    assert read_cobb_angles(SCHEMAS[name], make_spine(SCHEMAS[name], 10.0), HIGH, SCATTER) == ()


def test_a_missing_corner_leaves_no_angle(make_spine: MakeSpine, aasce: LandmarkSchema) -> None:
    landmarks = make_spine(aasce, C_CURVE)
    landmarks[30] = np.nan
    assert read_cobb_angles(aasce, landmarks, HIGH, SCATTER) == ()
