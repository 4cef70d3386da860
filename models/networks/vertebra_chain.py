"""The column read as a whole: each vertebra below the one before it, about as far away as its neighbours are.

Heatmaps are made one by one, and each may find the same body likely: two names then fall on one vertebra, or a corner
on the neighbour. Here all vertebrae choose their rows together. A hidden Markov chain runs down the column; what a row
speaks for a vertebra are its four corners about that row, at whichever tilt fits them best, and what two rows speak
for each other is how far apart they are. The best chain is found by Viterbi's algorithm (IEEE Transactions on
Information Theory 13, 1967), and the heat of each corner counts the less the farther it lies from its place there.

Lengths are parts of the film's own distance from one vertebra to the next, so that nothing depends on the size of the
input. Every step is an operation of fixed shape, so that it can be part of an exported graph.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from models.spine.schemas import CORNERS

BODY: Final = 0.3
"""From the middle of a vertebra up or down to its end plates, in distances from one vertebra to the next."""
WINDOW: Final = 0.4
"""Standard deviation about its place in the chain within which the heat of a corner counts, in such distances."""

_BLUR: Final = 0.15
_STEP_DEVIATION: Final = 0.13
"""Of the distance between two vertebrae; steps are short at the top of a column and long at its end."""
_STEEPEST: Final = 1.5
"""Half of the difference of rows between both sides of the most tilted vertebra, in such distances."""
_TILTS: Final = 17
_LEAST_HEAT: Final = 1e-3
"""Share of the heat of a corner that every row has: a corner that is elsewhere must not forbid a vertebra."""
_LEAST_WEIGHT: Final = 1e-3
"""Of all rows together, where a corner would lie beyond the image."""
_LEAST_DISTANCE: Final = 1.0
"""Cells; of a film on which nothing is found."""
_FEWEST_CELLS: Final = 3.0
"""From one vertebra to the next. Rows are too coarse for a chain of less, and the heat is left as it is."""
_HALF_A_CELL: Final = 0.5
"""Rows are whole numbers, places are not: what is added, squared, to deviations."""
_FORBIDDEN: Final = -1e4


def heat_of_column(heatmaps: Tensor) -> Tensor:
    """Give the heat that fits one column, ``(N, 4 V, h, w)``.

    Args:
        heatmaps: ``(N, 4 V, h, w)``, vertebrae from top to bottom with their corners in the order of a schema;
            negative heat counts as none.
    """
    heat = heatmaps.clamp_min(0.0)
    rows = torch.unflatten(heat.sum(dim=3), 1, (-1, len(CORNERS)))  # (N, V, 4, h)
    rows = rows / rows.sum(dim=3, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    distance = _distance(rows)
    evidence, tilts = _evidence(rows, distance)
    chain = _best_chain(evidence, distance)  # (N, V)
    tilt = tilts.gather(2, chain[..., None])  # (N, V, 1)
    places = chain[..., None] + distance[:, None, None] * _offsets(tilt)  # (N, V, 4)
    cells = torch.arange(rows.shape[3], dtype=rows.dtype, device=rows.device)
    away = (cells - places[..., None]) / _deviation(WINDOW, distance)[:, None, None, None]
    counts = torch.exp(-0.5 * away.square())
    counts = torch.where(distance[:, None, None, None] < _FEWEST_CELLS, torch.ones_like(counts), counts)
    return heat * counts.flatten(1, 2)[..., None]


def _deviation(share: float, distance: Tensor) -> Tensor:
    """Give so many distances in cells, ``(N,)``."""
    return ((share * distance).square() + _HALF_A_CELL**2).sqrt()


def _offsets(tilt: Tensor) -> Tensor:
    """Give how far below the middle of a vertebra its corners lie: top-left, top-right, bottom-left, bottom-right."""
    return torch.cat((-BODY - tilt, -BODY + tilt, BODY - tilt, BODY + tilt), dim=-1)


def _distance(rows: Tensor) -> Tensor:
    """Give the mean distance between two vertebrae, ``(N,)`` cells, from where their heat lies on average."""
    cells = torch.arange(rows.shape[3], dtype=rows.dtype, device=rows.device)
    mean = (rows.mean(dim=2) * cells).sum(dim=2)
    return ((mean[:, -1] - mean[:, 0]) / (rows.shape[1] - 1)).clamp_min(_LEAST_DISTANCE)


def _evidence(rows: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Give how much the corners speak for each row as the middle of each vertebra, and the tilt that fits them best.

    Returns:
        Logarithms, and how far the right side lies below the middle in distances between vertebrae, ``(N, V, h)`` each.
    """
    tilts = torch.linspace(-_STEEPEST, _STEEPEST, _TILTS, dtype=rows.dtype, device=rows.device)
    offsets = _offsets(tilts[:, None]) * distance[:, None, None]  # (N, tilts, 4) cells
    cells = torch.arange(rows.shape[3], dtype=rows.dtype, device=rows.device)
    # How much the heat of each row counts for each middle: a Gaussian about where the corner would be.
    apart = cells[:, None] - cells - offsets[..., None, None]  # (N, tilts, 4, row, middle)
    near = torch.exp(-0.5 * (apart / _deviation(_BLUR, distance)[:, None, None, None, None]).square())
    near = near / near.sum(dim=3, keepdim=True).clamp_min(_LEAST_WEIGHT)
    heat = rows.transpose(1, 2)[:, None] @ near  # (N, tilts, 4, V, middle)
    best, which = torch.log(heat + _LEAST_HEAT).sum(dim=2).max(dim=1)
    return best, tilts[which]


def _best_chain(evidence: Tensor, distance: Tensor) -> Tensor:
    """Give the row of each vertebra on the most likely chain, ``(N, V)`` int64."""
    cells = torch.arange(evidence.shape[2], dtype=evidence.dtype, device=evidence.device)
    step = cells[None, None, :] - cells[None, :, None]  # (1, from, to)
    apart = (step - distance[:, None, None]) / _deviation(_STEP_DEVIATION, distance)[:, None, None]
    return best_path(evidence, torch.where(step > 0, -0.5 * apart.square(), torch.full_like(apart, _FORBIDDEN)))


def best_path(evidence: Tensor, likely: Tensor) -> Tensor:
    """Give the row of each vertebra on the path of the largest sum, ``(N, V)`` int64 (Viterbi's algorithm).

    Args:
        evidence: ``(N, V, rows)``, how much speaks for a row as that of a vertebra; logarithms.
        likely: ``(N, rows, rows)``, how much speaks for the second row as the one that follows upon the first.
    """
    score, came_from = evidence[:, 0], []
    for vertebra in range(1, evidence.shape[1]):
        before, where = (score[:, :, None] + likely).max(dim=1)
        came_from.append(where)
        score = before + evidence[:, vertebra]
    place = score.argmax(dim=1, keepdim=True)
    path = [place]
    for where in reversed(came_from):
        place = where.gather(1, place)
        path.append(place)
    return torch.cat(path[::-1], dim=1)
