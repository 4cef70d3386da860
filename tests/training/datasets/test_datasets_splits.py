"""Splits and folds: persons and equal pixels stay together, classes are spread, the seed decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from models.errors import ConfigurationError
from training.datasets.labelled import LabelledImage
from training.datasets.splits import Split, kfold_by_person, split_by_person

MakeImage = Callable[..., LabelledImage]


def assert_apart(split: Split) -> None:
    for key in ("person", "pixels_sha256"):
        assert not {getattr(i, key) for i in split.train} & {getattr(i, key) for i in split.validation}


def test_images_of_one_person_stand_on_one_side(make_image: MakeImage) -> None:
    images = [make_image(i, i % 2, person=f"p{i % 2}-{i // 6}") for i in range(120)]
    for seed in range(20):
        split = split_by_person(images, 0.25, seed)
        assert_apart(split)
        assert len(split.train) + len(split.validation) == 120


def test_the_same_pixels_stand_on_one_side_whoever_they_are_said_to_be(make_image: MakeImage) -> None:
    # Chains: 0 and 1 share pixels, 1 and 2 a person, 2 and 3 pixels.
    chained = [
        make_image(0, 0, pixels="x"),
        make_image(1, 0, "anna", "x"),
        make_image(2, 0, "anna", "y"),
        make_image(3, 0, pixels="y"),
    ]
    images = chained + [make_image(i, i % 2) for i in range(4, 24)]
    for seed in range(30):
        assert len(set(chained) & set(split_by_person(images, 0.3, seed).validation)) in (0, 4)
    for split in kfold_by_person(images, 4, 0):
        assert len(set(chained) & set(split.validation)) in (0, 4)


def test_both_classes_are_held_out_in_the_wanted_part(make_image: MakeImage) -> None:
    images = [make_image(i, int(i >= 300)) for i in range(400)]
    held = Counter(i.label for i in split_by_person(images, 0.2, 7).validation)
    assert held == {0: 60, 1: 20}


def test_a_split_depends_on_the_seed_alone(make_image: MakeImage) -> None:
    images = [make_image(i, i % 2) for i in range(50)]
    assert split_by_person(images, 0.2, 1) == split_by_person(images, 0.2, 1)
    assert split_by_person(images, 0.2, 1) != split_by_person(images, 0.2, 2)
    assert kfold_by_person(images, 5, 1) == kfold_by_person(images, 5, 1)
    assert kfold_by_person(images, 5, 1) != kfold_by_person(images, 5, 2)


def test_a_class_of_one_person_cannot_be_split(make_image: MakeImage) -> None:
    images = [make_image(0, 0, "a"), make_image(1, 0, "a"), make_image(2, 1), make_image(3, 1)]
    with pytest.raises(ConfigurationError, match="at least two persons"):
        split_by_person(images, 0.5, 0)


def test_folds_validate_every_image_once_and_share_no_person(make_image: MakeImage) -> None:
    images = [make_image(i, int(i % 4 > 0), person=f"p{i // 3}") for i in range(120)]
    splits = kfold_by_person(images, 5, 3)
    assert len(splits) == 5
    assert Counter(image for split in splits for image in split.validation) == Counter(images)
    for split in splits:
        assert_apart(split)
        assert len(split.train) + len(split.validation) == 120


def test_folds_have_the_classes_of_the_whole(make_image: MakeImage) -> None:
    images = [make_image(i, int(i >= 300)) for i in range(400)]
    for split in kfold_by_person(images, 5, 0):
        assert Counter(i.label for i in split.validation) == {0: 60, 1: 20}


@pytest.mark.parametrize(("folds", "message"), [(1, "at least two"), (5, "4 persons are too few for 5 folds")])
def test_folds_that_cannot_be_made_are_refused(make_image: MakeImage, folds: int, message: str) -> None:
    images = [make_image(i, 0) for i in range(20)] + [make_image(i, 1, person=f"q{i % 4}") for i in range(20, 40)]
    with pytest.raises(ConfigurationError, match=message):
        kfold_by_person(images, folds, 0)
