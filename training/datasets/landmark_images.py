"""Radiographs with the corners of their vertebrae: which are readable, whose they are, and where the corners lie.

========= ========================================================================================================
format    layout
========= ========================================================================================================
aasce     frontal whole spines, T1 to L5; see `training.datasets.aasce`
buu-ap    frontal lumbar spines, L1 to L5; see `training.datasets.buu`
buu-la    lateral lumbar spines, L1 to S1; the same
generic40 lateral lumbar spines, up to ten vertebrae without names; see `training.datasets.generic_landmarks`
========= ========================================================================================================

Landmarks are in the order of their schema and in pixels of the image, whatever the order and the unit of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.pixels.radiograph import Radiograph
from models.spine.schemas import LandmarkSchema
from training.datasets.aasce import is_aasce, read_aasce
from training.datasets.buu import buu_views, read_buu
from training.datasets.generic_landmarks import is_generic, read_generic
from training.datasets.landmark_faults import UNUSABLE, LandmarkFault, LandmarkRepair, find_faults, repaired
from training.datasets.landmark_rows import SCHEMA_OF, Angles, LandmarkFormat, LandmarkRow, LandmarkTable, Points
from training.datasets.listing import TRAIN_SPLIT_NAMES, same_split, spread
from training.datasets.near_duplicates import Keypoints, NearDuplicate, find_near_duplicates, keypoints_of
from training.datasets.reading import Unreadable, digest_of, person_of_header, read_each, read_radiograph
from training.datasets.splits import joined

AUTO: Final = "auto"
TRAINING: Final = "training"
"""Split that is trained on."""

_PERSONS_BY_NAMES: Final = frozenset({LandmarkFormat.AASCE})
"""Formats whose names alone say whose a film is, and do not say it of every film."""

_DIGITS: Final = 3  # of a pixel


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkImage:
    """One readable radiograph.

    Attributes:
        path: of the file.
        source: name relative to the set's directory, with ``/``.
        person: identity of the person within this set; one for all pictures of one radiograph.
        pixels_sha256: hex digest of its pixels, see `training.datasets.reading.pixels_sha256`.
        size: rows and columns.
        points: ``(K, 2)`` x, y in the order of the schema; pixels from the top-left corner of the top-left pixel; NaN
            where a landmark is not there.
        split: name of the split that the set puts it in, "" where it says nothing.
        angles: Cobb angles that came with it, in degrees: main, upper, lower. Where `repairs` reordered the vertebrae
            they were measured on the order of the file.
        slips: see `training.datasets.landmark_rows.LandmarkRow`.
        repairs: what was put right.
        faults: what is wrong still.
    """

    path: Path
    source: str
    person: str
    pixels_sha256: str
    size: tuple[int, int]
    points: Points
    split: str = ""
    angles: Angles | None = None
    slips: tuple[int, ...] | None = None
    repairs: tuple[LandmarkRepair, ...] = ()
    faults: tuple[LandmarkFault, ...] = ()

    @property
    def visible(self) -> NDArray[np.bool_]:
        """``(K)``, which landmarks are there."""
        return np.asarray(np.isfinite(self.points).all(axis=1))

    @property
    def usable(self) -> bool:
        """Whether each landmark belongs, as far as can be seen, to the vertebra that it is named after."""
        return not UNUSABLE.intersection(self.faults)


@dataclass(frozen=True, slots=True, eq=False)
class NearDuplicatePair:
    """Two images of a set that are pictures of one radiograph.

    Attributes:
        first, second: in the order of the set.
        transferred: landmarks of the first where they lie in the second, ``(K, 2)`` pixels of it.
    """

    first: LandmarkImage
    second: LandmarkImage
    transferred: Points


@dataclass(frozen=True, slots=True)
class LandmarkImages:
    """What a set holds.

    Attributes:
        format: by which it was read.
        images: readable images, sorted by `source`.
        faulty: readable images that were left out for their faults.
        unreadable: files that could not be read, or whose landmarks could not.
        missing: names that the set has landmarks for and its directory lacks.
        excluded: names that were left out on request.
        near_duplicates: pairs of readable images that are one radiograph, but not one file; looked for in formats whose
            persons are not sure.
    """

    format: LandmarkFormat
    images: tuple[LandmarkImage, ...]
    faulty: tuple[LandmarkImage, ...]
    unreadable: tuple[Unreadable, ...]
    missing: tuple[str, ...]
    excluded: tuple[str, ...]
    near_duplicates: tuple[NearDuplicatePair, ...] = ()

    @property
    def schema(self) -> LandmarkSchema:
        """Of the landmarks."""
        return SCHEMA_OF[self.format]

    @property
    def digest(self) -> str:
        """Hash of every image's pixels and landmarks: says which data a network was trained on, wherever it lay."""
        lines = sorted(f"{image.pixels_sha256} {_in_words(image.points)} {image.angles}" for image in self.images)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def limited(self, limit: int | None) -> LandmarkImages:
        """Give the set with at most so many of its images, spread evenly; all where there is no limit."""
        return replace(self, images=tuple(spread(self.images, limit)))


@dataclass(frozen=True, slots=True)
class _Look:
    pixels_sha256: str
    person: str | None
    size: tuple[int, int]
    keypoints: Keypoints | None = None


