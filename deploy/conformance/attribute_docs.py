"""What the code says of members of enumerations and of attributes of classes, read from its source.

A string below a member documents it (PEP 258); Python forgets it, its source does not.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from enum import Enum
from itertools import pairwise
from typing import Final

_ATTRIBUTE: Final = re.compile(r"^(\w[\w, ]*): (.*)$")
_COMMENT: Final = re.compile(r"^    # (.+)$")
_MEMBER: Final = re.compile(r"^    ([A-Z][A-Z0-9_]*) = ")


def member_docs(enumeration: type[Enum]) -> dict[str, str]:
    """Give the documentation of members by name, on one line; none of those that have none."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(enumeration))).body[0]
    docs = {}
    for statement, following in pairwise(tree.body if isinstance(tree, ast.ClassDef) else []):
        text = following.value.value if _is_text(following) else None  # type: ignore[attr-defined]
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and text is not None:
            docs[statement.targets[0].id] = " ".join(str(text).split())
    return docs


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def grouped_members(enumeration: type[Enum]) -> dict[str, list[str]]:
    """Give the names of members by the comment that stands above their group."""
    groups: dict[str, list[str]] = {}
    heading = ""
    for line in inspect.getsource(enumeration).splitlines():
        if comment := _COMMENT.match(line):
            heading = comment[1]
        elif member := _MEMBER.match(line):
            groups.setdefault(heading, []).append(member[1])
    return groups


def documented_attributes(of: type) -> dict[str, str]:
    """Give what the ``Attributes`` sections of a class and its bases say, by attribute."""
    docs: dict[str, str] = {}
    for each in reversed(of.__mro__):
        names: list[str] = []
        _, _, section = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("\nAttributes:\n")
        for line in textwrap.dedent(section.partition("\n\n")[0]).splitlines():
            if started := _ATTRIBUTE.match(line):
                names = started[1].split(", ")
                docs |= dict.fromkeys(names, started[2])
            else:
                docs |= {name: f"{docs[name]} {line.strip()}" for name in names}
    return docs
