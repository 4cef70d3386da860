"""What can be wrong with a set of images, each with a message that says what to do about it.

An error makes every figure measured on the set untrue; a warning may; a note is good to know.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeVar

from training.datasets.inspection import ImageFacts
from training.datasets.labelled import LabelledImage
from training.datasets.shortcuts import Shortcut

NEAR_CONSTANT_DEVIATION: Final = 0.02
"""Standard deviation of the grey levels in [0, 1] below which an image shows nothing."""

_SAY_PERSONS: Final = "Give persons.csv or a column person."
_FOLDS: Final = 5
_LARGEST_PART_OF_ONE_PERSON: Final = 0.1
_LARGEST_PREPARED_SIDE: Final = 512  # pixels; no detector is that coarse


class Sourced(Protocol):
    """An image of any set: its key wherever the set lies, whose it is, and the hash of its pixels."""

    @property
    def source(self) -> str:
        """Name relative to the set's directory."""
        ...

    @property
    def person(self) -> str:
        """Identity of the person within the set."""
        ...

    @property
    def pixels_sha256(self) -> str:
        """Hex digest."""
        ...


Image = TypeVar("Image", bound=Sourced)


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
        *near_constant(images, [fact.deviation for fact in facts]),
        *persons_unknown(images, [image for image in images if image.person == image.source], _SAY_PERSONS),
        *(
            problem
            for index, label in enumerate(labels)
            for problem in few_persons(f"class {label}", [image.person for image in images if image.label == index])
        ),
        *resized_before([(fact.rows, fact.columns) for fact in facts]),
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
    copies = copies_of(images)
    problems = []
    conflicts = [group for group in copies if differ(group, lambda image: image.label)]
    if conflicts:
        message = (
            f"{counted(len(conflicts), 'image')} with the same pixels in both classes. "
            "One label must be wrong: remove or relabel them."
        )
        problems.append(problem_of(Level.ERROR, "conflicting_labels", message, conflicts))
    leaks = [group for group in copies if differ(group, lambda image: image.split)]
    if leaks:
        message = (
            f"{counted(len(leaks), 'image')} with the same pixels in more than one split. "
            "What is measured there is partly learnt by heart: remove them from the training split."
        )
        problems.append(problem_of(Level.ERROR, "duplicates_across_splits", message, leaks))
    harmless = [group for group in copies if group not in conflicts and group not in leaks]
    if harmless:
        message = (
            f"{counted(len(harmless), 'image')} stored more than once in one class. "
            "Training keeps copies on one side of its split; each counts as an image."
        )
        problems.append(problem_of(Level.NOTE, "duplicates", message, harmless))
    return problems


def _persons_in_two_splits(images: Sequence[LabelledImage]) -> list[Problem]:
    leaks = [group for group in grouped(images, lambda image: image.person) if differ(group, lambda image: image.split)]
    if not leaks:
        return []
    message = (
        f"{counted(len(leaks), 'person')} with images in more than one split. What is measured there is too good: move "
        "each person to one split. If the ids are counted anew in each split, say who is who in persons.csv."
    )
    return [problem_of(Level.ERROR, "persons_across_splits", message, leaks)]


def _persons_in_both_classes(images: Sequence[LabelledImage]) -> list[Problem]:
    both = [group for group in grouped(images, lambda image: image.person) if differ(group, lambda image: image.label)]
    if not both:
        return []
    message = (
        f"{counted(len(both), 'person')} with images of both classes. Right where people were followed over time; "
        "if the ids are counted anew in each class, say who is who in persons.csv."
    )
    return [problem_of(Level.NOTE, "persons_in_both_classes", message, both)]


def near_constant(images: Sequence[Image], deviations: Sequence[float]) -> list[Problem]:
    """Find images that show nothing; `deviations` are the standard deviations of their grey levels in [0, 1]."""
    flat = [[image] for image, each in zip(images, deviations, strict=True) if each < NEAR_CONSTANT_DEVIATION]
    if not flat:
        return []
    message = f"{counted(len(flat), 'image')} of nearly one grey level. Look at them; they teach nothing."
    return [problem_of(Level.WARNING, "near_constant", message, flat)]


def persons_unknown(images: Sequence[Image], alone: Sequence[Image], remedy: str) -> list[Problem]:
    """Find images that nobody says the person of.

    Args:
        images: of the set.
        alone: those of them whose person is but their own name.
        remedy: a sentence that says where persons are to be given.
    """
    if images and len(alone) == len(images):
        message = (
            "No file says whose image it is, so each counts as a person of its own, and a split by person cannot keep "
            f"a person on one side. {remedy}"
        )
        return [Problem(Level.WARNING, "persons_unknown", message)]
    if not alone:
        return []
    message = f"{counted(len(alone), 'image')} of unknown person; each counts as a person of its own."
    return [problem_of(Level.NOTE, "some_persons_unknown", message, [[image] for image in alone])]


def few_persons(what: str, persons: Sequence[str]) -> list[Problem]:
    """Find out whether images are of too few persons, or most of them of one.

    Args:
        what: the images are of, e.g. ``class NORMAL``.
        persons: of each image; where there is none, nothing is found.
    """
    counts = Counter(persons)
    if not counts:
        return []
    if len(counts) < _FOLDS:
        message = f"{what[0].upper()}{what[1:]} has {counted(len(counts), 'person')}: too few for {_FOLDS} folds."
        return [Problem(Level.WARNING, "few_persons", message)]
    most = counts.most_common(1)[0][1]
    if most <= max(10, _LARGEST_PART_OF_ONE_PERSON * counts.total()):
        return []
    message = (
        f"One person has {most} of the {counts.total()} images of {what}. "
        "If the ids are those of an anonymised set, say who is who in a column person or persons.csv."
    )
    return [Problem(Level.WARNING, "one_person_dominates", message)]


def resized_before(sizes: Sequence[tuple[int, int]]) -> list[Problem]:
    """Find out whether images were resized to one small size, rows x columns."""
    different = set(sizes)
    if len(different) != 1 or len(sizes) < _FOLDS or max(max(size) for size in different) > _LARGEST_PREPARED_SIDE:
        return []
    rows, columns = different.pop()
    message = (
        f"Every image is {rows} x {columns}, so they were resized before. The worker resizes originals itself; train "
        "on originals where you have them, and test on some."
    )
    return [Problem(Level.NOTE, "resized_before", message)]


def gravest_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Order problems by how grave they are, those of one level as they come."""
    levels = list(Level)
    return tuple(sorted(problems, key=lambda problem: levels.index(problem.level)))


def copies_of(images: Iterable[Image]) -> list[list[Image]]:
    """Give the groups of two and more images that have the same pixels."""
    return [group for group in grouped(images, lambda image: image.pixels_sha256) if len(group) > 1]


def grouped(images: Iterable[Image], key: Callable[[Image], Hashable]) -> list[list[Image]]:
    """Give the groups of images that have something in common, in the order of their first images."""
    groups: dict[Hashable, list[Image]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return list(groups.values())


def differ(group: Iterable[Image], key: Callable[[Image], Hashable]) -> bool:
    """Say whether the images of a group differ in something."""
    return len({key(image) for image in group}) > 1


def problem_of(level: Level, code: str, message: str, groups: Iterable[Iterable[Sourced]]) -> Problem:
    """Give a problem of groups of images."""
    return Problem(level, code, message, tuple(tuple(image.source for image in group) for group in groups))


def counted(number: int, noun: str) -> str:
    """Give a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of(split: str) -> str:
    return f" of split {split}" if split else ""
