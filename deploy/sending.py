"""Sends DICOM files to the feed as a modality would, each in the transfer syntax that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE

from models.requestor import without_races


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one file.

    Attributes:
        status: of the C-STORE response, None when it was not sent.
        problem: why it was not sent, in our words; empty when it was.
    """

    path: Path
    sop_instance_uid: str
    status: int | None
    problem: str = ""


def files_under(path: Path) -> list[Path]:
    """List the files of a directory tree, or the one file, sorted."""
    return sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]


def send_files(paths: Sequence[Path], host: str, port: int, ae_title: str) -> Iterator[Sent]:
    """Send files one after the other, each over an association of its own in its own transfer syntax.

    Yields:
        One `Sent` per file, in order; a file that is no DICOM, or whose syntax is refused, is among them.
    """
    for path in paths:
        yield _send_one(path, host, port, ae_title)


def _send_one(path: Path, host: str, port: int, ae_title: str) -> Sent:
    try:
        dataset = dcmread(path)
        uid, storage_class = str(dataset.SOPInstanceUID), UID(dataset.SOPClassUID)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError, EOFError, TypeError):
        return Sent(path, "", None, "not a readable DICOM file")
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(storage_class, [syntax])
    association = entity.associate(host, port, ae_title=ae_title)
    if not association.is_established:
        problem = "class or transfer syntax refused" if association.rejected_contexts else "no association"
        return Sent(path, uid, None, problem)
    without_races(association)
    try:
        answer = association.send_c_store(dataset)
    except (ValueError, RuntimeError, AttributeError):
        return Sent(path, uid, None, "cannot be encoded for sending")
    finally:
        association.release()
    if "Status" not in answer:
        return Sent(path, uid, None, "no answer")
    return Sent(path, uid, int(answer.Status))
