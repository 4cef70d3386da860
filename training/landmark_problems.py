"""What can be wrong with a set of landmarks, each with a message that says what was done or is to be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from training.datasets.landmark_faults import UNUSABLE, LandmarkFault, LandmarkRepair
from training.datasets.landmark_images import LandmarkImage, NearDuplicatePair
from training.datasets.problems import (
    Level,
    Problem,
    copies_of,
    counted,
    differ,
    few_persons,
    grouped,
    near_constant,
    persons_unknown,
    problem_of,
    resized_before,
)

SEVERITIES: Final[Mapping[str, float]] = {"none": 0, "mild": 10, "moderate": 25, "severe": 40}
"""Severity of a scoliosis by name, and the main Cobb angle in degrees from which on it is one."""

_SAY_PERSONS: Final = "Name the files as the set's publishers do, or give DICOM files with a Patient ID."
_SAME_PX: Final = 1.0
"""How far landmarks of two copies of an image may be apart and still be the same."""

_FAULTS: Final[Mapping[LandmarkFault, str]] = {
    LandmarkFault.DRAWN_TWICE: (
        "where a vertebra is drawn twice, so that from there on each goes by the name of another. They are left out of "
        "training. Draw them anew, or remove them."
    ),
    LandmarkFault.OVERLAP: "where neighbouring vertebrae overlap. Look at them: this alone leaves none out.",
    LandmarkFault.FLAT: "with a vertebra that has hardly any height. Look at them: this alone leaves none out.",
    LandmarkFault.CROSSED: "with corners that are those of no vertebra. Look at them: this alone leaves none out.",
    LandmarkFault.SAME_PLACE: "with two corners of a vertebra in one place. Look at them: this alone leaves none out.",
    LandmarkFault.OUTSIDE: "with landmarks outside the image. Look at them: the image may have been cut.",
    LandmarkFault.ANGLES_DIFFER: (
        "whose main Cobb angle is not that of its landmarks. One of them is wrong; angles are measured against the "
        "given one."
    ),
}
"""What is said of the images that have a fault. What is out of order has a message of its own."""


def severity_of(image: LandmarkImage) -> str | None:
    """Give the severity by the main Cobb angle that came with an image; None where none did."""
    if image.angles is None:
        return None
    names = list(SEVERITIES)
    return names[int(np.searchsorted(list(SEVERITIES.values()), image.angles[0], side="right")) - 1]


def find_landmark_problems(
    images: Sequence[LandmarkImage], deviations: Sequence[float], vertebrae: Mapping[str, int]
) -> list[Problem]:
    """Find what is wrong with readable images.

    Args:
        images: of a set, those of all its splits, with the faulty ones.
        deviations: of the grey levels of each, in [0, 1].
        vertebrae: in how many images each vertebra of the schema is there.
    """
    return [
        *_same_pixels(images),
        *_persons_in_two_splits(images),
        *_out_of_order(images),
        *_faulty(images),
        *_corners_sorted(images),
        *near_constant(images, deviations),
        *persons_unknown(images, [image for image in images if image.person == image.source], _SAY_PERSONS),
        *_rare_severities(images),
        *_rare_vertebrae(vertebrae),
        *resized_before([image.size for image in images]),
    ]


def _same_pixels(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    copies = copies_of(images)
    conflicts = [group for group in copies if not all(_same_points(group[0], other) for other in group[1:])]
    if conflicts:
        message = (
            f"{counted(len(conflicts), 'image')} with the same pixels and different landmarks. "
            "One row must be wrong: remove or correct it."
        )
        yield problem_of(Level.ERROR, "conflicting_landmarks", message, conflicts)
    leaks = [group for group in copies if differ(group, lambda image: image.split)]
    if leaks:
        message = (
            f"{counted(len(leaks), 'image')} with the same pixels in more than one split. "
            "What is measured there is partly learnt by heart: remove them from the training split."
        )
        yield problem_of(Level.ERROR, "duplicates_across_splits", message, leaks)
    rest = [group for group in copies if group not in conflicts and group not in leaks]
    if rest:
        message = (
            f"{counted(len(rest), 'image')} stored more than once, with the same landmarks. "
            "Training keeps copies on one side of its split; each counts as an image."
        )
        yield problem_of(Level.NOTE, "duplicates", message, rest)


def near_duplicates(pairs: Sequence[NearDuplicatePair]) -> list[Problem]:
    """Find pairs of images that are one radiograph, though not one file; they have one person already."""
    if not pairs:
        return []
    message = (
        f"{counted(len(pairs), 'pair')} of images that are one radiograph, cut out or scaled differently. All images "
        "of their persons count as one person's here, whatever their names say; who splits by names measures on films "
        "that were fitted."
    )
    return [problem_of(Level.WARNING, "near_duplicates", message, [(pair.first, pair.second) for pair in pairs])]


def _same_points(one: LandmarkImage, other: LandmarkImage) -> bool:
    return np.allclose(one.points, other.points, rtol=0, atol=_SAME_PX, equal_nan=True)


def _persons_in_two_splits(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    persons = grouped(images, lambda image: image.person)
    leaks = [group for group in persons if differ(group, lambda image: image.split)]
    if leaks:
        message = (
            f"{counted(len(leaks), 'person')} with images in more than one split. What is measured there is too good: "
            "move each person to one split."
        )
        yield problem_of(Level.ERROR, "persons_across_splits", message, leaks)


def _out_of_order(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    """Name the rows whose vertebrae do not run from top to bottom: those that were put right, and those that were not.

    Their other Cobb angles were measured by their publishers on the wrong order; the main one does not depend on it.
    """
    done = {
        image.source: "sorted from top to bottom" if image.usable else "left out of training"
        for image in images
        if LandmarkRepair.VERTEBRAE_SORTED in image.repairs or LandmarkFault.OUT_OF_ORDER in image.faults
    }
    if not done:
        return
    repaired = sum(image.usable for image in images if image.source in done)
    message = (
        f"{counted(len(done), 'image')} with vertebrae out of vertical order. Of these {repaired} are sound once their "
        f"vertebrae are sorted, and so they are used; {len(done) - repaired} are left out of training. Angles that "
        "came with them may be those of the wrong order."
    )
    groups = tuple((f"{source}: {what}",) for source, what in done.items())
    yield Problem(Level.WARNING, LandmarkFault.OUT_OF_ORDER.value, message, groups)


def _faulty(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    for fault, what in _FAULTS.items():
        found = [[image] for image in images if fault in image.faults]
        if found:
            level = Level.WARNING if fault in UNUSABLE or fault is LandmarkFault.ANGLES_DIFFER else Level.NOTE
            yield problem_of(level, fault.value, f"{counted(len(found), 'image')} {what}", found)


def _corners_sorted(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    found = [[image] for image in images if LandmarkRepair.CORNERS_SORTED in image.repairs]
    if found:
        message = (
            f"{counted(len(found), 'image')} with corners in another order than top-left, top-right, bottom-left, "
            "bottom-right. They are sorted on reading."
        )
        yield problem_of(Level.NOTE, LandmarkRepair.CORNERS_SORTED.value, message, found)


def _rare_severities(images: Sequence[LandmarkImage]) -> Iterator[Problem]:
    named = [(severity_of(image), image.person) for image in images]
    there = {severity for severity, _ in named if severity is not None}
    for name in SEVERITIES:
        yield from few_persons(f"severity {name}", [person for severity, person in named if severity == name])
    never = [name for name in SEVERITIES if name not in there]
    if there and never:
        message = f"No main Cobb angle is of severity {', '.join(never)}: nothing is learnt or measured of such spines."
        yield Problem(Level.WARNING, "severities_that_never_occur", message)


def _rare_vertebrae(vertebrae: Mapping[str, int]) -> Iterator[Problem]:
    never = [name for name, number in vertebrae.items() if not number]
    if never:
        message = f"Some vertebrae are in no image, so nothing is learnt or measured of them: {', '.join(never)}."
        yield Problem(Level.WARNING, "vertebrae_that_never_occur", message)
