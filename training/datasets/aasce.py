"""Frontal radiographs of the whole spine as the AASCE challenge (MICCAI 2019) published them: format ``aasce``.

::

    <split>/                  the images; the splits are called training and test
    <split>_filenames.csv     one name a line
    <split>_landmarks.csv     68 x, then 68 y, of T1 to L5, four corners each; in widths and heights of the image
    <split>_angles.csv        main, upper and lower Cobb angle in degrees; may be absent

``<split>`` may also be a folder that holds all of it: ``labels/training/landmarks.csv`` with ``data/training``, as the
challenge shipped it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import ConfigurationError
from training.datasets.brixia import within
from training.datasets.landmark_rows import SCHEMA_OF, Angles, LandmarkFormat, LandmarkRow, LandmarkTable
from training.datasets.listing import same_split
from training.datasets.reading import Unreadable

_LANDMARKS: Final = "_landmarks.csv"
_ANGLES: Final = 3

# `sunhl-1th-10-Jan-2017-237 E AP.jpg`: the number is the person's; a letter counts their films, on through the dates
# (`19-Jan-2017-275 C AP`, `20-Jan-2017-275 D AP`); `AP2` or `AP (2)` is a second shot.
_SERIES_NAME: Final = re.compile(
    r"(?P<set>.+?)(-\d\d-[A-Z][a-z]{2}-\d{4})?-(?P<number>\d+) [A-Z] AP(\d| \(\d\))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Tables:
    """The files of one split."""

    split: str
    images: Path
    filenames: Path
    landmarks: Path
    angles: Path


def is_aasce(data_dir: Path) -> bool:
    """Say whether a directory is laid out so."""
    return next(_splits(data_dir), None) is not None


def read_aasce(data_dir: Path, split: str | None) -> LandmarkTable:
    """Read the tables.

    Args:
        data_dir: directory of the set.
        split: name of one; None takes every one.

    Raises:
        ConfigurationError: there is no such split, its tables cannot be read, or they have different numbers of lines.
    """
    splits = list(_splits(data_dir))
    chosen = [tables for tables in splits if same_split(tables.split, split)]
    if not chosen:
        there = ", ".join(tables.split for tables in splits) or "none"
        raise ConfigurationError(f"{data_dir}: no landmarks of split {split or '*'}; there are: {there}")
    rows: list[LandmarkRow] = []
    missing: list[str] = []
    broken: list[Unreadable] = []
    for tables in chosen:
        for outcome in _read_split(tables):
            if isinstance(outcome, LandmarkRow):
                rows.append(outcome)
            elif isinstance(outcome, Unreadable):
                broken.append(outcome)
            else:
                missing.append(outcome)
    return LandmarkTable(LandmarkFormat.AASCE, tuple(rows), tuple(missing), tuple(broken))


def person_of_name(name: str) -> str | None:
    """Give the person of a file of the set; None where the name says nothing of it.

    Some persons have two numbers, see `training.datasets.near_duplicates`.
    """
    found = _SERIES_NAME.fullmatch(Path(name).stem)
    return f"{found['set']}-{found['number']}" if found else None


def _splits(data_dir: Path) -> Iterator[_Tables]:
    for landmarks in sorted(data_dir.glob(f"*{_LANDMARKS}")):
        name = landmarks.name.removesuffix(_LANDMARKS)
        files = (data_dir / f"{name}_{what}.csv" for what in ("filenames", "landmarks", "angles"))
        yield _Tables(name, data_dir / name, *files)
    for landmarks in sorted(data_dir.glob("labels/*/landmarks.csv")):
        name, folder = landmarks.parent.name, landmarks.parent
        yield _Tables(name, data_dir / "data" / name, folder / "filenames.csv", landmarks, folder / "angles.csv")


def _read_split(tables: _Tables) -> Iterator[LandmarkRow | Unreadable | str]:
    """Give each line's row, why its landmarks are none, or the name of an image that is not there."""
    names = [row[0].strip() if row else "" for row in _read_lines(tables.filenames)]
    landmarks = _read_lines(tables.landmarks)
    angles: list[list[str]] = _read_lines(tables.angles) if tables.angles.is_file() else [[] for _ in names]
    if not len(names) == len(landmarks) == len(angles):
        counts = f"{len(names)} names, {len(landmarks)} rows of landmarks and {len(angles)} of angles"
        raise ConfigurationError(f"{tables.landmarks}: {counts}; they must be as many")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{tables.filenames}: names an image for the second time")
    for number, (name, values, given) in enumerate(zip(names, landmarks, angles, strict=True), start=1):
        path = within(tables.images, name)
        if not name or path is None or not path.is_file():
            missing: str = name or f"{tables.filenames.name} line {number}"
            yield missing
            continue
        yield _as_row(path, tables.split, values, _read_angles(tables.angles, number, given))


def _as_row(path: Path, split: str, values: list[str], angles: Angles | None) -> LandmarkRow | Unreadable:
    wanted = 2 * len(SCHEMA_OF[LandmarkFormat.AASCE])
    if len(values) != wanted:
        return Unreadable(path, f"has {len(values)} values of landmarks where {wanted} are wanted")
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return Unreadable(path, "has landmarks that are not numbers")
    if not np.isfinite(numbers).all():
        return Unreadable(path, "has landmarks that are not numbers")
    points = numbers.reshape(2, -1).T
    return LandmarkRow(path, person_of_name(path.name), split, points, normalised=True, angles=angles)


def _read_angles(table: Path, number: int, given: list[str]) -> Angles | None:
    if not given:
        return None
    try:
        first, second, third = (float(value) for value in given)
    except ValueError as error:
        raise ConfigurationError(f"{table} line {number}: {_ANGLES} angles in degrees are wanted") from error
    if not np.isfinite([first, second, third]).all():
        raise ConfigurationError(f"{table} line {number}: {_ANGLES} angles in degrees are wanted")
    return first, second, third


def _read_lines(table: Path) -> list[list[str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{table}: cannot be read as a CSV file in UTF-8") from error
    while lines and not lines[-1]:
        lines.pop()
    return lines
