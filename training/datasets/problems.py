"""What can be wrong with a set of labelled images, each with a message that says what to do about it.

An error makes every figure measured on the set untrue; a warning may; a note is good to know.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from training.datasets.inspection import ImageFacts
from training.datasets.labelled import LabelledImage
from training.datasets.shortcuts import Shortcut

NEAR_CONSTANT_DEVIATION: Final = 0.02
"""Standard deviation of the grey levels in [0, 1] below which an image shows nothing."""

_FOLDS: Final = 5
_LARGEST_PART_OF_ONE_PERSON: Final = 0.1
_LARGEST_PREPARED_SIDE: Final = 512  # pixels; no detector is that coarse


class Level(StrEnum):
    """How grave a problem is, gravest first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a set.

    Attributes:
        level: how grave it is.
        code: stable name, for programs.
        message: one or two sentences for people.
        groups: the files concerned by `source`, those that belong together in one group.
    """

    level: Level
    code: str
    message: str
    groups: tuple[tuple[str, ...], ...] = ()


def find_problems(
    images: Sequence[LabelledImage], facts: Sequence[ImageFacts], labels: tuple[str, ...]
) -> list[Problem]:
    """Find what is wrong with readable images.

    Args:
        images: of a set, those of all its splits.
        facts: of each image, in the same order.
        labels: class names by index.
    """
    return [
        *_same_pixels(images),
        *_persons_in_two_splits(images),
        *_persons_in_both_classes(images),
        *_near_constant(images, facts),
        *_persons_unknown(images),
        *_too_few_persons(images, labels),
        *_resized_before(facts),
    ]


def empty_classes(images: Iterable[LabelledImage], labels: tuple[str, ...], splits: Iterable[str]) -> list[Problem]:
    """Find classes without a readable image, in each split of the set."""
    there = {(image.split, image.label) for image in images}
    return [
        Problem(Level.ERROR, "empty_class", f"Class {label}{_of(split)} has no readable image.")
        for split in splits
        for index, label in enumerate(labels)
        if (split, index) not in there
    ]


def telling_shortcuts(shortcuts: Iterable[Shortcut], labels: tuple[str, ...]) -> list[Problem]:
    """Warn of every property that alone tells the classes apart."""
    return [
        Problem(
            Level.WARNING,
            "shortcut",
            f"{shortcut.name.capitalize()} alone tells {labels[0]} from {labels[1]} with an AUC of {shortcut.auc:.2f}. "
            "A network may learn that in place of the disease: vary it in augmentation, look at Grad-CAM pictures, "
            "and test on images where it does not differ.",
        )
        for shortcut in shortcuts
        if shortcut.is_telling
    ]


def _same_pixels(images: Sequence[LabelledImage]) -> list[Problem]:
    copies = [group for group in _grouped(images, lambda image: image.pixels_sha256) if len(group) > 1]
    problems = []
    conflicts = [group for group in copies if _differ(group, lambda image: image.label)]
    if conflicts:
        message = (
            f"{_count(len(conflicts), 'image')} with the same pixels in both classes. "
            "One label must be wrong: remove or relabel them."
        )
        problems.append(_problem(Level.ERROR, "conflicting_labels", message, conflicts))
    leaks = [group for group in copies if _differ(group, lambda image: image.split)]
    if leaks:
        message = (
            f"{_count(len(leaks), 'image')} with the same pixels in more than one split. "
            "What is measured there is partly learnt by heart: remove them from the training split."
        )
        problems.append(_problem(Level.ERROR, "duplicates_across_splits", message, leaks))
    harmless = [group for group in copies if group not in conflicts and group not in leaks]
    if harmless:
        message = (
            f"{_count(len(harmless), 'image')} stored more than once in one class. "
            "Training keeps copies on one side of its split; each counts as an image."
        )
        problems.append(_problem(Level.NOTE, "duplicates", message, harmless))
    return problems


def _persons_in_two_splits(images: Sequence[LabelledImage]) -> list[Problem]:
    leaks = [
        group for group in _grouped(images, lambda image: image.person) if _differ(group, lambda image: image.split)
    ]
    if not leaks:
        return []
    message = (
        f"{_count(len(leaks), 'person')} with images in more than one split. What is measured there is too good: move "
        "each person to one split. If the ids are counted anew in each split, say who is who in persons.csv."
    )
    return [_problem(Level.ERROR, "persons_across_splits", message, leaks)]


def _persons_in_both_classes(images: Sequence[LabelledImage]) -> list[Problem]:
    both = [
        group for group in _grouped(images, lambda image: image.person) if _differ(group, lambda image: image.label)
    ]
    if not both:
        return []
    message = (
        f"{_count(len(both), 'person')} with images of both classes. Right where people were followed over time; "
        "if the ids are counted anew in each class, say who is who in persons.csv."
    )
    return [_problem(Level.NOTE, "persons_in_both_classes", message, both)]


def _near_constant(images: Sequence[LabelledImage], facts: Sequence[ImageFacts]) -> list[Problem]:
    flat = [[image] for image, fact in zip(images, facts, strict=True) if fact.deviation < NEAR_CONSTANT_DEVIATION]
    if not flat:
        return []
    message = f"{_count(len(flat), 'image')} of nearly one grey level. Look at them; they teach nothing."
    return [_problem(Level.WARNING, "near_constant", message, flat)]


def _persons_unknown(images: Sequence[LabelledImage]) -> list[Problem]:
    alone = sum(image.person == image.source for image in images)
    problems = []
    if images and alone == len(images):
        message = (
            "No file says whose image it is, so each counts as a person of its own, and a split by person cannot keep "
            "a person on one side. Give persons.csv or a column person."
        )
        problems.append(Problem(Level.WARNING, "persons_unknown", message))
    elif alone:
        message = f"{_count(alone, 'image')} of unknown person; each counts as a person of its own."
        files = [[image] for image in images if image.person == image.source]
        problems.append(_problem(Level.NOTE, "some_persons_unknown", message, files))
    return problems


def _too_few_persons(images: Sequence[LabelledImage], labels: tuple[str, ...]) -> list[Problem]:
    problems = []
    for index, label in enumerate(labels):
        counts = Counter(image.person for image in images if image.label == index)
        if not counts:
            continue
        if len(counts) < _FOLDS:
            message = f"Class {label} has {_count(len(counts), 'person')}: too few for {_FOLDS} folds."
            problems.append(Problem(Level.WARNING, "few_persons", message))
        most = counts.most_common(1)[0][1]
        if len(counts) >= _FOLDS and most > max(10, _LARGEST_PART_OF_ONE_PERSON * counts.total()):
            message = (
                f"One person has {most} of the {counts.total()} images of class {label}. "
                "If the ids are those of an anonymised set, say who is who in a column person or persons.csv."
            )
            problems.append(Problem(Level.WARNING, "one_person_dominates", message))
    return problems


def _resized_before(facts: Sequence[ImageFacts]) -> list[Problem]:
    sizes = {(each.rows, each.columns) for each in facts}
    if len(sizes) != 1 or len(facts) < _FOLDS or max(max(size) for size in sizes) > _LARGEST_PREPARED_SIDE:
        return []
    rows, columns = sizes.pop()
    message = (
        f"Every image is {rows} x {columns}, so they were resized before. The worker resizes originals itself; train "
        "on originals where you have them, and test on some."
    )
    return [Problem(Level.NOTE, "resized_before", message)]


def _grouped(images: Iterable[LabelledImage], key: Callable[[LabelledImage], Hashable]) -> list[list[LabelledImage]]:
    groups: dict[Hashable, list[LabelledImage]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return list(groups.values())


def _differ(group: Iterable[LabelledImage], key: Callable[[LabelledImage], Hashable]) -> bool:
    return len({key(image) for image in group}) > 1


def _problem(level: Level, code: str, message: str, groups: Iterable[Iterable[LabelledImage]]) -> Problem:
    return Problem(level, code, message, tuple(tuple(image.source for image in group) for group in groups))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of(split: str) -> str:
    return f" of split {split}" if split else ""
