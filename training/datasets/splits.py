"""Splits by person: two images of one person, or two files with the same pixels, never stand on both sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.errors import ConfigurationError
from training.datasets.labelled import LabelledImage


@dataclass(frozen=True, slots=True)
class Split:
    """Two sides of a set that share no person and no image; each keeps the order of the set."""

    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]


def split_by_person(images: Sequence[LabelledImage], fraction: float, seed: int) -> Split:
    """Hold out whole persons, the same fraction of the images of each class.

    Args:
        images: of at least two persons per class.
        fraction: in (0, 1), of the images that are held out for validation.
        seed: decides who.

    Raises:
        ConfigurationError: a class has too few persons to stand on both sides.
    """
    validation: set[int] = set()
    by_label: dict[int, list[list[int]]] = defaultdict(list)
    for group in connected(images):
        # A person with images of several classes is counted where most of them are.
        label = Counter(images[i].label for i in group).most_common(1)[0][0]
        by_label[label].append(group)
    random = np.random.default_rng(seed)
    for label in sorted(by_label):
        groups = by_label[label]
        if len(groups) < 2:
            raise ConfigurationError(f"class {label}: a split by person needs at least two persons")
        random.shuffle(groups)
        wanted = max(1.0, fraction * sum(map(len, groups)))
        held = 0
        for group in groups[:-1]:
            if held >= wanted:
                break
            validation.update(group)
            held += len(group)
    return _split(images, validation)


def kfold_by_person(images: Sequence[LabelledImage], folds: int, seed: int) -> list[Split]:
    """Give cross-validation folds: every image is validated once, and the classes are spread evenly over the folds.

    Args:
        images: of at least `folds` persons per class.
        folds: how many, at least two.
        seed: decides who stands where.

    Raises:
        ConfigurationError: fewer than two folds, or a class has fewer persons than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise ConfigurationError(f"{folds} folds: cross-validation needs at least two")
    labels = np.array([image.label for image in images])
    groups = np.empty(len(images), dtype=np.int64)
    for number, members in enumerate(connected(images)):
        groups[members] = number
    for label in np.unique(labels):
        persons = len(np.unique(groups[labels == label]))
        if persons < folds:
            raise ConfigurationError(f"class {label}: {persons} persons are too few for {folds} folds")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = [_split(images, set(held.tolist())) for _, held in splitter.split(labels, labels, groups)]
    for number, split in enumerate(splits):
        if len({image.label for image in split.validation}) < len(np.unique(labels)):
            raise ConfigurationError(f"fold {number} lacks a class: too few persons for {folds} folds")
    return splits


class OfPerson(Protocol):
    """An image of any set."""

    @property
    def person(self) -> str:
        """Identity of the person within the set."""
        ...

    @property
    def pixels_sha256(self) -> str:
        """Hex digest of its pixels."""
        ...


def connected(images: Sequence[OfPerson]) -> list[list[int]]:
    """Group the places of images that share a person or their pixels, directly or through others."""
    return joined([(f"person {image.person}", f"pixels {image.pixels_sha256}") for image in images])


def joined(keys: Sequence[Iterable[str]]) -> list[list[int]]:
    """Group the places of what shares a key, directly or through others.

    Args:
        keys: of each.

    Returns:
        groups of places, each in order, in the order of their first ones.
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[str, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            parent[root(i)] = root(first_with.setdefault(key, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        groups[root(i)].append(i)
    return list(groups.values())


def _split(images: Sequence[LabelledImage], validation: set[int]) -> Split:
    return Split(
        train=tuple(image for i, image in enumerate(images) if i not in validation),
        validation=tuple(image for i, image in enumerate(images) if i in validation),
    )
