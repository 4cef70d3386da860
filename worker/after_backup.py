"""What a restored database does not know, of what happened after the backup and left its traces here.

Instances whose bytes the spool's archive kept are made pending again. Of the others, outputs in the outbox tell the
study. What left no trace at all, whoever sent it must send again: a resend of what is known changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import Engine, select
from sqlalchemy.orm import InstrumentedAttribute

from models.any_spool import AnySpool
from models.records.dicom import Instance
from models.records.outputs import Output
from worker.outbox import AnyOutbox

GROUP: Final = 500


def take_from_archive(database: Engine, spool: AnySpool) -> int:
    """Make the kept instances pending that the ledger does not know, and count them; the sweeper queues them."""
    unknown = _unknown(database, Instance.sop_instance_uid, (file.key for file in spool.archived()), _uid_of)
    return sum(spool.restore(key) for key in list(unknown))


def studies_to_resend(database: Engine, spool: AnySpool, outbox: AnyOutbox) -> Counter[str]:
    """Count, by study, the outputs of instances that are neither in the ledger nor pending."""
    pending = {entry.sop_instance_uid for entry in spool.entries()}
    names = outbox.file_names(before=float("inf"))
    ours = {_uid_of(name) for name in names}
    studies: Counter[str] = Counter()
    for name in _unknown(database, Output.file_name, names, str):
        study, referenced = _read(outbox, name)
        sources = referenced - ours - pending
        if any(True for _ in _unknown(database, Instance.sop_instance_uid, sources, str)):
            studies[study] += 1
    return studies


def _uid_of(name: str) -> str:
    """Give the SOP Instance UID with which a spool key, and the name of an output, begins."""
    return name.removesuffix(".dcm").partition("_")[0]


def _read(outbox: AnyOutbox, name: str) -> tuple[str, set[str]]:
    """Give the study of an output, and every instance that it refers to; nothing where it cannot be read."""
    try:
        output = dcmread(outbox.fetch(name), stop_before_pixels=True)
        return str(output.get("StudyInstanceUID", "")), {
            str(element.value) for element in output.iterall() if element.keyword == "ReferencedSOPInstanceUID"
        }
    except (OSError, InvalidDicomError):
        return "", set()
    finally:
        outbox.let_go(name)


def _unknown(
    database: Engine, column: InstrumentedAttribute[Any], items: Iterable[str], value_of: Callable[[str], str]
) -> Iterator[str]:
    """Give the items whose value no row has."""
    iterator = iter(items)
    while group := {item: value_of(item) for item in islice(iterator, GROUP)}:
        with database.connect().execution_options(read_only=True) as connection:
            known = set(connection.scalars(select(column).where(column.in_(set(group.values())))))
        yield from (item for item, value in group.items() if value not in known)