def read_landmark_images(
    data_dir: Path,
    *,
    format: str = AUTO,
    split: str | None = TRAINING,
    exclude: Collection[str] = (),
    keep_faulty: bool = False,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    processes: int | None = None,
) -> LandmarkImages:
    """Read every image of a set once.

    Args:
        data_dir: directory of the set.
        format: one of `LandmarkFormat`, or `AUTO`.
        split: name of the split; None takes every one. A set that has none is its own training split.
        exclude: names of files, or paths within the set, to leave out.
        keep_faulty: whether to keep images whose landmarks may be named after the wrong vertebra.
        progress: wraps the paths while they are read.
        processes: see `training.datasets.reading.read_each`.

    Raises:
        ConfigurationError: the set is not of that format, has no such split, or no image can be read.
    """
    if not data_dir.is_dir():
        raise ConfigurationError(f"{data_dir}: no such directory")
    table = _read_table(data_dir, _find_format(data_dir, format), split)
    rows = [row for row in table.rows if not _names_of(row, data_dir) & set(exclude)]
    excluded = [name for row in table.rows for name in exclude if name in _names_of(row, data_dir)]
    paths = [row.path for row in rows]
    look = _look_closely if table.format in _PERSONS_BY_NAMES else _look_at
    images: list[LandmarkImage] = []
    keypoints: list[Keypoints] = []
    unreadable = list(table.broken)
    for _, row, outcome in zip(progress(paths), rows, read_each(paths, look, processes), strict=True):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
            continue
        images.append(_as_image(row, outcome, row.path.relative_to(data_dir).as_posix()))
        if outcome.keypoints is not None:
            keypoints.append(outcome.keypoints)
    duplicates = find_near_duplicates(keypoints)
    images = _one_person_each(images, duplicates)
    pairs = (_as_pair(images, duplicate) for duplicate in duplicates)
    near = tuple(pair for pair in pairs if pair.first.pixels_sha256 != pair.second.pixels_sha256)
    images.sort(key=lambda image: image.source)
    kept = tuple(image for image in images if keep_faulty or image.usable)
    if not kept:
        raise ConfigurationError(f"{data_dir}: none of its {len(table.rows)} images with landmarks can be used")
    faulty = tuple(image for image in images if not (keep_faulty or image.usable))
    return LandmarkImages(
        *(table.format, kept, faulty, tuple(unreadable), table.missing, tuple(dict.fromkeys(excluded))), near
    )


def _find_format(data_dir: Path, format: str) -> LandmarkFormat:
    if format != AUTO:
        try:
            return LandmarkFormat(format)
        except ValueError:
            known = ", ".join((AUTO, *LandmarkFormat))
            raise ConfigurationError(f"format {format}: unknown; known are {known}") from None
    if is_aasce(data_dir):
        return LandmarkFormat.AASCE
    views = buu_views(data_dir)
    if len(views) > 1:
        raise ConfigurationError(f"{data_dir}: has landmarks of two views; choose --format {' or '.join(views)}")
    if views:
        return views[0]
    if is_generic(data_dir):
        return LandmarkFormat.GENERIC
    raise ConfigurationError(
        f"{data_dir}: no landmarks in a known format: neither training_landmarks.csv (aasce), nor a CSV file of "
        "endplates beside each image (buu-ap, buu-la), nor JSON files with keypoints (generic40)"
    )


def _read_table(data_dir: Path, format: LandmarkFormat, split: str | None) -> LandmarkTable:
    if format is LandmarkFormat.AASCE:
        return read_aasce(data_dir, split)
    table = read_generic(data_dir) if format is LandmarkFormat.GENERIC else read_buu(data_dir, format)
    named = {row.split for row in table.rows if row.split}
    if not named and (split is None or split.lower() in TRAIN_SPLIT_NAMES):
        return table
    rows = tuple(row for row in table.rows if same_split(row.split, split))
    if not rows and table.rows:
        there = ", ".join(sorted(named)) or "none"
        raise ConfigurationError(f"{data_dir}: no landmarks of split {split}; there are: {there}")
    return replace(table, rows=rows)


def _names_of(row: LandmarkRow, data_dir: Path) -> set[str]:
    return {row.path.name, row.path.stem, row.path.relative_to(data_dir).as_posix()}


def _look_at(path: Path) -> _Look:
    return _look_of(read_radiograph(path))


def _look_of(radiograph: Radiograph) -> _Look:
    size = (radiograph.rows, radiograph.columns)
    return _Look(digest_of(radiograph), person_of_header(radiograph.header), size)


def _look_closely(path: Path) -> _Look:
    radiograph = read_radiograph(path)
    return replace(_look_of(radiograph), keypoints=keypoints_of(radiograph))


def _one_person_each(images: Sequence[LandmarkImage], duplicates: Sequence[NearDuplicate]) -> list[LandmarkImage]:
    """Give images the person that pictures of their radiographs have in common; by the name that comes first."""
    keys = [[f"person {image.person}"] for image in images]
    for number, duplicate in enumerate(duplicates):
        for place in (duplicate.first, duplicate.second):
            keys[place].append(f"radiograph {number}")
    person = {place: min(images[each].person for each in group) for group in joined(keys) for place in group}
    return [replace(image, person=person[place]) for place, image in enumerate(images)]


def _as_pair(images: Sequence[LandmarkImage], duplicate: NearDuplicate) -> NearDuplicatePair:
    first, second = images[duplicate.first], images[duplicate.second]
    return NearDuplicatePair(first, second, duplicate.to_second(first.points))


def _as_image(row: LandmarkRow, look: _Look, source: str) -> LandmarkImage:
    rows, columns = look.size
    in_pixels = row.points * (np.array([columns, rows]) if row.normalised else 1.0)
    points, repairs = repaired(in_pixels)
    return LandmarkImage(
        path=row.path,
        source=source,
        person=row.person or look.person or source,
        pixels_sha256=look.pixels_sha256,
        size=look.size,
        points=points,
        split=row.split,
        angles=row.angles,
        slips=row.slips,
        repairs=repairs,
        faults=find_faults(points, look.size, row.angles),
    )


def _in_words(points: Points) -> str:
    return str(np.round(points, _DIGITS).tolist())
