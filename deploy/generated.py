"""Files that are written from the code, and checked against it: one command line for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def write_or_check(
    documents: Callable[[], Mapping[Path, str]], module: str, description: str | None, argv: Sequence[str] | None
) -> int:
    """Write the documents, or with ``--check`` see whether they are what the code says.

    Args:
        documents: gives the texts by path.
        module: that is run, e.g. ``deploy.conformance``.
        description: for its help.
        argv: command line; None takes the process's.

    Returns:
        Exit status: 1 where one is not what the code says.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--check", action="store_true", help="only say whether the files are what the code says")
    check = parser.parse_args(argv).check
    status = 0
    for path, text in documents().items():
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
        elif path.exists() and path.read_text(encoding="utf-8") == text:
            print(f"{path.name} is up to date")
        else:
            print(f"{path.name} is out of date: run python -m {module}")
            status = 1
    return status
