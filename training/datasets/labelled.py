"""Labelled images, whatever the format of the set: which are readable, whose they are, and the hash of their pixels.

============= =================================================================================================
format        layout
============= =================================================================================================
class-folders ``<dir>/<CLASS>/*`` or ``<dir>/<split>/<CLASS>/*``; see `training.datasets.class_folders`
nih-csv       ``Data_Entry_2017*.csv`` with images anywhere below; see `training.datasets.nih_csv`
dicom-csv     DICOM files anywhere below and a CSV file with their labels; see `training.datasets.dicom_csv`
brixia        ``scores.csv`` of adults' Brixia scores, made two classes; see `training.datasets.brixia`
============= =================================================================================================
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from training.datasets.brixia import TABLE, is_brixia_header, list_brixia
from training.datasets.class_folders import has_class_folders, list_class_folders
from training.datasets.dicom_csv import find_label_table, list_dicom_csv
from training.datasets.listing import Format, ListedFile, Listing, header_of, spread
from training.datasets.nih_csv import find_nih_table, is_nih_header, list_nih_csv
from training.datasets.reading import Unreadable, identify, read_each

AUTO: Final = "auto"
"""In place of a format: find out which it is."""

Progress = Callable[[Sequence[ListedFile]], Iterable[ListedFile]]
"""Wraps the files of a set to show how far the reading is."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One readable image of a set.

    Attributes:
        path: of the file.
        label: index into the class names.
        person: identity of the person within this set.
        pixels_sha256: hex digest of its pixels, see `training.datasets.reading.pixels_sha256`.
        source: name relative to the set's directory, with ``/``: the image's key wherever the set lies.
        split: name of the split that the set puts it in, "" where it says nothing.
    """

    path: Path
    label: int
    person: str
    pixels_sha256: str
    source: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """What a set holds.

    Attributes:
        labels: class names, in the order that was asked for.
        images: readable images, sorted by `source`.
        unreadable: files that could not be read; they are in no split.
        directory: where the set lies.
        format: by which it was read.
        missing: names that the set's table has and its directory lacks.
    """

    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    unreadable: tuple[Unreadable, ...]
    directory: Path
    format: Format
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of every image's pixels and label: says which data a network was trained on, wherever it lay."""
        lines = sorted(f"{image.pixels_sha256} {self.labels[image.label]}" for image in self.images)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_labelled(
    data_dir: Path,
    labels: tuple[str, ...],
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    progress: Progress = iter,
    processes: int | None = None,
) -> LabelledImages:
    """Read every image of a set once.

    Args:
        data_dir: directory of the set.
        labels: class names in the order of the network's outputs; the second is the positive class.
        format: one of `Format`, or `AUTO`.
        labels_csv: the table of labels, where it lies elsewhere or goes by another name.
        split: read this split alone, where the set has splits; a set without any is read whole, and the name is only
            a name. None reads all there are, so who trains passes "train".
        limit: at most this many images per class, spread evenly over the sorted names.
        progress: wraps the files while they are walked.
        processes: see `training.datasets.reading.read_each`.

    Raises:
        ConfigurationError: the set is not of that format, or a class holds no readable image.
    """
    listing = list_files(data_dir, labels, format=format, labels_csv=labels_csv, split=split, limit=limit)
    images: list[LabelledImage] = []
    unreadable: list[Unreadable] = []
    outcomes = read_each([file.path for file in listing.files], identify, processes)
    for file, outcome in zip(progress(listing.files), outcomes, strict=True):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
        else:
            images.append(labelled_image(file, outcome.pixels_sha256, outcome.person))
    counts = Counter(image.label for image in images)
    for index, name in enumerate(labels):
        if not counts[index]:
            raise ConfigurationError(f"{data_dir}: no readable image of class {name}; see check-data")
    return LabelledImages(labels, tuple(images), tuple(unreadable), data_dir, listing.format, listing.missing)


def labelled_image(file: ListedFile, pixels_sha256: str, person: str | None) -> LabelledImage:
    """Join what the set says of a file and what the file says of itself; the set's word on the person comes first."""
    whose = file.person or person or file.source
    return LabelledImage(file.path, file.label, whose, pixels_sha256, file.source, file.split)


def list_files(
    data_dir: Path,
    labels: tuple[str, ...],
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> Listing:
    """List the files of a set, unopened but for the headers that ``dicom-csv`` may need; as `read_labelled`.

    Raises:
        ConfigurationError: the set is not of that format.
    """
    if not data_dir.is_dir():
        raise ConfigurationError(f"{data_dir}: no such directory")
    if labels_csv is not None and not labels_csv.is_file():
        raise ConfigurationError(f"{labels_csv}: no such file")
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit {limit}: at least one image per class is needed")
    known = _known_format(format) or find_format(data_dir, labels, labels_csv)
    if known is Format.CLASS_FOLDERS:
        listing = list_class_folders(data_dir, labels, split)
    elif known is Format.NIH_CSV:
        listing = list_nih_csv(data_dir, labels, labels_csv, split)
    elif known is Format.BRIXIA:
        listing = list_brixia(data_dir, labels, labels_csv)
    else:
        listing = list_dicom_csv(data_dir, labels, labels_csv, split)
    by_label = [[file for file in listing.files if file.label == index] for index in range(len(labels))]
    chosen = sorted((file for files in by_label for file in spread(files, limit)), key=lambda file: file.source)
    return Listing(listing.format, tuple(chosen), listing.missing, listing.left_out)


def _known_format(name: str) -> Format | None:
    if name == AUTO:
        return None
    try:
        return Format(name)
    except ValueError:
        raise ConfigurationError(f"format {name}: unknown; known are {AUTO}, {', '.join(Format)}") from None


def find_format(data_dir: Path, labels: tuple[str, ...], labels_csv: Path | None = None) -> Format:
    """Find out the format of a set.

    Raises:
        ConfigurationError: it is of none that we read; the message says what was looked for.
    """
    if labels_csv is not None:
        columns = header_of(labels_csv)
        if is_brixia_header(columns):
            return Format.BRIXIA
        return Format.NIH_CSV if is_nih_header(columns) else Format.DICOM_CSV
    if find_nih_table(data_dir) is not None:
        return Format.NIH_CSV
    if has_class_folders(data_dir, labels):
        return Format.CLASS_FOLDERS
    if is_brixia_header(header_of(data_dir / TABLE)):
        return Format.BRIXIA
    if find_label_table(data_dir) is not None:
        return Format.DICOM_CSV
    raise ConfigurationError(
        f"{data_dir}: neither class folders {' and '.join(labels)}, nor Data_Entry_2017.csv, nor a CSV file with "
        f"columns label and file or sop_instance_uid, nor {TABLE} with Brixia scores"
    )
