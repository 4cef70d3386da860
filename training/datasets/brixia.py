"""Radiographs of adults with Brixia scores: ``scores.csv`` with images anywhere below.

The Brixia score (Borghesi and Maroldi, La Radiologia Medica 2020) grades six lung zones 0 to 3: A to C are the upper,
middle and lower zone of the right lung, D to F those of the left. Columns are ``file``, ``S-A`` to ``S-F`` of a senior
and ``J-A`` to ``J-F`` of a junior radiologist, and ``patient``.

As a set of two classes it stands for another age group and for other hospitals than a set of children: lungs that the
first reader found all but clear are negative, clearly diseased ones positive, and what lies between is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.zones import ZONES, Congestion, Zone
from training.datasets.listing import Format, ListedFile, Listing, read_table

TABLE: Final = "scores.csv"
READERS: Final = ("S", "J")
"""Senior and junior radiologist; the senior comes first."""

LETTERS: Final[Mapping[Zone, str]] = {
    Zone.RIGHT_SUP: "A",
    Zone.RIGHT_MID: "B",
    Zone.RIGHT_INF: "C",
    Zone.LEFT_SUP: "D",
    Zone.LEFT_MID: "E",
    Zone.LEFT_INF: "F",
}

MOST_OF_CLEAR: Final = 1
LEAST_OF_DISEASED: Final = 6
"""Sums of the six zones, 0 to 18: to the first an image is negative, from the second it is positive."""

Grades = tuple[Congestion, ...]
"""Of one reader: six, zones in their fixed order."""


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """One row of the table: file relative to the set, person, and what each reader said, the senior first."""

    file: str
    person: str | None
    readers: tuple[Grades, ...]


def is_brixia_header(columns: tuple[str, ...]) -> bool:
    """Say whether these are the columns of such a table."""
    return set(columns) >= {"file", *(f"{READERS[0]}-{letter}" for letter in LETTERS.values())}


def read_brixia_table(table: Path) -> list[ScoredImage]:
    """Read the table.

    Raises:
        ConfigurationError: it is no such table, a score is none, or a row names no scores.
    """
    rows = []
    for number, row in enumerate(read_table(table), start=2):
        if not is_brixia_header(tuple(row)):
            raise ConfigurationError(f"{table}: needs the columns file and S-A to S-F")
        readers = []
        for reader in READERS:
            columns = [f"{reader}-{LETTERS[zone]}" for zone in ZONES]
            if all(row.get(column) for column in columns):  # a reader may have left an image, not a zone of it
                readers.append(tuple(read_grade(row[c], Congestion.SEVERE, table, number, c) for c in columns))
        if not readers:
            raise ConfigurationError(f"{table} line {number}: no reader scored all six zones")
        person = row.get("patient")
        rows.append(ScoredImage(row["file"], f"patient-{person}" if person else None, tuple(readers)))
    return rows


def read_grade(text: str, highest: Congestion, table: Path, line: int, column: str) -> Congestion:
    """Read one grade of a table.

    Raises:
        ConfigurationError: it is no whole number from 0 to `highest`.
    """
    try:
        value = float(text)
        grade = Congestion(int(value))
    except (ValueError, OverflowError):
        grade, value = None, -1.0
    if grade is None or grade != value or grade > highest:
        raise ConfigurationError(f"{table} line {line}, {column}: a whole number from 0 to {highest} is wanted")
    return grade


def list_brixia(data_dir: Path, labels: tuple[str, ...], table: Path | None) -> Listing:
    """List the images that are clear or clearly diseased.

    Args:
        data_dir: directory of the set.
        labels: negative and positive class.
        table: of the scores; None takes ``scores.csv``.

    Raises:
        ConfigurationError: see `read_brixia_table`.
    """
    files: list[ListedFile] = []
    missing: list[str] = []
    left_out = 0
    for row in read_brixia_table(table or data_dir / TABLE):
        severity = sum(row.readers[0])
        path = within(data_dir, row.file)
        if MOST_OF_CLEAR < severity < LEAST_OF_DISEASED:
            left_out += 1
        elif path is None or not path.is_file():
            missing.append(row.file)
        else:
            label = int(severity >= LEAST_OF_DISEASED)
            files.append(ListedFile(path, label, row.person, path.relative_to(data_dir).as_posix()))
    return Listing(Format.BRIXIA, tuple(sorted(files, key=lambda file: file.source)), tuple(missing), left_out)


def within(data_dir: Path, name: str) -> Path | None:
    """Give a file that a table names; None where the name leads out of the set's directory."""
    path = data_dir / name
    return path if path.resolve().is_relative_to(data_dir.resolve()) else None
