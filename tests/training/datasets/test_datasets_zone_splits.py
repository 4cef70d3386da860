"""Splits of zone scores: whole persons, everyone once, and kinds of images on both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import ConfigurationError
from models.zones import Congestion
from training.datasets.zone_images import ZoneImage
from training.datasets.zone_splits import kfold_zones, split_zones

Make = Callable[..., ZoneImage]


@pytest.fixture(scope="module")
def make() -> Make:
    """Make an image of a number; person and pixels are its own unless given."""

    def image(number: int, grades: list[int], person: str = "", pixels: str = "") -> ZoneImage:
        name = f"{number:03d}.png"
        readers = (tuple(Congestion(grade) for grade in grades),)
        return ZoneImage(Path(name), name, person or f"p{number}", pixels or f"h{number}", readers)

    return image


def test_no_person_and_no_picture_stands_on_both_sides(make: Make) -> None:
    images = [make(i, [i % 4] * 6, person=f"p{i // 3}", pixels=f"h{i - i % 6 // 5}") for i in range(90)]
    for split in kfold_zones(images, 5, seed=3):
        for key in ("person", "pixels_sha256"):
            train, held = ({getattr(image, key) for image in side} for side in (split.train, split.validation))
            assert not train & held


def test_folds_hold_everyone_out_once_and_keep_the_order(make: Make) -> None:
    images = [make(i, [i % 4] * 6) for i in range(50)]
    splits = kfold_zones(images, 5, seed=0)
    held = [image for split in splits for image in split.validation]
    assert sorted(image.source for image in held) == [image.source for image in images]
    for split in splits:
        assert list(split.train) == sorted(split.train, key=lambda image: image.source)
    assert splits == kfold_zones(images, 5, seed=0)
    assert splits != kfold_zones(images, 5, seed=1)


def test_folds_are_alike_in_ungradable_zones_and_in_severity(make: Make) -> None:
    gradable = [make(i, [i % 4] * 6) for i in range(80)]
    lower_hidden = [make(100 + i, [1, 1, 1, 1, 4, 4]) for i in range(20)]
    for split in kfold_zones([*gradable, *lower_hidden], 5, seed=0):
        hidden = sum(image.readers[0][4] is Congestion.UNGRADABLE for image in split.validation)
        assert hidden == 4
        for grade in range(4):
            severity = sum(image.readers[0] == (Congestion(grade),) * 6 for image in split.validation)
            assert 3 <= severity <= 5


def test_a_fraction_is_held_out_or_nobody(make: Make) -> None:
    images = [make(i, [i % 4] * 6) for i in range(60)]
    split = split_zones(images, 0.25, seed=0)
    assert len(split.validation) == pytest.approx(15, abs=3)
    assert len(split.train) + len(split.validation) == 60
    everyone = split_zones(images, 0, seed=0)
    assert everyone.train == tuple(images)
    assert everyone.validation == ()


def test_too_few_persons_are_said_to_be_too_few(make: Make) -> None:
    images = [make(i, [0] * 6, person="one") for i in range(10)]
    with pytest.raises(ConfigurationError, match="1 persons are too few for 5 parts"):
        kfold_zones(images, 5, seed=0)
    with pytest.raises(ConfigurationError, match="too few"):
        split_zones(images, 0.2, seed=0)
