"""Radiographs with the scores of six lung zones: which are readable, whose they are, and what each reader said.

======= ==========================================================================================================
format  layout
======= ==========================================================================================================
csi     a CSV file with the separator ``;`` and the columns ``FileID``, the six zones, optionally ``patient`` and
        ``csi``; an empty zone is ungradable; ``<FileID>.png|jpg|jpeg|dcm|dicom`` anywhere below
brixia  ``scores.csv`` with Brixia scores, read as CSI; see `training.datasets.brixia`
======= ==========================================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.zones import ZONES, Congestion
from training.datasets.brixia import TABLE, Grades, is_brixia_header, read_brixia_table, read_grade, within
from training.datasets.listing import header_of, read_table
from training.datasets.reading import READABLE_SUFFIXES, Unreadable, identify, read_each

AUTO: Final = "auto"
CSI_DELIMITER: Final = ";"
_ZONE_NAMES: Final = tuple(zone.value for zone in ZONES)
_PERSON: Final = "patient"


class ZoneFormat(StrEnum):
    """How a set says what the readers saw."""

    CSI = "csi"
    BRIXIA = "brixia"


@dataclass(frozen=True, slots=True)
class _Row:
    name: str  # of the file or, in `csi`, its FileID
    person: str | None
    readers: tuple[Grades, ...]


@dataclass(frozen=True, slots=True)
class ZoneImage:
    """One readable radiograph.

    Attributes:
        path: of the file.
        source: name relative to the set's directory, with ``/``.
        person: identity of the person within this set.
        pixels_sha256: hex digest of its pixels, see `training.datasets.reading.pixels_sha256`.
        readers: what each reader said, the one to be measured against first; at least one.
    """

    path: Path
    source: str
    person: str
    pixels_sha256: str
    readers: tuple[Grades, ...]


@dataclass(frozen=True, slots=True)
class ZoneImages:
    """What a set holds.

    Attributes:
        format: by which it was read.
        images: readable images, sorted by `source`.
        unreadable: files that could not be read.
        missing: names that the table has and the directory lacks.
        excluded: names that were left out on request.
    """

    format: ZoneFormat
    images: tuple[ZoneImage, ...]
    unreadable: tuple[Unreadable, ...]
    missing: tuple[str, ...]
    excluded: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash of every image's pixels and scores: says which data a network was trained on, wherever it lay."""
        lines = sorted(f"{image.pixels_sha256} {image.readers}" for image in self.images)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def limited(self, images: Sequence[ZoneImage]) -> ZoneImages:
        """Give the set with some of its images alone."""
        return replace(self, images=tuple(images))


def read_zone_images(
    data_dir: Path,
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
    exclude: Collection[str] = (),
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    processes: int | None = None,
) -> ZoneImages:
    """Read every image of a set once.

    Args:
        data_dir: directory of the set.
        format: one of `ZoneFormat`, or `AUTO`.
        labels_csv: the table, where it lies elsewhere or goes by another name.
        exclude: FileIDs, or names of files, to leave out.
        progress: wraps the paths while they are read.
        processes: see `training.datasets.reading.read_each`.

    Raises:
        ConfigurationError: the set is not of that format, a score is none, or no image can be read.
    """
    if not data_dir.is_dir():
        raise ConfigurationError(f"{data_dir}: no such directory")
    known, table = _find_table(data_dir, format, labels_csv)
    rows = _read_csi(table) if known is ZoneFormat.CSI else _read_brixia(table)
    _check_names_differ(table, rows)
    excluded = tuple(row.name for row in rows if row.name in exclude)
    found, missing = _find_files(data_dir, known, [row for row in rows if row.name not in exclude])
    paths = [path for path, _ in found]
    images: list[ZoneImage] = []
    unreadable: list[Unreadable] = []
    outcomes = read_each(paths, identify, processes)
    for _, (path, row), outcome in zip(progress(paths), found, outcomes, strict=True):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
            continue
        person = row.person or outcome.person or row.name
        source = path.relative_to(data_dir).as_posix()
        images.append(ZoneImage(path, source, person, outcome.pixels_sha256, row.readers))
    if not images:
        raise ConfigurationError(f"{table}: none of its {len(rows)} images can be read below {data_dir}")
    images.sort(key=lambda image: image.source)
    return ZoneImages(known, tuple(images), tuple(unreadable), tuple(missing), excluded)


def _find_table(data_dir: Path, format: str, labels_csv: Path | None) -> tuple[ZoneFormat, Path]:
    if format != AUTO and format not in set(ZoneFormat):
        raise ConfigurationError(f"format {format}: unknown; known are {AUTO}, {', '.join(ZoneFormat)}")
    tables = sorted(data_dir.glob("*.csv")) if labels_csv is None else [labels_csv]
    for table in tables:
        known = _format_of(table)
        if known is not None and format in (AUTO, known):
            return known, table
    if labels_csv is not None and not labels_csv.is_file():
        raise ConfigurationError(f"{labels_csv}: no such file")
    raise ConfigurationError(
        f"{labels_csv or data_dir}: neither a table of CSI (separator {CSI_DELIMITER}, columns FileID and "
        f"{', '.join(_ZONE_NAMES)}) nor one of Brixia scores ({TABLE}: file, S-A to S-F, J-A to J-F)"
    )


def _format_of(table: Path) -> ZoneFormat | None:
    columns = header_of(table)
    if is_brixia_header(columns):
        return ZoneFormat.BRIXIA
    split = {name.strip() for name in CSI_DELIMITER.join(columns).split(CSI_DELIMITER)}
    return ZoneFormat.CSI if split >= {"FileID", *_ZONE_NAMES} else None


def _read_csi(table: Path) -> list[_Row]:
    rows = []
    highest = Congestion.UNGRADABLE  # also what an empty zone is
    for number, row in enumerate(read_table(table, CSI_DELIMITER), start=2):
        grades = tuple(
            read_grade(row.get(name) or str(int(highest)), highest, table, number, name) for name in _ZONE_NAMES
        )
        rows.append(_Row(row.get("FileID", ""), row.get(_PERSON) or None, (grades,)))
    return rows


def _read_brixia(table: Path) -> list[_Row]:
    return [_Row(row.file, row.person, row.readers) for row in read_brixia_table(table)]


def _check_names_differ(table: Path, rows: Sequence[_Row]) -> None:
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if not row.name:
            raise ConfigurationError(f"{table} line {number}: names no image")
        if row.name in seen:
            raise ConfigurationError(f"{table} line {number}: names an image for the second time")
        seen.add(row.name)


def _find_files(data_dir: Path, format: ZoneFormat, rows: Sequence[_Row]) -> tuple[list[tuple[Path, _Row]], list[str]]:
    by_stem: dict[str, Path] = {}
    if format is ZoneFormat.CSI:
        for path in sorted(data_dir.rglob("*")):
            if path.suffix.lower() in READABLE_SUFFIXES:
                by_stem.setdefault(path.stem, path)
                by_stem.setdefault(path.name, path)
    found: list[tuple[Path, _Row]] = []
    missing: list[str] = []
    for row in rows:
        place = by_stem.get(row.name) if format is ZoneFormat.CSI else within(data_dir, row.name)
        if place is None or not place.is_file():
            missing.append(row.name)
        else:
            found.append((place, row))
    return found, missing
