"""From heatmaps to places: the highest cell, soft-argmax over all cells or about the highest, and DARK.

Every decoder takes heatmaps ``(N, K, h, w)`` and their stride, and gives x and y in input pixels, ``(N, K, 2)``. None
depends on values for a shape, so that each can be part of an exported graph; none gives NaN for finite heat.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

import torch
from torch import Tensor

Decoder = Callable[[Tensor, int], Tensor]

SOFT_ARGMAX_TEMPERATURE: Final = 0.05
"""Of heat, which is 1 at a landmark: a background of 2^18 cells weighs exp(-20) each, together 0.05 % of the peak."""
LOCAL_TEMPERATURE: Final = 0.1
LOCAL_RADIUS: Final = 4
"""Cells. A window about the highest cell."""
EXPECTATION_REACH_PX: Final = 16.0
"""Input pixels. Neighbouring vertebrae of a whole spine are about 25 apart at 512 pixels."""
SPREAD_REACH_PX: Final = 24.0
SPREAD_FLOOR: Final = 0.05
CONFIDENCE_REACH_PX: Final = 12.0
"""Input pixels: not as far as the next vertebra, 20 in an input of 384, so that heat on a neighbour counts against."""
DARK_BLUR_SIGMA: Final = 1.0
"""Cells. The paper blurs with the width of the targets; less is enough where the heat is already smooth."""

_LEAST_RANGE: Final = 1e-6
_LEAST_HEAT: Final = 1e-6
"""Of the blurred heat at the highest cell: what the logarithm sees at least."""
_BLUR_REACH: Final = 3.0
"""Standard deviations that the blur's kernel reaches."""
_LEAST_MASS: Final = 1e-12
"""Heat of a highest cell below which there is none: its map tells no place but that cell."""
_STENCIL: Final = 2
"""Cells that the differences of DARK reach to either side."""
_HALF_A_CELL: Final = 0.5
_CENTRINGS: Final = 3
"""How often the window of `decode_expectation` is moved; each time a fifth or less of the fault is left."""


class _Peak(NamedTuple):
    """The highest cell of each map; the first where there are several.

    Attributes:
        x, y: ``(N, K)`` int64.
    """

    x: Tensor
    y: Tensor


def decode_argmax(heatmaps: Tensor, stride: int) -> Tensor:
    """Give the centre of the highest cell."""
    peak = _peak(heatmaps)
    return _to_pixels(peak.x.to(heatmaps.dtype), peak.y.to(heatmaps.dtype), stride)


def decode_soft_argmax(heatmaps: Tensor, stride: int, temperature: float = SOFT_ARGMAX_TEMPERATURE) -> Tensor:
    """Give the mean over all cells, weighed by the softmax of heat over `temperature`. It has a gradient."""
    height, width = heatmaps.shape[2:]
    weights = torch.unflatten(torch.softmax(heatmaps.flatten(2) / temperature, dim=2), 2, (height, width))
    columns = torch.arange(width, dtype=heatmaps.dtype, device=heatmaps.device)
    rows = torch.arange(height, dtype=heatmaps.dtype, device=heatmaps.device)
    x = (weights.sum(dim=2) * columns).sum(dim=2)
    y = (weights.sum(dim=3) * rows).sum(dim=2)
    return _to_pixels(x, y, stride)


def decode_local_soft_argmax(
    heatmaps: Tensor, stride: int, temperature: float = LOCAL_TEMPERATURE, radius: int = LOCAL_RADIUS
) -> Tensor:
    """Give the mean over a window about the highest cell, so that a second, lower peak elsewhere has no part in it.

    Args:
        heatmaps: ``(N, K, h, w)``.
        stride: input pixels per cell.
        temperature: of the softmax, as a part of the range of heat in the window: low peaks are as sharp as high ones.
        radius: of the square window, cells.
    """
    peak = _peak(heatmaps)
    window, inside = _window(heatmaps, peak, radius)  # (N, K, side, side)
    highest = window[..., radius : radius + 1, radius : radius + 1]
    window = torch.where(inside, window, highest)
    spanned = (highest - window.amin(dim=(2, 3), keepdim=True)).clamp_min(_LEAST_RANGE)
    weights = torch.exp((window - highest) / (spanned * temperature)) * inside
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)  # the highest cell's was 1
    offsets = _offsets(radius, heatmaps).to(heatmaps.dtype)
    x = peak.x + (weights.sum(dim=2) * offsets).sum(dim=2)
    y = peak.y + (weights.sum(dim=3) * offsets).sum(dim=2)
    return _to_pixels(x, y, stride)


