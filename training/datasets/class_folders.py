"""Class folders: ``<directory>/<CLASS>/*``, or ``<directory>/<split>/<CLASS>/*`` where the set is split already.

Persons come from ``<directory>/persons.csv`` (columns ``file`` and ``person``) where there is one, else from the file
names of the public paediatric pneumonia set, else from the DICOM header. A file of which nothing is known is its own
person. Names of folders are compared without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from training.datasets.listing import Format, ListedFile, Listing, read_table, same_split
from training.datasets.reading import READABLE_SUFFIXES

PERSONS_FILE: Final = "persons.csv"

_PERSON_PATTERNS: Final = (
    re.compile(r"^(person\d+)_(?:bacteria|virus)_"),  # person123_bacteria_4.jpeg
    re.compile(r"^((?:NORMAL\d+-)?IM-\d+)-"),  # IM-0115-0001.jpeg, NORMAL2-IM-0381-0001.jpeg
)


def person_of(file_name: str) -> str | None:
    """Give the person id that a file name carries, None where it is of no form that we know."""
    for pattern in _PERSON_PATTERNS:
        match = pattern.match(file_name)
        if match:
            return match.group(1)
    return None


def has_class_folders(data_dir: Path, labels: tuple[str, ...]) -> bool:
    """Say whether a folder of any class lies in the directory or in a directory of it."""
    return bool(_bases(data_dir, labels))


def list_class_folders(data_dir: Path, labels: tuple[str, ...], split: str | None) -> Listing:
    """List the images of class folders.

    Args:
        data_dir: with one folder per label, or with one directory per split that has them.
        labels: folder names in the order of the network's outputs.
        split: see `training.datasets.labelled.read_labelled`.

    Raises:
        ConfigurationError: a class folder or the split is missing, or ``persons.csv`` cannot be used.
    """
    bases = _bases(data_dir, labels) or {"": data_dir}
    chosen = {name: base for name, base in bases.items() if not name or same_split(name, split)}
    if not chosen:
        raise ConfigurationError(f"{data_dir}: no split {split}; there are {', '.join(sorted(bases))}")
    persons = _read_persons(data_dir)
    files = []
    for name, base in chosen.items():
        for index, label in enumerate(labels):
            folder = _folder(base, label)
            if folder is None:
                raise ConfigurationError(f"{base / label}: no such class folder")
            files += [_listed(path, data_dir, index, name, persons) for path in _images_in(folder)]
    return Listing(Format.CLASS_FOLDERS, tuple(sorted(files, key=lambda file: file.source)))


def _bases(data_dir: Path, labels: tuple[str, ...]) -> dict[str, Path]:
    """Give the directories that hold class folders by split; the set's own directory, as "", before all others."""
    if any(_folder(data_dir, label) for label in labels):
        return {"": data_dir}
    directories = sorted(path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    return {path.name: path for path in directories if any(_folder(path, label) for label in labels)}


def _folder(base: Path, label: str) -> Path | None:
    for name in (label, label.upper(), label.lower(), label.capitalize()):
        if (base / name).is_dir():
            return base / name
    return None


def _images_in(folder: Path) -> list[Path]:
    # Copying from a Mac leaves "._name.jpeg" beside each file, which is no image.
    return [p for p in folder.iterdir() if p.suffix.lower() in READABLE_SUFFIXES and not p.name.startswith(".")]


def _listed(path: Path, data_dir: Path, label: int, split: str, persons: Mapping[str, str]) -> ListedFile:
    source = path.relative_to(data_dir).as_posix()
    person = persons.get(source) or persons.get(path.name) or person_of(path.name)
    return ListedFile(path, label, person, source, split)


def _read_persons(data_dir: Path) -> dict[str, str]:
    path = data_dir / PERSONS_FILE
    if not path.is_file():
        return {}
    rows = read_table(path)
    if not {"file", "person"} <= set(rows[0]):
        raise ConfigurationError(f"{path}: needs the columns file and person")
    return {row["file"].replace("\\", "/"): row["person"] for row in rows if row.get("file") and row.get("person")}
