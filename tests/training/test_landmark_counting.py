"""What the counter of vertebrae learns from: strips beside true columns, rows of middles, and its loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.networks.vertebra_counting import ABOVE, BELOW, GAP, Reading, rows_of, straightened
from models.networks.vertebra_frames import Frames
from training.landmark_counting import LONGER, SIDEWAYS, WIDER, counting_loss, rows_of_middles, strip_beside

VERTEBRAE, DISTANCE, WIDTH = 17, 20.0, 24.0


def _frames(films: int, bend: float = 0.0) -> Frames:
    height = 40 + DISTANCE * torch.arange(VERTEBRAE)
    middle = torch.stack((100 + bend * torch.sin(height / 60), height), dim=1).expand(films, -1, -1)
    right = torch.tensor([1.0, 0.0]).expand(films, VERTEBRAE, 2)
    return Frames(middle, right, torch.full((films, VERTEBRAE), WIDTH))


def test_rows_of_middles_are_those_at_which_the_strip_has_them() -> None:
    frames = _frames(1, bend=25.0)
    strip = straightened(frames)
    rows = rows_of_middles(strip, frames.middle)
    assert bool((rows[:, 1:] > rows[:, :-1] + 10).all())
    beside = strip.at(rows).middle - frames.middle
    along = (beside * torch.stack((-strip.at(rows).right[..., 1], strip.at(rows).right[..., 0]), dim=2)).sum(dim=2)
    assert along.abs().max() < 0.5, "pixels; the strip may lie beside the middles, but not before or behind them"


def test_strips_lie_beside_the_column_and_end_about_where_they_would() -> None:
    torch.manual_seed(0)
    strip = strip_beside(_frames(3000))
    aside = strip.middle[:, :, 0].sub(100).div(WIDTH)
    inner = aside[:, 60:-60]
    assert float(inner.std()) == pytest.approx(SIDEWAYS * (1 + 0.5**2) ** 0.5, rel=0.15), "the curve is averaged"
    assert float(inner.mean()) == pytest.approx(0, abs=0.01)
    rows = rows_of_middles(strip, _frames(3000).middle)
    above = (rows[:, 0] + 0.5) * strip.step / DISTANCE
    below = (rows_of(VERTEBRAE) - rows[:, -1] - 0.5) * strip.step / DISTANCE
    for found, usual in ((above, ABOVE), (below, BELOW)):
        assert float(found.mean()) == pytest.approx(usual, abs=0.06)
        assert float(found.std()) == pytest.approx(LONGER, rel=0.1)
    assert float(strip.width.mean(dim=1).div(WIDTH).log().std()) == pytest.approx(WIDER, rel=0.1)


def _true_rows() -> Tensor:
    strip = straightened(_frames(1))
    return rows_of_middles(strip, _frames(1).middle)


def _reading(rows: Tensor, level_of: int = 0) -> Reading:
    """A reading that is right about bodies at these rows, and sure of their levels."""
    number = torch.arange(rows_of(VERTEBRAE) // 2, dtype=torch.float32)
    middle = (rows[0] - 0.5) / 2
    gap = float(middle[1] - middle[0])
    away, nearest = ((number[:, None] - middle).abs() / gap).min(dim=1)
    share = torch.exp(-0.5 * (away / 0.13).square()).clamp(1e-4, 1 - 1e-4)
    level = torch.full((VERTEBRAE, len(number)), -8.0)
    level[(nearest + level_of).clamp(0, VERTEBRAE - 1), torch.arange(len(number))] = 0.0
    gaps = torch.full((1, len(number)), gap / GAP).log()
    return Reading(torch.logit(share)[None], level[None], gaps)


def test_the_loss_is_least_for_what_is_true() -> None:
    rows = _true_rows()
    least = float(counting_loss(_reading(rows), rows))
    assert float(counting_loss(_reading(rows + 8), rows)) > least + 1, "half a body off"
    assert float(counting_loss(_reading(rows + 1), rows)) > least
    assert float(counting_loss(_reading(rows, level_of=1), rows)) > least + 1
    body, level, gap = _reading(rows)
    assert float(counting_loss(Reading(body, level, gap + 0.1), rows)) == pytest.approx(least + 2 * 0.1, abs=1e-4)


def test_what_lies_beyond_the_column_is_not_known() -> None:
    # There are bodies above T1 and below L5, of which no label tells.
    rows = _true_rows()
    body, level, gap = _reading(rows)
    first, last = int((rows[0, 0] / 2).item()), int((rows[0, -1] / 2).item())
    changed = body.clone()
    changed[:, : first - 4], changed[:, last + 5 :] = 6.0, 6.0
    loss = float(counting_loss(_reading(rows), rows))
    assert float(counting_loss(Reading(changed, level, gap), rows)) == pytest.approx(loss, abs=1e-6)
    changed[:, first + 4] = 6.0
    assert float(counting_loss(Reading(changed, level, gap), rows)) > loss
