"""Lumbar spines as BUU-LSPINE has them (Klinwichit et al., Applied Sciences 2023): formats ``buu-ap`` and ``buu-la``.

Beside each image ``0001-F-037Y0.jpg`` lies ``0001-F-037Y0.csv``: number of the person, sex, age, and 0 for the frontal
or 1 for the lateral film. It has no header; each line is an endplate ``x1,y1,x2,y2,label`` in pixels: the superior and
inferior one of L1 to L5, on lateral films then the superior one of S1. The label of an inferior endplate says whether
the vertebra has slipped on the next: 0 normal, 1 left and 2 right laterolisthesis, 3 anterolisthesis, 4 retrolisthesis.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from training.datasets.landmark_rows import (
    LandmarkFormat,
    LandmarkRow,
    LandmarkTable,
    image_beside,
    split_of_folders,
)
from training.datasets.reading import Unreadable

_LINES: Final[Mapping[LandmarkFormat, int]] = {LandmarkFormat.BUU_AP: 10, LandmarkFormat.BUU_LA: 11}
_FORMAT_OF: Final = {lines: format for format, lines in _LINES.items()}
_VIEW_FOLDERS: Final = {"ap": LandmarkFormat.BUU_AP, "la": LandmarkFormat.BUU_LA}
_NAME: Final = re.compile(r"(?P<person>\d{3,})-[MF]-\d+Y(?P<view>[01])?", re.ASCII | re.IGNORECASE)
_VIEW_DIGITS: Final = {"0": LandmarkFormat.BUU_AP, "1": LandmarkFormat.BUU_LA}
_COLUMNS: Final = 5  # x1, y1, x2, y2, label
_SLIPS: Final = range(5)


def buu_views(data_dir: Path) -> tuple[LandmarkFormat, ...]:
    """Say of which views a directory has landmarks laid out so; of none where it is laid out otherwise."""
    views = {view for table in sorted(data_dir.rglob("*.csv")) if (view := _view_of(table)) is not None}
    return tuple(view for view in _LINES if view in views)


def read_buu(data_dir: Path, view: LandmarkFormat) -> LandmarkTable:
    """Read the landmarks of one view.

    Args:
        data_dir: directory of the set; the files may lie anywhere below.
        view: `LandmarkFormat.BUU_AP` or `LandmarkFormat.BUU_LA`.
    """
    rows: list[LandmarkRow] = []
    missing: list[str] = []
    broken: list[Unreadable] = []
    for table in sorted(data_dir.rglob("*.csv")):
        if _view_of(table) is not view:
            continue
        image = image_beside(table)
        if image is None:
            missing.append(table.relative_to(data_dir).as_posix())
            continue
        outcome = _read(table, image, view, split_of_folders(table, data_dir))
        if isinstance(outcome, Unreadable):
            broken.append(outcome)
        else:
            rows.append(outcome)
    return LandmarkTable(view, tuple(rows), tuple(missing), tuple(broken))


def person_of_name(name: str) -> str | None:
    """Give the person of a file of the set; None where the name says nothing of it."""
    found = _NAME.match(name)
    return f"buu-{found['person']}" if found else None


def _view_of(table: Path) -> LandmarkFormat | None:
    """Give the view of a table of endplates, None of another table.

    Where the number of lines is that of neither view, the name of the file or of its folder says it, so that a table
    that lacks a line is found and named.
    """
    lines = _read_lines(table)
    if not lines or len(lines[0]) != _COLUMNS or not all(map(_is_number, lines[0])):
        return None
    named = _NAME.match(table.name)
    if len(lines) in _FORMAT_OF:
        return _FORMAT_OF[len(lines)]
    if named and named["view"]:
        return _VIEW_DIGITS[named["view"]]
    return _VIEW_FOLDERS.get(table.parent.name.lower())


def _read(table: Path, image: Path, view: LandmarkFormat, split: str) -> LandmarkRow | Unreadable:
    lines = _read_lines(table)
    if len(lines) != _LINES[view]:
        return Unreadable(image, f"has {len(lines)} endplates where {_LINES[view]} are wanted")
    if any(len(line) != _COLUMNS or not all(map(_is_number, line)) for line in lines):
        return Unreadable(image, "has endplates that are not x1, y1, x2, y2, label")
    values = np.array([[float(value) for value in line] for line in lines])
    labels = values[:, -1]
    slips = tuple(int(label) for label in labels)
    if any(slip not in _SLIPS or slip != label for slip, label in zip(slips, labels, strict=True)):
        return Unreadable(image, f"has a label that is no whole number from 0 to {_SLIPS[-1]}")
    return LandmarkRow(image, person_of_name(image.name), split, values[:, :-1].reshape(-1, 2), slips=slips)


def _read_lines(table: Path) -> list[list[str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return [[value.strip() for value in line] for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
