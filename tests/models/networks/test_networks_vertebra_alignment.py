"""Vertebrae turned square to the column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.networks.vertebra_alignment import align_vertebrae, can_align
from models.spine.cobb import cobb_angles
from models.spine.schemas import SCHEMAS

AASCE = SCHEMAS["aasce68"]


def _arc(degrees: float, jitter: float = 0.0) -> torch.Tensor:
    """17 vertebrae along an arc that turns by `degrees` from the first to the last, each square to it."""
    rng = np.random.default_rng(0)
    turn = np.radians(degrees) * (np.linspace(0, 1, 17) - 0.5)
    between = (turn[1:] + turn[:-1]) / 2
    steps = 20 * np.stack([-np.sin(between), np.cos(between)], axis=1)
    middles = np.concatenate([[[200.0, 20.0]], np.cumsum(steps, axis=0) + np.array([200.0, 20.0])])
    across, down = (np.stack(pair, axis=1) for pair in ((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))
    corners = [middles + 12 * x * across + 7 * y * down for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1))]
    points = np.stack(corners, axis=1).reshape(68, 2) + rng.normal(0, jitter, (68, 2))
    return torch.from_numpy(points)[None]


def _main_angle(points: torch.Tensor) -> float:
    return cobb_angles(AASCE, points[0].numpy(), 400)[0].degrees


def test_a_vertebra_that_is_square_to_a_straight_column_stays() -> None:
    points = _arc(0)
    torch.testing.assert_close(align_vertebrae(points, 1.0), points)


def test_no_share_turns_nothing_and_middles_always_stay() -> None:
    points = _arc(40, jitter=2)
    torch.testing.assert_close(align_vertebrae(points, 0.0), points)
    middles, turned = (each.reshape(17, 4, 2).mean(dim=1) for each in (points, align_vertebrae(points, 0.9)))
    torch.testing.assert_close(turned, middles)


def test_a_curve_to_both_ends_loses_about_half_a_step_at_each() -> None:
    # At an end the direction is that to the neighbour: half of 40 / 16 degrees is missing.
    assert _main_angle(align_vertebrae(_arc(40), 1.0)) == pytest.approx(40 - 2 * 1.25, abs=0.6)  # and the smoothing
    assert _main_angle(align_vertebrae(_arc(40), 0.0)) == pytest.approx(40)


def test_corners_that_are_a_little_off_hardly_change_the_angle_any_more() -> None:
    errors: dict[str, list[float]] = {"plain": [], "aligned": []}
    for degrees in (5, 10, 20, 30):
        points = _arc(degrees, jitter=2)
        errors["plain"].append(abs(_main_angle(points) - degrees))
        errors["aligned"].append(abs(_main_angle(align_vertebrae(points, 0.9)) - degrees))
    assert np.mean(errors["aligned"]) < 0.5 * np.mean(errors["plain"])


def test_the_mirror_image_is_aligned_to_the_mirror_image() -> None:
    points = _arc(30, jitter=2)
    mirrored = points[:, list(AASCE.mirrored_order)] * torch.tensor([-1.0, 1.0])
    back = align_vertebrae(mirrored, 0.7)[:, list(AASCE.mirrored_order)] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(back, align_vertebrae(points, 0.7))


def test_landmarks_in_one_place_give_no_nan() -> None:
    assert torch.isfinite(align_vertebrae(torch.zeros(2, 68, 2), 0.9)).all()


def test_only_long_columns_of_whole_vertebrae_from_the_front_are_aligned() -> None:
    assert {name for name, schema in SCHEMAS.items() if can_align(schema)} == {"aasce68", "buu_ap20"}
