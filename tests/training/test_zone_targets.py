"""Soft targets of several readers, the flip that swaps sides, and the losses against hand-worked values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.zones import ZONES, Congestion, Zone
from training.zone_targets import UNGRADABLE_WEIGHT, ZoneLoss, flip_zones, soft_targets

NORMAL, MILD, MODERATE, SEVERE, UNGRADABLE = Congestion


def one_hot(grades: list[int]) -> torch.Tensor:
    return functional.one_hot(torch.tensor(grades), 5).float()[None]


def test_readers_who_differ_share_the_target() -> None:
    senior, junior = [NORMAL, MILD, SEVERE, MILD, NORMAL, UNGRADABLE], [NORMAL, MODERATE, SEVERE, MILD, MILD, NORMAL]
    targets = soft_targets([senior, junior])
    assert targets[0].tolist() == [1, 0, 0, 0, 0]
    assert targets[1].tolist() == [0, 0.5, 0.5, 0, 0]
    assert targets[5].tolist() == [0.5, 0, 0, 0, 0.5]


def test_mass_spreads_to_neighbouring_grades_only() -> None:
    targets = soft_targets([[NORMAL, MILD, MODERATE, SEVERE, UNGRADABLE, NORMAL]], spread=0.2)
    expected = [[0.8, 0.2, 0, 0, 0], [0.1, 0.8, 0.1, 0, 0], [0, 0.1, 0.8, 0.1, 0], [0, 0, 0.2, 0.8, 0], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(targets[:5], torch.tensor(expected))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))


def test_a_flip_moves_the_right_lung_s_grade_to_the_left() -> None:
    image = torch.zeros(1, 3, 4)
    image[..., 0] = 1.0  # the patient's right
    targets = torch.zeros(6, 5)
    targets[ZONES.index(Zone.RIGHT_INF), SEVERE] = 1.0
    flipped, swapped = flip_zones(image, targets)
    assert flipped[0, 0].tolist() == [0, 0, 0, 1]
    assert swapped[ZONES.index(Zone.LEFT_INF), SEVERE] == 1.0
    assert swapped[ZONES.index(Zone.RIGHT_INF)].sum() == 0
    again, back = flip_zones(flipped, swapped)
    assert torch.equal(again, image)
    assert torch.equal(back, targets)


def test_hard_targets_give_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 5)
    grades = [0, 1, 2, 3, 4, 4]
    weights = torch.tensor([1, 1, 1, 1, UNGRADABLE_WEIGHT])
    expected = functional.cross_entropy(logits[0], torch.tensor(grades), weights)
    torch.testing.assert_close(ZoneLoss()(logits, one_hot(grades)), expected)


def test_the_ordinal_loss_grows_with_the_distance() -> None:
    def answered(grade: int) -> torch.Tensor:
        logits = torch.full((1, 6, 5), -20.0)
        logits[:, :, grade] = 20.0
        return logits

    target = one_hot([0] * 6)
    plain, ordinal = ZoneLoss(), ZoneLoss(ordinal=1.0)
    added = [(ordinal(answered(grade), target) - plain(answered(grade), target)).item() for grade in range(4)]
    assert added == pytest.approx([0, 1, 2, 3], abs=1e-4)
    nobody_knows = one_hot([UNGRADABLE] * 6)
    assert torch.isfinite(ordinal(answered(0), nobody_knows))
