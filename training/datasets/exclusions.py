"""Images that a person leaves out of a set: named one by one, or listed in a text file."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError

LIST_SUFFIX: Final = ".txt"


def read_exclusions(given: Iterable[str]) -> tuple[str, ...]:
    """Give the names to leave out, each once, in order.

    Args:
        given: names, and paths of text files (``*.txt``) with a name per line; empty lines and those that begin with
            ``#`` are passed over.

    Raises:
        ConfigurationError: a text file cannot be read.
    """
    names = [name for each in given for name in (_listed(Path(each)) if each.endswith(LIST_SUFFIX) else [each])]
    return tuple(dict.fromkeys(names))


def check_exclusions(given: Iterable[str], excluded: Collection[str]) -> None:
    """Refuse names that a set does not have: one that is misspelt would stay in.

    Args:
        given: names to leave out.
        excluded: those that were left out.

    Raises:
        ConfigurationError: there are others.
    """
    unknown = sorted(set(given) - set(excluded))
    if unknown:
        raise ConfigurationError(f"--exclude: the table names no {', '.join(unknown)}")


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a list of names in UTF-8") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
