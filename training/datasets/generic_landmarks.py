"""Lateral lumbar spines with vertebrae that have no names: format ``generic40``.

For each image a JSON file of the same name, beside it or in another folder, as Keypoint R-CNN takes it::

    {"boxes": [[x1, y1, x2, y2], ...], "keypoints": [[[x, y, v], [x, y, v], [x, y, v], [x, y, v]], ...]}

One box and four corners a vertebra, in any order, in pixels; v is 0 where a corner is not there. Vertebrae are taken
from top to bottom, up to ten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.spine.schemas import CORNERS
from training.datasets.buu import person_of_name
from training.datasets.landmark_rows import (
    SCHEMA_OF,
    LandmarkFormat,
    LandmarkRow,
    LandmarkTable,
    Points,
    image_beside,
    split_of_folders,
)
from training.datasets.reading import READABLE_SUFFIXES, Unreadable
from training.datasets.vertebra_corners import centres_of

_MOST: Final = len(SCHEMA_OF[LandmarkFormat.GENERIC].vertebrae)
_KEY: Final = "keypoints"


def is_generic(data_dir: Path) -> bool:
    """Say whether a directory has landmarks laid out so."""
    return next(_annotations(data_dir), None) is not None


def read_generic(data_dir: Path) -> LandmarkTable:
    """Read the landmarks of every image below a directory."""
    rows: list[LandmarkRow] = []
    missing: list[str] = []
    broken: list[Unreadable] = []
    elsewhere = _images_by_place(data_dir)
    for annotation, document in _annotations(data_dir):
        split = split_of_folders(annotation, data_dir)
        image = image_beside(annotation) or elsewhere.get((split, annotation.stem))
        if image is None:
            missing.append(annotation.relative_to(data_dir).as_posix())
            continue
        points = _points_of(document)
        if isinstance(points, str):
            broken.append(Unreadable(image, points))
        else:
            # Most of its images come from BUU-LSPINE, and under their names.
            rows.append(LandmarkRow(image, person_of_name(image.name), split, points))
    return LandmarkTable(LandmarkFormat.GENERIC, tuple(rows), tuple(missing), tuple(broken))


def _annotations(data_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(data_dir.rglob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and isinstance(document.get(_KEY), list):
            yield path, document


def _images_by_place(data_dir: Path) -> dict[tuple[str, str], Path]:
    """Give images by their split and stem."""
    return {
        (split_of_folders(path, data_dir), path.stem): path
        for path in sorted(data_dir.rglob("*"), reverse=True)
        if path.suffix.lower() in READABLE_SUFFIXES
    }


def _points_of(document: dict[str, Any]) -> Points | str:
    """Give the landmarks of one image, ``(40, 2)``, or what is wrong with them."""
    try:
        keypoints = np.array(document[_KEY], np.float64).reshape(len(document[_KEY]), len(CORNERS), 3)
    except (TypeError, ValueError):
        return f"has keypoints that are not {len(CORNERS)} times x, y, v of each vertebra"
    corners = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)
    seen = corners[np.isfinite(corners).any(axis=(1, 2))]
    if not len(seen):
        return "has no landmark"
    if len(seen) > _MOST:
        return f"has {len(seen)} vertebrae; at most {_MOST} are known"
    seen = seen[np.argsort(centres_of(seen)[:, 1], kind="stable")]
    points = np.full((_MOST, len(CORNERS), 2), np.nan)
    points[: len(seen)] = seen
    return points.reshape(-1, 2)
