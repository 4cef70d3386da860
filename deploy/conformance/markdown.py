"""Markdown of the statement: headings, tables, and how UIDs, tags and statuses are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.uid import UID

_HEADING: Final = re.compile(r"^(#{2,3}) (.+)$", re.MULTILINE)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table; without rows it says so."""
    lines = [_line(row) for row in rows]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines]) if lines else "None."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    # Outside of code, what stands between angle brackets would be taken for HTML and vanish.
    parts = text.replace("|", r"\|").replace("``", "`").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def paragraphs(*parts: str) -> str:
    """Join what stands one below the other."""
    return "\n\n".join(part.strip("\n") for part in parts if part)


def contents(text: str) -> str:
    """Give a table of contents of the headings of the second and third order."""
    return "\n".join(
        f"{'  ' * (len(hashes) - 2)}- [{title}](#{_anchor(title)})" for hashes, title in _HEADING.findall(text)
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def named(uid: str) -> str:
    """Give the name that PS3.6 has for a UID."""
    return str(UID(uid).name)


def uid_cells(uid: str) -> tuple[str, str]:
    """Give name and UID, as two cells."""
    return named(uid), f"`{uid}`"


def tag_text(tag: int) -> str:
    """Write a tag as PS3.6 does."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def status_text(status: int, last: int | None = None) -> str:
    """Write a DIMSE status, or a range of them."""
    return f"{status:04X}" if last in (None, status) else f"{status:04X} to {last:04X}"


def in_words(name: str) -> str:
    """Make words of a name in capitals or with underscores."""
    return name.replace("_", " ").capitalize()