def decode_dark(heatmaps: Tensor, stride: int, blur_sigma: float = DARK_BLUR_SIGMA) -> Tensor:
    """Give the highest cell and from there one Newton step on the blurred map's logarithm, at most half a cell.

    The logarithm of a Gaussian is a parabola, whose top one step finds exactly (Zhang et al., CVPR 2020). The paper
    scales the blurred map back to its maximum, which adds a constant to the logarithm; here it is scaled to 1 at the
    highest cell, and only the part that the step needs is blurred. Where there is no top (flat heat, a saddle) the cell
    stays; along an axis on which the cell is too near to the border for the differences, it stays too.

    Args:
        heatmaps: ``(N, K, h, w)``; negative heat counts as none.
        stride: input pixels per cell.
        blur_sigma: of the Gaussian, cells.
    """
    height, width = heatmaps.shape[2:]
    peak = _peak(heatmaps)
    log_heat = _blurred_log(heatmaps, peak, blur_sigma)  # (N, K, 5, 5)
    step_x, step_y = _newton_step(
        log_heat,
        inner_x=(peak.x >= _STENCIL) & (peak.x < width - _STENCIL),
        inner_y=(peak.y >= _STENCIL) & (peak.y < height - _STENCIL),
    )
    return _to_pixels(peak.x + step_x, peak.y + step_y, stride)


def decode_expectation(heatmaps: Tensor, stride: int, reach_px: float = EXPECTATION_REACH_PX) -> Tensor:
    """Give the mean over a window about the top, weighed by the heat itself.

    For maps that are distributions over the cells, see `spatial_softmax`. A window about the highest cell would cut off
    more on the side to which the top lies from that cell's centre, and so would a border: the window is moved to its
    own mean, and along an axis it reaches no farther than to the nearer border.

    Args:
        heatmaps: ``(N, K, h, w)``; negative heat counts as none.
        stride: input pixels per cell.
        reach_px: of the square window to each side, input pixels.
    """
    height, width = heatmaps.shape[2:]
    peak = _peak(heatmaps)
    radius = _radius(reach_px, stride)
    mass = _mass_about(heatmaps, peak, radius + 1)  # the window moves by a cell at most
    half_x = torch.minimum(peak.x, width - 1 - peak.x).clamp_max(radius).to(mass.dtype)
    half_y = torch.minimum(peak.y, height - 1 - peak.y).clamp_max(radius).to(mass.dtype)
    x = y = torch.zeros_like(half_x)
    for _ in range(_CENTRINGS):
        seen = mass * _covered(radius + 1, y, half_y)[..., :, None] * _covered(radius + 1, x, half_x)[..., None, :]
        mean_x, mean_y, _ = _moments(seen / seen.sum(dim=(2, 3), keepdim=True).clamp_min(_LEAST_MASS))
        x, y = mean_x.clamp(-1, 1), mean_y.clamp(-1, 1)
    return _to_pixels(peak.x + mean_x, peak.y + mean_y, stride)


def peak_heat(heatmaps: Tensor) -> Tensor:
    """Give the heat of the highest cell, ``(N, K)``, in [0, 1]: how sure the network is that a landmark is there."""
    return heatmaps.amax(dim=(2, 3)).clamp(0.0, 1.0)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Give each map's distribution over its cells, ``(N, K, h, w)``: at least 0, the sum of a map is 1."""
    return torch.unflatten(torch.softmax(logits.flatten(2), dim=2), 2, logits.shape[2:])


