"""Penalties of implausible spines against angles and lengths worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.spine.schemas import LandmarkSchema, SpineView, landmark_schema
from training.landmark_anatomy import AnatomicalLoss, disorder, disproportion, plates_apart

TWO = LandmarkSchema("two", SpineView.FRONTAL, ("L1", "L2"), has_levels=True)


def vertebra(y: float, width: float = 24.0, height: float = 16.0) -> Tensor:
    """Corners ``(4, 2)`` of an upright vertebra whose upper end plate lies at `y`."""
    return torch.tensor([[0, y], [width, y], [0, y + height], [width, y + height]])


def tilted(degrees: float) -> Tensor:
    """A vertebra whose lower end plate is turned about its left end."""
    corners = vertebra(0.0)
    turn = math.radians(degrees)
    corners[3] = corners[2] + 24.0 * torch.tensor([math.cos(turn), math.sin(turn)])
    return corners


def loss_of(*vertebrae: Tensor, there: Tensor | None = None) -> float:
    points = torch.cat(vertebrae)[None]
    seen = torch.ones(1, len(points[0]), dtype=torch.bool) if there is None else there
    value: float = AnatomicalLoss(TWO)(points, seen, 100).item()
    return value


def test_an_upright_spine_is_not_at_fault() -> None:
    assert loss_of(vertebra(10.0), vertebra(40.0)) == 0


def test_vertebrae_out_of_order_cost_what_the_lower_stands_too_high() -> None:
    assert disorder(torch.stack([vertebra(40.0), vertebra(10.0)])[None]).tolist() == [[30.0]]
    assert loss_of(vertebra(40.0), vertebra(10.0)) == pytest.approx(30 * 2 / 100)


@pytest.mark.parametrize(
    ("degrees", "beyond"), [(0, 0), (14.9, 0), (-14.9, 0), (30, 15), (-30, 15), (120, 105), (179, 164)]
)
def test_end_plates_may_differ_by_fifteen_degrees(degrees: float, beyond: float) -> None:
    assert plates_apart(tilted(degrees)[None, None]).item() == pytest.approx(math.radians(beyond), abs=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "ratio"), [(24, 16, 1.0), (16, 16, 1.0), (80, 16, 5 / 4), (16, 32, 0.7 / 0.5)]
)
def test_a_vertebra_is_neither_a_needle_nor_a_tower(width: float, height: float, ratio: float) -> None:
    cost = disproportion(vertebra(0.0, width, height)[None, None]).item()
    assert cost == pytest.approx(math.log(ratio), abs=5e-3)


def test_a_vertebra_of_which_a_corner_is_not_there_is_left_out() -> None:
    there = torch.ones(1, 8, dtype=torch.bool)
    there[0, 7] = False
    assert loss_of(vertebra(40.0), vertebra(10.0, width=200.0), there=there) == 0
    assert loss_of(tilted(30.0), vertebra(10.0), there=there) == pytest.approx(math.radians(15))


def test_the_sacrum_which_has_no_lower_end_plate_is_left_out() -> None:
    schema = landmark_schema("buu_la22")
    lumbar = torch.cat([vertebra(30.0 * number) for number in range(5)])
    points = torch.cat([lumbar, torch.tensor([[0.0, -500], [24, -900]])])[None]
    assert AnatomicalLoss(schema)(points, torch.ones(1, 22, dtype=torch.bool), 200).item() == 0


def test_corners_on_one_spot_have_finite_gradients() -> None:
    points = torch.zeros(1, 8, 2, requires_grad=True)
    AnatomicalLoss(TWO)(points, torch.ones(1, 8, dtype=torch.bool), 100).backward()
    assert points.grad is not None
    assert bool(torch.isfinite(points.grad).all())


def test_following_the_gradient_mends_a_spine() -> None:
    torch.manual_seed(0)
    points = torch.cat([vertebra(40.0), tilted(50.0)])[None].clone().requires_grad_()
    loss = AnatomicalLoss(TWO)
    there = torch.ones(1, 8, dtype=torch.bool)
    optimizer = torch.optim.Adam([points], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(points, there, 100).backward()
        optimizer.step()
    assert loss(points, there, 100).item() == 0
