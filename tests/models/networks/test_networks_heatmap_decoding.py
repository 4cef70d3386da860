"""Decoders and spreads on Gaussians made by hand: to parts of a cell, at borders, on flat maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.networks.heatmap_decoding import (
    DECODERS,
    Decoding,
    decode_argmax,
    decode_dark,
    decode_expectation,
    decode_local_soft_argmax,
    decode_soft_argmax,
    heat_spread,
    peak_heat,
    spatial_softmax,
    window_mass,
)

STRIDE = 4


def gaussian(x: float, y: float, sigma: float = 2.0, size: tuple[int, int] = (32, 24)) -> Tensor:
    """One map ``(1, 1, h, w)`` with its top at cell (x, y), whole numbers being centres."""
    rows = torch.arange(size[0], dtype=torch.float64)[:, None]
    columns = torch.arange(size[1], dtype=torch.float64)
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).float()[None, None]


def pixels(x: float, y: float) -> list[float]:
    return [(x + 0.5) * STRIDE, (y + 0.5) * STRIDE]


PLACES = [(10.0, 14.0), (10.3, 14.0), (9.75, 14.45), (12.49, 7.51), (5.1, 20.9)]


@pytest.mark.parametrize(("x", "y"), PLACES)
def test_dark_finds_the_top_of_a_gaussian_between_cells(x: float, y: float) -> None:
    found = decode_dark(gaussian(x, y), STRIDE)[0, 0].tolist()
    assert found == pytest.approx(pixels(x, y), abs=0.05 * STRIDE)


@pytest.mark.parametrize(("x", "y"), PLACES)
def test_dark_does_not_depend_on_how_high_the_top_is(x: float, y: float) -> None:
    low = decode_dark(gaussian(x, y) * 0.02, STRIDE)
    torch.testing.assert_close(low, decode_dark(gaussian(x, y), STRIDE), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("x", "y"), PLACES)
def test_means_about_the_top_find_it_between_cells(x: float, y: float) -> None:
    for decode, within in ((decode_expectation, 0.05), (decode_local_soft_argmax, 0.15), (decode_soft_argmax, 0.15)):
        found = decode(gaussian(x, y), STRIDE)[0, 0].tolist()
        assert found == pytest.approx(pixels(x, y), abs=within * STRIDE), decode.__name__


def test_argmax_gives_the_centre_of_the_highest_cell() -> None:
    assert decode_argmax(gaussian(10.4, 13.6), STRIDE)[0, 0].tolist() == pixels(10, 14)
    one = torch.zeros(1, 1, 2, 3)
    one[0, 0, 1, 2] = 1.0
    assert decode_argmax(one, 1)[0, 0].tolist() == [2.5, 1.5]


def test_a_second_lower_top_pulls_the_mean_over_all_cells_alone() -> None:
    two = torch.maximum(gaussian(6, 6, sigma=1.0), 0.95 * gaussian(18, 26, sigma=1.0))
    assert decode_soft_argmax(two, STRIDE)[0, 0].tolist() != pytest.approx(pixels(6, 6), abs=STRIDE)
    for decode in (decode_argmax, decode_dark, decode_local_soft_argmax, decode_expectation):
        assert decode(two, STRIDE)[0, 0].tolist() == pytest.approx(pixels(6, 6), abs=0.05 * STRIDE), decode.__name__


@pytest.mark.parametrize("decoding", Decoding)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (23, 31), (0, 31), (11, 0), (1, 30)])
def test_tops_at_the_border_stay_in_the_image(decoding: Decoding, x: int, y: int) -> None:
    found = DECODERS[decoding](gaussian(x, y), STRIDE)[0, 0]
    assert found.tolist() == pytest.approx(pixels(x, y), abs=1.2 * STRIDE)  # half a Gaussian's mean lies inside
    assert bool((found >= 0).all())
    assert bool((found <= torch.tensor([24 * STRIDE, 32 * STRIDE])).all())


@pytest.mark.parametrize("decoding", Decoding)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-20, 1e6])
def test_flat_maps_give_a_place_and_no_nan(decoding: Decoding, value: float) -> None:
    flat = torch.full((1, 2, 8, 8), value)
    found = DECODERS[decoding](flat, STRIDE)
    assert bool(torch.isfinite(found).all())
    assert bool(((found >= 0) & (found <= 8 * STRIDE)).all())
    assert bool(torch.isfinite(heat_spread(flat, STRIDE)).all())
    assert bool(torch.isfinite(window_mass(flat, STRIDE)).all())


def test_a_distribution_s_mean_is_found_however_small_its_values_are() -> None:
    logits = torch.log(gaussian(9.75, 14.45).double()).float() - 700.0
    assert decode_expectation(spatial_softmax(logits), STRIDE)[0, 0].tolist() == pytest.approx(
        pixels(9.75, 14.45), abs=0.05 * STRIDE
    )


def test_a_window_s_mean_is_worked_out_by_hand() -> None:
    cells = torch.zeros(1, 1, 16, 16)
    cells[0, 0, 5, 6], cells[0, 0, 5, 7], cells[0, 0, 7, 6] = 0.5, 0.25, 0.25
    # x = 6 + .25, y = 5 + .25 * 2; half a cell on top, times 4.
    assert decode_expectation(cells, STRIDE)[0, 0].tolist() == pytest.approx([27.0, 24.0])


@pytest.mark.parametrize(("stride", "sigma"), [(1, 5.0), (1, 8.0), (4, 1.5), (4, 2.0)])
def test_the_spread_of_a_gaussian_is_its_standard_deviation_but_for_the_tails(stride: int, sigma: float) -> None:
    spread = heat_spread(gaussian(64.3, 64.1, sigma, (128, 128)), stride).item()
    # Cut off at a twentieth of the top: 1 - ln 20 / 19 of the variance is left.
    assert spread == pytest.approx(sigma * stride * math.sqrt(1 - math.log(20) / 19), rel=0.05)


def test_a_spread_is_worked_out_by_hand() -> None:
    cells = torch.zeros(1, 3, 16, 16)
    cells[0, 0, 5, 6] = 1.0
    cells[0, 1, 5, 5:8] = 1.0  # the variance of x is 2 / 3, of y 0
    cells[0, 2, 5, 6], cells[0, 2, 5, 9], cells[0, 2, 0, 0] = 1.0, 0.04, -5.0  # below the floor
    assert heat_spread(cells, STRIDE)[0].tolist() == pytest.approx([0.0, STRIDE * math.sqrt(1 / 3), 0.0])


def test_wider_heat_has_a_wider_spread() -> None:
    narrow, wide = (heat_spread(gaussian(12, 16, sigma), STRIDE).item() for sigma in (1.0, 2.0))
    assert wide > 1.8 * narrow


def test_confidence_is_the_highest_heat_or_the_mass_about_it() -> None:
    maps = torch.tensor([0.3, 1.4, -0.2])[None, :, None, None].expand(1, 3, 4, 4)
    assert peak_heat(maps)[0].tolist() == pytest.approx([0.3, 1.0, 0.0])
    two = torch.zeros(1, 1, 64, 64)
    two[0, 0, 10, 10], two[0, 0, 13, 10], two[0, 0, 14, 10] = 0.5, 0.25, 0.25  # 12 and 16 pixels away
    assert window_mass(two, STRIDE).item() == pytest.approx(0.75)


def test_logits_of_a_gaussian_are_read_as_that_gaussian() -> None:
    mass = spatial_softmax(torch.log(gaussian(9.75, 14.45).double().clamp_min(1e-30)).float())
    assert mass.sum().item() == pytest.approx(1.0)
    assert decode_expectation(mass, STRIDE)[0, 0].tolist() == pytest.approx(pixels(9.75, 14.45), abs=0.05 * STRIDE)
    assert window_mass(mass, STRIDE).item() > 0.8  # of a standard deviation of two cells, three to each side
    assert heat_spread(mass, STRIDE).item() == pytest.approx(2.0 * STRIDE, rel=0.1)


def test_a_soft_argmax_has_a_gradient_towards_the_landmark() -> None:
    heat = gaussian(10, 14).requires_grad_()
    decode_soft_argmax(heat, STRIDE)[0, 0, 0].backward()
    assert heat.grad is not None
    assert heat.grad[0, 0, 14, 11] > 0 > heat.grad[0, 0, 14, 9]