def window_mass(heatmaps: Tensor, stride: int, chosen: Tensor | None = None) -> Tensor:
    """Give the part of each map's heat within `CONFIDENCE_REACH_PX` of the highest cell, ``(N, K)`` in [0, 1].

    Of a distribution it is the probability that the landmark is there rather than anywhere else in the image.

    Args:
        heatmaps: ``(N, K, h, w)``.
        stride: input pixels per cell.
        chosen: maps of the same shape whose highest cells are meant instead.
    """
    peak = _peak(heatmaps if chosen is None else chosen)
    window, _ = _window(heatmaps.clamp_min(0.0), peak, _radius(CONFIDENCE_REACH_PX, stride))
    whole = heatmaps.clamp_min(0.0).sum(dim=(2, 3)).clamp_min(_LEAST_MASS)
    return (window.sum(dim=(2, 3)) / whole).clamp(0.0, 1.0)


def heat_spread(heatmaps: Tensor, stride: int) -> Tensor:
    """Give the standard deviation of the heat about the highest cell, ``(N, K)`` input pixels, of x and y together.

    Heat under `SPREAD_FLOOR` of the highest counts as none, or the many cells of the background would outweigh the
    peak; of a Gaussian that leaves 92 % of its standard deviation. A single lit cell has none, and so has a map
    without heat: that it tells nothing is what `peak_heat` says.
    """
    peak = _peak(heatmaps)
    _, _, variance = _moments(_mass_about(heatmaps, peak, _radius(SPREAD_REACH_PX, stride), SPREAD_FLOOR))
    return variance.sqrt() * stride


class Decoding(StrEnum):
    """The decoders by name."""

    ARGMAX = "argmax"
    SOFT_ARGMAX = "soft_argmax"
    LOCAL_SOFT_ARGMAX = "local_soft_argmax"
    DARK = "dark"
    EXPECTATION = "expectation"


DECODERS: Final[dict[Decoding, Decoder]] = {
    Decoding.ARGMAX: decode_argmax,
    Decoding.SOFT_ARGMAX: decode_soft_argmax,
    Decoding.LOCAL_SOFT_ARGMAX: decode_local_soft_argmax,
    Decoding.DARK: decode_dark,
    Decoding.EXPECTATION: decode_expectation,
}


def _to_pixels(x: Tensor, y: Tensor, stride: int) -> Tensor:
    """Give input pixels ``(N, K, 2)`` of cells, whose centres are whole numbers."""
    return (torch.stack((x, y), dim=2) + _HALF_A_CELL) * stride


def _peak(heatmaps: Tensor) -> _Peak:
    width = heatmaps.shape[3]
    highest = heatmaps.flatten(2).argmax(dim=2)
    return _Peak(highest % width, torch.div(highest, width, rounding_mode="floor"))


def _mass_about(heatmaps: Tensor, peak: _Peak, radius: int, floor: float = 0.0) -> Tensor:
    """Give the part of the heat that lies in each cell about each peak, ``(N, K, side, side)``; in its own where none.

    Args:
        floor: of the heat of the peak, below which heat counts as none.
    """
    window, inside = _window(heatmaps, peak, radius)
    highest = window[..., radius : radius + 1, radius : radius + 1]
    scaled = window.clamp_min(0.0) / highest.clamp_min(_LEAST_MASS)
    scaled = scaled * (scaled >= floor)
    middle = torch.zeros_like(scaled[0, 0])
    middle[radius, radius] = 1.0
    kept = torch.where(highest > _LEAST_MASS, scaled, middle) * inside
    return kept / kept.sum(dim=(2, 3), keepdim=True)


def _covered(radius: int, centre: Tensor, half: Tensor) -> Tensor:
    """Give the part of each cell within `radius` that a window of ``2 half + 1`` cells covers, ``(N, K, side)``."""
    distance = (_offsets(radius, centre).to(centre.dtype) - centre[..., None]).abs()
    return (half[..., None] + _HALF_A_CELL - distance + _HALF_A_CELL).clamp(0.0, 1.0)


