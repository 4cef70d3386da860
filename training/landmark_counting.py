"""What the counter of vertebrae learns from, see `models.networks.vertebra_counting`.

It sees films that it will be shown along curves that the heatmaps found, so in training the true curve is moved to the
sides, and begins and ends somewhere about where it would.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from models.networks.vertebra_counting import ABOVE, BELOW, FARTHEST, GAP, Reading, Strip, read_rows, straightened
from models.networks.vertebra_frames import Frames
from training.landmark_losses import masked_mean

SIDEWAYS: Final = 0.1
"""Standard deviation of what neighbours are moved to the side together, in widths; each by itself half of it."""
LONGER: Final = 0.45
"""Standard deviation of how far a strip goes on beyond the column, in distances between middles."""
WIDER: Final = 0.1
"""Standard deviation of the logarithm of the width of a strip."""

_ALONE: Final = 0.5
_REACH: Final = 5
"""Vertebrae that are moved together."""
_LEAST_BEYOND: Final = 0.5
_BODY_DEVIATION: Final = 0.13
"""Of the target about a middle, in distances from one middle to the next."""
_NAMED: Final = 0.3
"""So far from a middle, in such distances, a row is of that level."""
_COUNTED: Final = 0.4
"""So far beyond the first and the last middle, in such distances, it is known that there is no other."""
_LEAST_GAP: Final = 1.0
_BODY_WEIGHT: Final = 3.0
_LEVEL_WEIGHT: Final = 0.5
_GAP_WEIGHT: Final = 2.0
_SMOOTHING: Final = 0.02


def strip_beside(frames: Frames) -> Strip:
    """Lay a strip along a true column, as far from it as one that was found would be (torch's generator)."""
    width = frames.width
    aside = SIDEWAYS * (together(width) + _ALONE * torch.randn_like(width)) * width
    of_film = torch.randn(3, len(width), 1, dtype=width.dtype, device=width.device)
    above, below = (
        (usual + LONGER * of_film[number]).clamp(_LEAST_BEYOND, FARTHEST) for number, usual in enumerate((ABOVE, BELOW))
    )
    moved = frames._replace(
        middle=frames.middle + aside[..., None] * frames.right, width=width * torch.exp(WIDER * of_film[2])
    )
    return straightened(moved, above, below)


def together(like: Tensor) -> Tensor:
    """Give normal numbers ``(N, V)`` of which neighbours are alike (torch's generator)."""
    drawn = torch.randn(len(like), 1, like.shape[1] + _REACH - 1, dtype=like.dtype, device=like.device)
    joined: Tensor = functional.avg_pool1d(drawn, _REACH, stride=1)[:, 0] * _REACH**0.5
    return joined


def rows_of_middles(strip: Strip, middles: Tensor) -> Tensor:
    """Give the rows of a strip beside which the middles of vertebrae lie, ``(N, V)``.

    Args:
        strip: along them.
        middles: ``(N, V, 2)``, pixels of the image.
    """
    nearest = torch.cdist(middles, strip.middle).argmin(dim=2)
    number = nearest[..., None].expand(-1, -1, 2)
    right = strip.right.gather(1, number)
    away = middles - strip.middle.gather(1, number)
    down = away[..., 1] * right[..., 0] - away[..., 0] * right[..., 1]
    return nearest + down / strip.step[:, None]


def counting_loss(reading: Reading, rows: Tensor) -> Tensor:
    """Give how far a reading is from what is true of each row.

    Args:
        reading: of a strip.
        rows: ``(N, V)``, of the middles on that strip.
    """
    middle = read_rows(rows)
    gap = torch.cat(
        (middle[:, 1:2] - middle[:, :1], (middle[:, 2:] - middle[:, :-2]) / 2, middle[:, -1:] - middle[:, -2:-1]), dim=1
    ).clamp_min(_LEAST_GAP)
    number = torch.arange(reading.body.shape[1], dtype=rows.dtype, device=rows.device)
    away, level = ((number[:, None] - middle[:, None]).abs() / gap[:, None]).min(dim=2)  # (N, Q)
    body = torch.exp(-0.5 * (away / _BODY_DEVIATION).square())
    known = (number > (middle - _COUNTED * gap)[:, :1]) & (number < (middle + _COUNTED * gap)[:, -1:])
    named = known & (away < _NAMED)
    wanted_gap = torch.log(gap.gather(1, level) / GAP)
    is_body = functional.binary_cross_entropy_with_logits(reading.body, body, reduction="none")
    which = functional.cross_entropy(reading.level, level, reduction="none", label_smoothing=_SMOOTHING)
    apart = (reading.gap - wanted_gap).abs()
    return (
        _BODY_WEIGHT * masked_mean(is_body, known)
        + _LEVEL_WEIGHT * masked_mean(which, named)
        + _GAP_WEIGHT * masked_mean(apart, known)
    )
