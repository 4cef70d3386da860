"""Encodes SR content items as explicit VR little endian (PS3.5 7.1.2, 7.5), with the few VRs that they use.

pydicom would do it as well, at ten times the cost: a report of a spine has thousands of elements, and most items of its
groups are the same object again and again. Such are encoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

_LONG: Final = frozenset({"SQ", "UC", "UT"})
"""Value representations with a length of four bytes, of those that are known here."""
_TEXT: Final = frozenset({"CS", "DA", "DS", "LO", "SH", "UC", "UI", "UT"})
_ITEM: Final = 0xE000FFFE
"""Tag of an item, its two halves as they lie."""


def encoded_sequence(keyword: str, items: Iterable[Dataset]) -> RawDataElement:
    """Give a sequence as pydicom keeps one that it has read and nobody has looked into.

    Args:
        keyword: of the sequence.
        items: whose text is ASCII.

    Raises:
        ValueError: an element is of a value representation that is not known here, or not ASCII.
    """
    value = _items(items, {})
    return RawDataElement(Tag(keyword), "SQ", len(value), value, 0, False, True)


def move_content(root: Dataset, dataset: Dataset) -> None:
    """Move the root of a content tree into the dataset of its document; the tree below it is encoded.

    Raises:
        ValueError: as `encoded_sequence`.
    """
    content = encoded_sequence("ContentSequence", root.ContentSequence)
    del root.ContentSequence
    dataset.update(root)
    dataset[content.tag] = content


def _items(items: Iterable[Dataset], known: dict[int, bytes]) -> bytes:
    encoded = []
    for item in items:
        data = known.get(id(item))
        if data is None:
            # Sorted by tag; a content item has no groups but standard ones.
            content = b"".join(_element(element, known) for element in sorted(item.values(), key=_tag))
            data = known[id(item)] = struct.pack("<LL", _ITEM, len(content)) + content
        encoded.append(data)
    return b"".join(encoded)


def _tag(element: Any) -> int:
    return int(element.tag)


def _element(element: Any, known: dict[int, bytes]) -> bytes:
    vr = str(element.VR)
    value = _items(element.value, known) if vr == "SQ" else _encoders(vr)(element.value)
    header = struct.pack("<HH2s", element.tag >> 16, element.tag & 0xFFFF, vr.encode())
    if vr in _LONG:
        return header + struct.pack("<HL", 0, len(value)) + value
    if len(value) > 0xFFFF:
        raise ValueError(f"{vr} of {len(value)} bytes")
    return header + struct.pack("<H", len(value)) + value


def _encoders(vr: str) -> Callable[[Any], bytes]:
    if vr in _TEXT:
        return _uid if vr == "UI" else _text
    try:
        return _NUMBERS[vr]
    except KeyError:
        raise ValueError(f"{vr} is not known here") from None


def _text(value: Any) -> bytes:
    data = "\\".join(map(str, value)) if isinstance(value, MultiValue | list) else str(value)
    return data.encode("ascii") + b" " * (len(data) % 2)


def _uid(value: Any) -> bytes:
    data = str(value)
    return data.encode("ascii") + b"\x00" * (len(data) % 2)


def _packed(form: str) -> Callable[[Any], bytes]:
    def pack(value: Any) -> bytes:
        values = list(value) if isinstance(value, MultiValue | list) else [value]
        return struct.pack(f"<{len(values)}{form}", *values)

    return pack


_NUMBERS: Final[Mapping[str, Callable[[Any], bytes]]] = {"FD": _packed("d"), "FL": _packed("f"), "US": _packed("H")}