def _moments(mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean x, mean y and the mean of both variances of ``(N, K, side, side)``, in cells from the middle."""
    offsets = _offsets((mass.shape[3] - 1) // 2, mass).to(mass.dtype)
    columns, rows = mass.sum(dim=2), mass.sum(dim=3)
    mean_x, mean_y = (columns * offsets).sum(dim=2), (rows * offsets).sum(dim=2)
    squares = ((columns + rows) * offsets.square()).sum(dim=2)
    return mean_x, mean_y, ((squares - mean_x.square() - mean_y.square()) / 2).clamp_min(0.0)


def _radius(reach_px: float, stride: int) -> int:
    return max(1, round(reach_px / stride))


def _offsets(radius: int, like: Tensor) -> Tensor:
    return torch.arange(-radius, radius + 1, device=like.device)


def _window(heatmaps: Tensor, peak: _Peak, radius: int) -> tuple[Tensor, Tensor]:
    """Give the heat about each peak, ``(N, K, side, side)``, and which of it lies in the map; 0 elsewhere."""
    height, width = heatmaps.shape[2:]
    columns = peak.x[..., None] + _offsets(radius, heatmaps)  # (N, K, side)
    rows = peak.y[..., None] + _offsets(radius, heatmaps)
    inside_x, inside_y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    inside = inside_y[..., :, None] & inside_x[..., None, :]
    cells = rows.clamp(0, height - 1)[..., :, None] * width + columns.clamp(0, width - 1)[..., None, :]
    side = 2 * radius + 1
    window = torch.unflatten(heatmaps.flatten(2).gather(2, cells.flatten(2)), 2, (side, side))
    return window * inside, inside


def _blurred_log(heatmaps: Tensor, peak: _Peak, sigma: float) -> Tensor:
    """Give the logarithm of the blurred heat on the 5 x 5 cells about each peak, ``(N, K, 5, 5)``; 0 in the middle."""
    reach = max(1, round(_BLUR_REACH * sigma))
    window, _ = _window(heatmaps, peak, reach + _STENCIL)
    places = _offsets(reach + _STENCIL, heatmaps).to(heatmaps.dtype)
    centres = _offsets(_STENCIL, heatmaps).to(heatmaps.dtype)
    distance = places[None, :] - centres[:, None]  # (5, side)
    kernel = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= reach)
    blurred = kernel @ window @ kernel.T
    middle = blurred[..., _STENCIL : _STENCIL + 1, _STENCIL : _STENCIL + 1]
    return torch.log((blurred / middle.clamp_min(_LEAST_HEAT)).clamp_min(_LEAST_HEAT))


def _newton_step(log_heat: Tensor, inner_x: Tensor, inner_y: Tensor) -> tuple[Tensor, Tensor]:
    """Give the step to the top of the parabola, in cells; differences as in the paper's implementation.

    Args:
        log_heat: ``(N, K, 5, 5)``.
        inner_x, inner_y: ``(N, K)`` bool, where the differences along the axis lie within the map.
    """
    c = _STENCIL
    none = torch.zeros_like(log_heat[..., c, c])
    slope_x = torch.where(inner_x, (log_heat[..., c, c + 1] - log_heat[..., c, c - 1]) / 2, none)
    slope_y = torch.where(inner_y, (log_heat[..., c + 1, c] - log_heat[..., c - 1, c]) / 2, none)
    twice = 2 * log_heat[..., c, c]
    bend_x = torch.where(inner_x, (log_heat[..., c, c + 2] + log_heat[..., c, c - 2] - twice) / 4, none - 1)
    bend_y = torch.where(inner_y, (log_heat[..., c + 2, c] + log_heat[..., c - 2, c] - twice) / 4, none - 1)
    falling, rising = log_heat[..., c + 1, c - 1], log_heat[..., c - 1, c + 1]
    twist = (log_heat[..., c + 1, c + 1] + log_heat[..., c - 1, c - 1] - falling - rising) / 4
    twist = torch.where(inner_x & inner_y, twist, none)
    determinant = bend_x * bend_y - twist * twist
    has_top = (bend_x < 0) & (bend_y < 0) & (determinant > 0)
    safe = torch.where(has_top, determinant, none + 1)
    step_x = torch.where(has_top, (twist * slope_y - bend_y * slope_x) / safe, none)
    step_y = torch.where(has_top, (twist * slope_x - bend_x * slope_y) / safe, none)
    return step_x.clamp(-_HALF_A_CELL, _HALF_A_CELL), step_y.clamp(-_HALF_A_CELL, _HALF_A_CELL)
