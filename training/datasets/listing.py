"""What the readers of each format give: which files a set names, before any of them is opened."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from models.errors import ConfigurationError

TRAIN_SPLIT_NAMES: Final = ("train", "train_val", "training")
"""Names that sets give to the split one trains on; asked for one of them, any is meant."""

T = TypeVar("T")


class Format(StrEnum):
    """How a set says which image has which label."""

    CLASS_FOLDERS = "class-folders"
    NIH_CSV = "nih-csv"
    DICOM_CSV = "dicom-csv"
    BRIXIA = "brixia"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file that a set names.

    Attributes:
        path: of the file.
        label: index into the class names.
        person: identity of the person within this set; None where the file itself must be asked (DICOM).
        source: name relative to the set's directory, with ``/``: the file's key wherever the set lies.
        split: name of the split that the set puts it in, "" where it says nothing.
    """

    path: Path
    label: int
    person: str | None
    source: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a set.

    Attributes:
        format: by which it was read.
        files: sorted by `source`.
        missing: names that the set's table has and its directory lacks.
        left_out: rows of the table whose label is none of the task's classes.
    """

    format: Format
    files: tuple[ListedFile, ...]
    missing: tuple[str, ...] = ()
    left_out: int = 0


def same_split(name: str, wanted: str | None) -> bool:
    """Say whether a split of this name is meant; None means every split."""
    if wanted is None or name.lower() == wanted.lower():
        return True
    return name.lower() in TRAIN_SPLIT_NAMES and wanted.lower() in TRAIN_SPLIT_NAMES


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """Give at most `limit` of the items, evenly spread, first and last among them; all where there is no limit."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def read_table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Read a CSV file with a header line; names of columns and values come stripped, a byte-order mark is dropped.

    Args:
        path: of the file.
        delimiter: between two values.

    Raises:
        ConfigurationError: it cannot be read, is not UTF-8, or has no row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {(name or "").strip(): (value or "").strip() for name, value in row.items() if isinstance(value, str)}
                for row in csv.DictReader(file, delimiter=delimiter)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: cannot be read as a CSV file in UTF-8") from error
    if not rows:
        raise ConfigurationError(f"{path}: no row below the header line")
    return rows


def header_of(path: Path) -> tuple[str, ...]:
    """Give the names of a CSV file's columns; none where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return tuple(name.strip() for name in next(csv.reader(file), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()
