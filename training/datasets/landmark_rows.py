"""What the readers of each landmark format give: which file has which landmarks, before any image is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.spine.schemas import SCHEMAS, LandmarkSchema
from training.datasets.reading import READABLE_SUFFIXES, Unreadable

Points = NDArray[np.float64]
Angles = tuple[float, float, float]
"""Cobb angles in degrees, as they are given: the main one, the one above it, the one below it."""


class LandmarkFormat(StrEnum):
    """How a set says where the corners of the vertebrae are."""

    AASCE = "aasce"
    BUU_AP = "buu-ap"
    BUU_LA = "buu-la"
    GENERIC = "generic40"


SCHEMA_OF: Final[Mapping[LandmarkFormat, LandmarkSchema]] = {
    LandmarkFormat.AASCE: SCHEMAS["aasce68"],
    LandmarkFormat.BUU_AP: SCHEMAS["buu_ap20"],
    LandmarkFormat.BUU_LA: SCHEMAS["buu_la22"],
    LandmarkFormat.GENERIC: SCHEMAS["generic40"],
}


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkRow:
    """What a set says of one image.

    Attributes:
        path: of the image.
        person: identity of the person within the set; None where nothing but the file itself may tell.
        split: name of the split that the set puts it in, "" where it says nothing.
        points: ``(K, 2)`` x, y in the order of the file; NaN where a landmark is not there.
        normalised: whether x is in widths and y in heights of the image; else both are in pixels.
        angles: Cobb angles that came with it.
        slips: of each endplate line of BUU-LSPINE: 0 normal, 1 left and 2 right laterolisthesis, 3 antero-, 4 retro-.
    """

    path: Path
    person: str | None
    split: str
    points: Points
    normalised: bool = False
    angles: Angles | None = None
    slips: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LandmarkTable:
    """The rows of a set.

    Attributes:
        format: by which it was read.
        rows: of the images that are there.
        missing: names that the set has landmarks for and its directory lacks.
        broken: files whose landmarks are not what the format says.
    """

    format: LandmarkFormat
    rows: tuple[LandmarkRow, ...]
    missing: tuple[str, ...]
    broken: tuple[Unreadable, ...]

    @property
    def schema(self) -> LandmarkSchema:
        """Of the landmarks."""
        return SCHEMA_OF[self.format]


def image_beside(place: Path) -> Path | None:
    """Give the image, of any kind that is read, that goes by the stem of this path; None where there is none."""
    for suffix in READABLE_SUFFIXES:
        for spelt in (suffix, suffix.upper()):
            # Not `with_suffix`, for a stem may hold full stops.
            path = place.parent / f"{place.stem}{spelt}"
            if path.is_file():
                return path
    return None


def split_of_folders(path: Path, data_dir: Path) -> str:
    """Give the name of the split whose folder a file lies in, "" where none of its folders is called so."""
    names = [name for name in path.relative_to(data_dir).parts[:-1] if name.lower() in _SPLIT_FOLDERS]
    return names[0] if names else ""


_SPLIT_FOLDERS: Final = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "clinical"})
