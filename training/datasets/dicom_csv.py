"""DICOM files anywhere below a directory, and a CSV file with their labels.

Columns: ``file`` (relative to the directory) or ``sop_instance_uid``; ``label``, a class name; optionally ``person``
and ``split``. Without ``person`` the patient of the header counts, under a pseudonym; see
`training.datasets.reading.person_of_header`. PNG and JPEG files may be named too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from models.errors import ConfigurationError, Unprocessable
from models.pixels.attributes import read_text
from models.pixels.header import read_header
from training.datasets.listing import Format, ListedFile, Listing, header_of, read_table, same_split
from training.datasets.reading import is_dicom


def find_label_table(data_dir: Path) -> Path | None:
    """Give the one CSV file in the directory that has the columns of a label table.

    Raises:
        ConfigurationError: there are several.
    """
    tables = [path for path in sorted(data_dir.glob("*.csv")) if _is_label_header(header_of(path))]
    if len(tables) > 1:
        raise ConfigurationError(f"{data_dir}: several tables of labels; choose one with --labels-csv")
    return tables[0] if tables else None


def _is_label_header(columns: tuple[str, ...]) -> bool:
    return "label" in columns and ("file" in columns or "sop_instance_uid" in columns)


def list_dicom_csv(data_dir: Path, labels: tuple[str, ...], table: Path | None, split: str | None) -> Listing:
    """List the files that the table names.

    Args:
        data_dir: files lie in it or anywhere below.
        labels: class names in the order of the network's outputs, compared without regard to case.
        table: of the labels; None looks for it in `data_dir`.
        split: see `training.datasets.labelled.read_labelled`.

    Raises:
        ConfigurationError: the table is missing, lacks a column or the split, has a label that is no class, or names
            a file twice.
    """
    table = table or find_label_table(data_dir)
    if table is None:
        raise ConfigurationError(f"{data_dir}: no CSV file with the columns label and file or sop_instance_uid")
    rows = read_table(table)
    if not _is_label_header(tuple(rows[0])):
        raise ConfigurationError(f"{table}: needs the columns label and file or sop_instance_uid")
    splits = {row["split"] for row in rows if row.get("split")}
    if splits and not any(same_split(name, split) for name in splits):
        raise ConfigurationError(f"{table}: no split {split}; there are {', '.join(sorted(splits))}")
    find = _finder(data_dir, by_file="file" in rows[0])
    files: dict[str, ListedFile] = {}
    missing: list[str] = []
    for line, row in enumerate(rows, start=2):
        label = _label_of(row.get("label", ""), labels, table, line)
        if row.get("split") and not same_split(row["split"], split):
            continue
        path = find(row)
        if path is None:
            missing.append(row.get("file") or row.get("sop_instance_uid", ""))
            continue
        source = path.relative_to(data_dir).as_posix()
        if source in files:
            raise ConfigurationError(f"{table}: line {line} names a file that an earlier line names too")
        files[source] = ListedFile(path, label, row.get("person") or None, source, row.get("split", ""))
    return Listing(Format.DICOM_CSV, tuple(files[source] for source in sorted(files)), tuple(missing))


def _label_of(text: str, labels: tuple[str, ...], table: Path, line: int) -> int:
    for index, label in enumerate(labels):
        if text.lower() == label.lower():
            return index
    raise ConfigurationError(f"{table}: line {line} has a label that is none of {', '.join(labels)}")


def _finder(data_dir: Path, by_file: bool) -> Callable[[dict[str, str]], Path | None]:
    """Give what finds a row's file, None where it is not there."""
    if not by_file:
        by_uid = _files_by_uid(data_dir)
        return lambda row: by_uid.get(row["sop_instance_uid"])

    def find(row: dict[str, str]) -> Path | None:
        name = os.path.normpath(row["file"].replace("\\", "/"))
        # A table is data from elsewhere: it names files of its own directory and no others.
        if os.path.isabs(name) or name.startswith(os.pardir):
            return None
        return data_dir / name if (data_dir / name).is_file() else None

    return find


def _files_by_uid(data_dir: Path) -> dict[str, Path]:
    """Read the header of every DICOM file below; the first in the order of names has the UID."""
    found: dict[str, Path] = {}
    for directory, folders, names in os.walk(data_dir):
        folders.sort()
        for name in sorted(names):
            path = Path(directory) / name
            try:
                uid = read_text(read_header(path), "SOPInstanceUID") if is_dicom(path) else None
            except (Unprocessable, OSError):
                continue  # named by nothing, so no row can mean it
            if uid:
                found.setdefault(uid, path)
    return found
