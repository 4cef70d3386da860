"""The NIH ChestX-ray14 set: ``Data_Entry_2017*.csv``, images anywhere below, ``train_val_list.txt``/``test_list.txt``.

A row may name several findings, ``Effusion|Pneumonia``. "No Finding" is the negative class. For `pneumonia` the
positive class is every row that names Pneumonia, and rows of other findings are left out; for `normality` it is
every row that names any finding.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.pixels.image_files import IMAGE_SUFFIXES
from training.datasets.listing import Format, ListedFile, Listing, read_table, same_split

NO_FINDING: Final = "no finding"
ANY_FINDING: Final = "abnormal"
"""A positive class of this name takes every row with a finding; any other takes the rows that name it."""

_SPLIT_LISTS: Final = {"train": "train_val_list.txt", "test": "test_list.txt"}
_COLUMNS: Final = frozenset({"Image Index", "Finding Labels", "Patient ID"})


def is_nih_header(columns: tuple[str, ...]) -> bool:
    """Say whether these are the columns of the set's table."""
    return set(columns) >= _COLUMNS


def find_nih_table(data_dir: Path) -> Path | None:
    """Give the set's table, the newest version where there are several (2017, then v2020)."""
    return max(data_dir.glob("Data_Entry_2017*.csv"), default=None)


def list_nih_csv(data_dir: Path, labels: tuple[str, ...], table: Path | None, split: str | None) -> Listing:
    """List the images of the set that belong to one of two classes.

    Args:
        data_dir: images lie in it or anywhere below.
        labels: negative and positive class.
        table: the set's table; None looks for it in `data_dir`.
        split: see `training.datasets.labelled.read_labelled`.

    Raises:
        ConfigurationError: there is no such table, or the split has no list.
    """
    table = table or find_nih_table(data_dir)
    if table is None:
        raise ConfigurationError(f"{data_dir}: no Data_Entry_2017.csv")
    rows = read_table(table)
    if not is_nih_header(tuple(rows[0])):
        raise ConfigurationError(f"{table}: needs the columns {', '.join(sorted(_COLUMNS))}")
    splits = _read_splits(table.parent)
    if split is not None and splits and not any(same_split(name, split) for name in set(splits.values())):
        raise ConfigurationError(f"{table.parent}: no list of the split {split}; lists are of train and test")
    paths = _paths_below(data_dir)
    files: list[ListedFile] = []
    missing: list[str] = []
    left_out = 0
    for row in rows:
        name = row["Image Index"]
        if splits and not same_split(splits.get(name, ""), split):
            continue
        label = _label_of(row["Finding Labels"], labels)
        if label is None:
            left_out += 1
        elif name not in paths:
            missing.append(name)
        else:
            source = paths[name].relative_to(data_dir).as_posix()
            files.append(ListedFile(paths[name], label, f"nih-{row['Patient ID']}", source, splits.get(name, "")))
    return Listing(Format.NIH_CSV, tuple(sorted(files, key=lambda file: file.source)), tuple(missing), left_out)


def _label_of(findings: str, labels: tuple[str, ...]) -> int | None:
    named = {finding.strip().lower() for finding in findings.split("|")}
    if named == {NO_FINDING}:
        return 0
    positive = labels[1].lower()
    return 1 if positive == ANY_FINDING or positive in named else None


def _read_splits(directory: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in _SPLIT_LISTS.items():
        path = directory / name
        if path.is_file():
            splits.update(dict.fromkeys(path.read_text(encoding="utf-8").split(), split))
    return splits


def _paths_below(data_dir: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for directory, _, names in os.walk(data_dir):
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                paths.setdefault(name, Path(directory) / name)
    return paths
