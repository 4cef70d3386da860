"""Changes of radiographs with zone scores: repeatable, in range, and a flip that takes the scores along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.zones import ZONES, Congestion, Zone
from training.zone_augmentation import ZoneAugmentation, middle, widened_side

NOTHING = ZoneAugmentation(
    rotation_deg=0, zoom=0, aspect=0, shift=0, tones=0, sharpness=0, gamma=0, contrast=0, brightness=0,
    noisy=0, jpeg=0, erase=0, flip=0,
)  # fmt: skip


def wide_image(side: int = 60) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)).astype(np.float32)


def severe(zone: Zone) -> torch.Tensor:
    targets = torch.zeros(6, 5)
    targets[:, Congestion.NORMAL] = 1
    targets[ZONES.index(zone)] = torch.eye(5)[Congestion.SEVERE]
    return targets


def test_the_same_generator_gives_the_same_image_and_another_gives_another() -> None:
    def changed(seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        return ZoneAugmentation().apply(wide_image(), severe(Zone.LEFT_SUP), random, wide_image)[0]

    assert np.array_equal(changed(1), changed(1))
    assert not np.array_equal(changed(1), changed(2))


@pytest.mark.parametrize("seed", range(12))
def test_changed_images_stay_in_range_at_the_size_of_the_input(seed: int) -> None:
    wide = wide_image(widened_side(48))
    image, targets = ZoneAugmentation().apply(wide, severe(Zone.LEFT_SUP), np.random.default_rng(seed), lambda: wide)
    assert image.shape == (48, 48)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert targets.sum(dim=1).tolist() == [1] * 6


def test_without_changes_the_input_is_the_middle_of_the_wide_image() -> None:
    wide = wide_image(60)
    image, _ = NOTHING.apply(wide, severe(Zone.LEFT_SUP), np.random.default_rng(0), wide_image)
    assert image == pytest.approx(wide[10:50, 10:50], abs=1e-5)
    assert np.array_equal(middle(wide), wide[10:50, 10:50])


def test_a_flip_takes_the_scores_to_the_other_side() -> None:
    wide = np.zeros((60, 60), np.float32)
    wide[10:20, 10:20] = 1  # the upper corner on the image's left: the patient's right
    flipping = NOTHING.__class__(**{**{name: 0 for name in NOTHING.__dataclass_fields__}, "flip": 1.0})
    image, targets = flipping.apply(wide, severe(Zone.RIGHT_SUP), np.random.default_rng(0), wide_image)
    assert image[:10, -10:].min() == 1
    assert image[:10, :10].max() == 0
    assert torch.equal(targets, severe(Zone.LEFT_SUP))


def test_a_moved_frame_shows_what_lies_beside_the_input() -> None:
    wide = np.full((60, 60), 0.5, np.float32)
    wide[10:50, 10:50] = 0
    moving = NOTHING.__class__(**{**{name: 0 for name in NOTHING.__dataclass_fields__}, "shift": 0.2})
    seen = [
        float(moving.apply(wide, severe(Zone.LEFT_SUP), np.random.default_rng(seed), lambda: wide)[0].max())
        for seed in range(8)
    ]
    assert max(seen) == pytest.approx(0.5)
