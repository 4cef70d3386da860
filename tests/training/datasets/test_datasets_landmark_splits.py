"""Splits of landmarks: whole persons, everyone once, and curved spines on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from landmark_sets import SIZE, column

from models.errors import ConfigurationError
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_splits import kfold_landmarks, split_landmarks
from training.datasets.vertebra_corners import largest_tilt_between


def make(number: int, degrees: float = 0.0, person: str = "", pixels: str = "") -> LandmarkImage:
    """Make an image of a number; person and pixels are its own unless given."""
    name = f"{number:03d}.png"
    points = column(tilts=[0.0] * 7 + [degrees] + [0.0] * 9)
    return LandmarkImage(Path(name), name, person or f"p{number}", pixels or f"h{number}", SIZE, points)


def test_no_person_and_no_picture_stands_on_both_sides() -> None:
    images = [make(i, 10.0 * (i % 4), person=f"p{i // 3}", pixels=f"h{i - i % 6 // 5}") for i in range(90)]
    for split in kfold_landmarks(images, 5, seed=3):
        for key in ("person", "pixels_sha256"):
            train, held = ({getattr(image, key) for image in side} for side in (split.train, split.validation))
            assert not train & held


def test_folds_hold_everyone_out_once_and_keep_the_order() -> None:
    images = [make(i, 10.0 * (i % 4)) for i in range(50)]
    splits = kfold_landmarks(images, 5, seed=0)
    held = [image for split in splits for image in split.validation]
    assert sorted(image.source for image in held) == [image.source for image in images]
    for split in splits:
        assert list(split.train) == sorted(split.train, key=lambda image: image.source)
    assert splits == kfold_landmarks(images, 5, seed=0)
    assert splits != kfold_landmarks(images, 5, seed=1)


def test_straight_and_curved_spines_are_spread_evenly() -> None:
    images = [make(i, (5.0, 25.0, 50.0)[i % 3]) for i in range(90)]
    for split in kfold_landmarks(images, 5, seed=0):
        severe = sum(largest_tilt_between(image.points) > 40 for image in split.validation)
        assert 5 <= severe <= 7


def test_a_fraction_is_held_out_or_nobody() -> None:
    images = [make(i) for i in range(60)]
    split = split_landmarks(images, 0.25, seed=0)
    assert len(split.validation) == pytest.approx(15, abs=3)
    assert len(split.train) + len(split.validation) == 60
    everyone = split_landmarks(images, 0, seed=0)
    assert (everyone.train, everyone.validation) == (tuple(images), ())


def test_too_few_persons_are_said_to_be_too_few() -> None:
    images = [make(i, person="one") for i in range(10)]
    with pytest.raises(ConfigurationError, match="1 persons are too few for 5 parts"):
        kfold_landmarks(images, 5, seed=0)
    with pytest.raises(ConfigurationError, match="too few"):
        split_landmarks(images, 0.2, seed=0)
