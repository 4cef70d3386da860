"""Landmark losses against values worked out by hand, their masks, and their gradients."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.networks.heatmap_decoding import decode_dark, decode_expectation, decode_soft_argmax, spatial_softmax
from models.networks.heatmap_network import Heatmaps
from models.networks.heatmap_table import LandmarkLossKind
from models.spine.schemas import LandmarkSchema, SpineView
from training.landmark_losses import (
    LandmarkLoss,
    adaptive_wing,
    gaussian_targets,
    softmax_divergence,
    unlikelihood,
    weighted_squares,
)

KINDS: tuple[LandmarkLossKind, ...] = get_args(LandmarkLossKind)
ONE = LandmarkSchema("one", SpineView.FRONTAL, ("L1",), has_levels=True)
TWO = LandmarkSchema("two", SpineView.FRONTAL, ("L1", "L2"), has_levels=True)
NOWHERE = float("nan")


def spine() -> Tensor:
    """Two upright vertebrae of 24 x 16 pixels in an image of 96 x 64, ``(1, 8, 2)``."""
    return torch.tensor(
        [[[20.0, 16], [44, 16], [20, 32], [44, 32], [20, 48], [44, 48], [20, 64], [44, 64]]], dtype=torch.float32
    )


def test_a_target_is_a_gaussian_about_the_landmark_and_not_about_a_cell() -> None:
    target = gaussian_targets(torch.tensor([[[7.0, 10.0]]]), (4, 6), stride=4, sigma_px=2.0)
    assert target.shape == (1, 1, 4, 6)
    # Centres lie at 2, 6, 10 ...: cell (row 2, column 1) is one pixel to the left of it, half a deviation.
    assert target[0, 0, 2, 1].item() == pytest.approx(math.exp(-0.125))
    assert target[0, 0, 2, 2].item() == pytest.approx(math.exp(-9 / 8))
    assert target[0, 0, 1, 1].item() == pytest.approx(math.exp(-17 / 8))


def test_a_landmark_that_is_not_there_has_an_empty_target() -> None:
    target = gaussian_targets(torch.tensor([[[NOWHERE, NOWHERE], [8.0, 8.0]]]), (4, 4), stride=4, sigma_px=4.0)
    assert target[0, 0].abs().sum() == 0
    assert target[0, 1].max() > 0.7


def test_cells_near_a_landmark_count_a_hundredfold() -> None:
    targets = torch.tensor([1.0, 0.2, 0.1, 0.0])
    cells = weighted_squares(targets + torch.tensor([0.1, -0.1, 0.1, 2.0]), targets)
    assert cells.tolist() == pytest.approx([0.05, 0.05, 0.0005, 0.2])


def test_the_adaptive_wing_is_worked_out_by_hand() -> None:
    # y = 1: power 1.1; 14 ln(1 + 0.2^1.1). y = 0: power 2.1; 14 ln(1 + 0.2^2.1).
    heat, targets = torch.tensor([0.8, 0.2, 1.5]), torch.tensor([1.0, 0.0, 0.0])
    near, far, beyond = adaptive_wing(heat, targets).tolist()
    assert near == pytest.approx(14 * math.log(1 + 0.2**1.1))
    assert far == pytest.approx(14 * math.log(1 + 0.2**2.1))
    slope = 14 * 2.1 * 0.5**1.1 / (1 + 0.5**2.1)  # A of the paper, epsilon being 1
    constant = 0.5 * slope - 14 * math.log(1 + 0.5**2.1)  # its C
    assert beyond == pytest.approx(slope * 1.5 - constant)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_adaptive_wing_has_no_step_and_no_bend_at_theta(target: float) -> None:
    heat = (target + torch.tensor([0.4999, 0.5001], dtype=torch.float64)).requires_grad_()
    cells = adaptive_wing(heat, torch.full((2,), target, dtype=torch.float64))
    cells.sum().backward()
    assert heat.grad is not None
    below, above = heat.grad.tolist()
    assert above == pytest.approx(below, rel=1e-3)
    assert (cells[1] - cells[0]).item() == pytest.approx(0.0002 * above, rel=1e-2)


def test_the_divergence_is_that_of_torch_from_the_whole_map() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    points = torch.rand(2, 3, 2, dtype=torch.float64) * 20
    target = gaussian_targets(points, (6, 5), 4, 5.0).flatten(2)
    target = target / target.sum(dim=2, keepdim=True)
    expected = functional.kl_div(logits.flatten(2).log_softmax(dim=2), target, reduction="none").sum(dim=2)
    torch.testing.assert_close(softmax_divergence(logits, points, 4, 5.0), expected)


def test_the_divergence_of_the_target_from_itself_is_none() -> None:
    points = torch.tensor([[[30.0, 21.0]]], dtype=torch.float64)
    logits = gaussian_targets(points, (12, 16), 4, 6.0).log() + 7.0
    assert softmax_divergence(logits, points, 4, 6.0).item() == pytest.approx(0.0, abs=1e-9)
    # Of even logits: what the target's entropy lacks of ln 192.
    even = softmax_divergence(torch.zeros_like(logits), points, 4, 6.0).item()
    entropy = math.log(2 * math.pi * math.e * (6 / 4) ** 2)
    assert even == pytest.approx(math.log(192) - entropy, abs=1e-2)


def test_an_error_is_likeliest_under_a_sigma_of_its_size() -> None:
    found, points = torch.tensor([[[13.0, 20.0]]]), torch.tensor([[[10.0, 20.0]]])
    # (ln 2 + 9 / 8 + ln 2) / 2
    assert unlikelihood(found, torch.full((1, 1, 2), 2.0), points).item() == pytest.approx(math.log(2) + 9 / 16)
    sigma = torch.tensor([[[3.0, 1.0]]], requires_grad=True)
    unlikelihood(found, sigma, points).sum().backward()
    assert sigma.grad is not None
    assert sigma.grad[0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)
    assert sigma.grad[0, 0, 1].item() > 0  # no error: less would do


def test_errors_beyond_the_largest_sigma_count_as_it() -> None:
    sigma = torch.full((1, 1, 2), 50.0)
    far, farther = (unlikelihood(torch.full((1, 1, 2), x), sigma, torch.zeros(1, 1, 2)) for x in (50.0, 500.0))
    assert far.item() == pytest.approx(farther.item()) == pytest.approx(math.log(50) + 0.5)


def test_the_squared_error_of_no_heat_is_the_same_whatever_the_stride() -> None:
    # 5 ∫ exp(-r²/σ²) over where it exceeds .1, over 2πσ²: 5/2 (1 - .1²), and .05/2 of .1² beyond.
    for stride in (1, 2, 4):
        loss = LandmarkLoss("mse", ONE, stride, sigma_px=8.0)
        heat = torch.zeros(1, 4, 128 // stride, 128 // stride)
        points = torch.full((1, 4, 2), 64.0)
        expected = 2.5 * (1 - 0.01) + 0.025 * 0.01
        assert loss(Heatmaps(heat), points).item() == pytest.approx(expected, rel=0.02)


def heat_of(kind: str, points: Tensor, size: tuple[int, int] = (24, 16)) -> Tensor:
    """What the loss is least for, stride 4 and sigma 6."""
    targets = gaussian_targets(points, size, 4, 6.0)
    return targets.clamp_min(1e-30).log() if kind == "softmax" else targets


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_heat_has_no_loss_and_less_than_heat_elsewhere(kind: LandmarkLossKind) -> None:
    loss = LandmarkLoss(kind, TWO, stride=4)
    right = loss(Heatmaps(heat_of(kind, spine())), spine()).item()
    near = loss(Heatmaps(heat_of(kind, spine() + 4.0)), spine()).item()
    far = loss(Heatmaps(heat_of(kind, spine() + 10.0)), spine()).item()
    assert right == pytest.approx(0.0, abs=2e-3)
    assert right < near < far


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_landmarks_that_are_not_there_have_no_part(kind: LandmarkLossKind) -> None:
    torch.manual_seed(0)
    loss = LandmarkLoss(kind, TWO, stride=4)
    points = spine().repeat(2, 1, 1)
    points[0, 3], points[1, 4:] = NOWHERE, NOWHERE
    heat = torch.randn(2, 8, 24, 16, requires_grad=True)
    sigma = (torch.rand(2, 8, 2) + 1.0).requires_grad_()
    value = loss(Heatmaps(heat, sigma), points)
    value.backward()
    assert torch.isfinite(value)
    assert heat.grad is not None
    there = torch.isfinite(points[..., 0])
    assert bool(torch.isfinite(heat.grad).all())
    assert heat.grad[~there].abs().sum() == 0
    assert bool((heat.grad[there].abs().sum(dim=(1, 2)) > 0).all())
    changed = torch.where(there[..., None, None], heat.detach(), 100.0)
    assert loss(Heatmaps(changed, sigma), points).item() == pytest.approx(value.item(), rel=1e-5)
    if kind == "maht":
        assert sigma.grad is not None
        assert sigma.grad[~there].abs().sum() == 0
        assert bool((sigma.grad[there].abs() > 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_any_landmark_give_no_loss_and_no_nan(kind: LandmarkLossKind) -> None:
    heat = torch.randn(2, 8, 24, 16, requires_grad=True)
    sigma = torch.ones(2, 8, 2, requires_grad=True)
    value = LandmarkLoss(kind, TWO, stride=4)(Heatmaps(heat, sigma), torch.full((2, 8, 2), NOWHERE))
    value.backward()
    assert value.item() == 0
    assert heat.grad is not None
    assert heat.grad.abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_flat_heat_as_at_the_beginning_has_finite_gradients(kind: LandmarkLossKind) -> None:
    for value in (0.0, 1e4):
        heat = torch.full((1, 8, 24, 16), value, requires_grad=True)
        LandmarkLoss(kind, TWO, stride=4)(Heatmaps(heat), spine()).backward()
        assert heat.grad is not None
        assert bool(torch.isfinite(heat.grad).all())
        assert heat.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: LandmarkLossKind) -> None:
    torch.manual_seed(0)
    # What is summed is float32: few cells, large steps.
    loss = LandmarkLoss(kind, ONE, stride=16, sigma_px=16.0)
    points = torch.tensor([[[10.0, 10], [40, 20], [12, 40], [40, 40]]])
    heat = (torch.rand(1, 4, 4, 4) * 0.4).requires_grad_()
    sigma = torch.full((1, 4, 2), 9.0)
    loss(Heatmaps(heat, sigma), points).backward()
    assert heat.grad is not None
    direction = torch.randn_like(heat)
    with torch.no_grad():
        ahead, behind = (loss(Heatmaps(heat + s * 1e-3 * direction, sigma), points) for s in (1, -1))
    # The likelihood moves with the heat too, but is not what the heat is fitted by.
    with torch.no_grad():
        moved = [_unlikely(heat + s * 1e-3 * direction, sigma, points) if kind == "maht" else 0.0 for s in (1, -1)]
    expected = ((ahead - behind) - 0.1 * (moved[0] - moved[1])).item() / 2e-3
    assert (heat.grad * direction).sum().item() == pytest.approx(expected, rel=2e-2, abs=1e-3)


def _unlikely(heat: Tensor, sigma: Tensor, points: Tensor) -> float:
    return unlikelihood(decode_soft_argmax(heat, 16), sigma, points).mean().item()


def test_absent_landmarks_may_be_fitted_to_no_heat() -> None:
    points = torch.full((1, 4, 2), NOWHERE)
    heat = torch.ones(1, 4, 8, 8)
    loss = LandmarkLoss("mse", ONE, stride=4, absent_weight=0.5)
    # 64 cells of .05 over the 2π(6/4)² cells of a target.
    assert loss(Heatmaps(heat), points).item() == pytest.approx(64 * 0.05 / (2 * math.pi * 2.25))


def test_terms_of_maht_net_add_up() -> None:
    heat = heat_of("maht", spine().flip(1))  # upside down
    sigma = torch.full((1, 8, 2), 5.0)
    parts = {kind: LandmarkLoss(kind, TWO, 4)(Heatmaps(heat), spine()) for kind in ("mse", "adaptive_wing")}
    maht = LandmarkLoss("maht", TWO, 4)
    found = decode_soft_argmax(heat, 4)
    anatomy = maht.anatomy(found, torch.ones(1, 8, dtype=torch.bool), 96)
    expected = parts["mse"] + 0.5 * parts["adaptive_wing"] + 0.1 * anatomy
    assert anatomy > 0.1
    torch.testing.assert_close(maht(Heatmaps(heat), spine()), expected)
    with_sigma = maht(Heatmaps(heat, sigma), spine())
    torch.testing.assert_close(with_sigma, expected + 0.1 * unlikelihood(found, sigma, spine()).mean())


def test_half_precision_is_summed_in_single() -> None:
    heat = heat_of("mse", spine() + 4.0)
    loss = LandmarkLoss("mse", TWO, stride=4)
    assert loss(Heatmaps(heat.bfloat16()), spine()).dtype == torch.float32
    assert loss(Heatmaps(heat.bfloat16()), spine()).item() == pytest.approx(
        loss(Heatmaps(heat), spine()).item(), rel=0.02
    )


@pytest.mark.parametrize("kind", KINDS)
def test_heat_that_is_fitted_leads_to_the_landmarks(kind: LandmarkLossKind) -> None:
    torch.manual_seed(0)
    points = spine() + torch.rand(1, 8, 2) * 4
    heat = torch.zeros(1, 8, 24, 16, requires_grad=True)
    loss = LandmarkLoss(kind, TWO, stride=4)
    optimizer = torch.optim.Adam([heat], lr=0.3 if kind == "softmax" else 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(Heatmaps(heat), points).backward()
        optimizer.step()
    fitted = heat.detach()
    found = decode_expectation(spatial_softmax(fitted), 4) if kind == "softmax" else decode_dark(fitted, 4)
    assert (found - points).norm(dim=2).max().item() < 0.5
