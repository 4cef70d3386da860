"""`python -m deploy.data_dictionary`: writes `deploy/data_dictionary.md` from the tables in the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.generated import write_or_check
from models.records.dictionary import DICTIONARY, View
from models.records.patient_identity import ATTRIBUTES

TARGET: Final = Path(__file__).parent / "data_dictionary.md"

_INTRODUCTION: Final = """\
# Data dictionary

Written by `python -m deploy.data_dictionary` from `models/records/dictionary.py`; change that table, not this file.

The views below are kept stable: columns are added at the end and keep their names and meanings. They are the same on
SQLite and PostgreSQL; on SQLite times are text in UTC, dates are text, and a boolean is 1 or 0. A finding that is null
was *not made*; it never means normal. **Research use only.**

`python -m worker results --view instance|study|daily|performance --format csv|json|jsonl|parquet` exports them. Columns
marked with * tell who a patient is, or link what is known of one; they are left out unless `--identity` is given."""

_IDENTITY: Final = """\
## What of a patient is stored

`RADSTREAM_PHI` decides, when an instance is settled; rows that exist are not changed by another setting.

Outside of `full` no text of a sender is stored: a description may hold a name, and so may any other text. What remains
is dates, numbers, UIDs and terms of closed lists (`worker/known_terms.py`); another text in such a place is left out.
UIDs are stored in every mode, because results are delivered and looked up by them. They lead to the patient for
whoever can ask the PACS, and some devices put numbers of the patient into them: `none` is not anonymous.

A keyed hash is HMAC-SHA-256 under `RADSTREAM_PHI_KEY`, its first 32 hex digits: of the accession number alone, so that
`trace` finds what somebody types, and of Patient ID together with Issuer of Patient ID, so that a patient is the same
one over all studies of one issuer and nobody else is. Who has the key can try out numbers; keep it as a password is
kept, and not in the database.

**Another key.** From the moment of the change a patient has another pseudonym, and older rows keep the old one: trends
and counts of patients do not cross it. The database has no way back to the identifier, so old rows cannot be hashed
again. Change the key when it has leaked, or to cut the link to older studies on purpose; note the day."""


def render() -> str:
    """Give the whole document."""
    parts = [_INTRODUCTION, *map(_view, DICTIONARY.values()), _IDENTITY, "\n".join(_modes())]
    return "\n\n".join(parts) + "\n"


def _view(view: View) -> str:
    rows = (
        (f"`{column.name}`{' *' if column.identifying else ''}", column.type, column.unit, column.meaning, column.null)
        for column in view.columns
    )
    header = ("column", "type", "unit or values", "meaning", "null means")
    return "\n".join((f"## `{view.name}`", "", view.row, "", *_table(header, rows)))


def _modes() -> Iterator[str]:
    rows = (
        (f"`{attribute.table}.{attribute.column}`", attribute.source, *map(str, modes))
        for attribute in ATTRIBUTES
        for modes in [(attribute.full, attribute.pseudonymised, attribute.none)]
    )
    return _table(("column", "from", "`full`", "`pseudonymised`", "`none`"), rows)


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield _line(header)
    yield _line(["---"] * len(header))
    yield from map(_line, rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or with ``--check`` see whether it is the one that the code says; 1 where it is not."""
    return write_or_check(lambda: {TARGET: render()}, "deploy.data_dictionary", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
