"""Values of a dataset that may be malformed: each is given, or None; nothing is raised and nothing is printed.

pydicom decodes an element when it is first touched and then raises or warns in many ways, quoting the value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence


def read_value(dataset: Dataset, keyword: str) -> Any | None:
    """Give the value of `keyword` as pydicom converts it; None when absent, empty or malformed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = dataset.get(keyword)
    except Exception:  # a converter fails in whatever way the bytes lead it to; the value cannot be had
        return None
    return None if value is None or value == "" else value


def read_number(dataset: Dataset, keyword: str) -> float | None:
    """Give the first value of `keyword` as a finite number, else None."""
    value = read_value(dataset, keyword)
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if len(value) else None
    try:
        number = float(value)  # type: ignore[arg-type]  # None and other types end in TypeError
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_integer(dataset: Dataset, keyword: str) -> int | None:
    """Give the first value of `keyword` as a whole number, else None."""
    number = read_number(dataset, keyword)
    return None if number is None else int(number)


def read_text(dataset: Dataset, keyword: str) -> str | None:
    """Give the value of `keyword` as stripped text, several values joined by a backslash; None when there is none."""
    value = read_value(dataset, keyword)
    if value is None or isinstance(value, Sequence | bytes):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = "\\".join(str(part) for part in value)
    return str(value).strip(" \x00") or None


def read_items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Give the items of the sequence `keyword`, none when it is absent or malformed."""
    value = read_value(dataset, keyword)
    return list(value) if isinstance(value, Sequence) else []
