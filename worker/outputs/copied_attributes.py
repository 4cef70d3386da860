"""Patient and study attributes of a source, copied into an output as the very bytes that the source has.

A PACS files our objects by these values, so they must be what it knows: nothing is decoded and encoded again. Values
that the standard forbids are left out, empty where the standard wants the attribute; but what identifies the patient
and the study is copied whatever it is, because a shortened identifier may be that of another patient. Where the bytes
do not fit the Specific Character Set that the source declares, one is declared that they do fit.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, default_encoding, encode_string, python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, STR_VR, TEXT_VR_DELIMS, PersonName, validate_value

from models.pixels.attributes import read_items


class Presence(IntEnum):
    """Type of an attribute, PS3.5 section 7.4."""

    MAY_BE_EMPTY = 2
    OPTIONAL = 3


IDENTIFYING: Final = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"})

ENUMERATED: Final[Mapping[str, frozenset[str]]] = {
    "PatientSex": frozenset({"M", "F", "O"}),
    "QualityControlSubject": frozenset({"YES", "NO"}),
    "Laterality": frozenset({"R", "L"}),
    "ImageLaterality": frozenset({"R", "L", "U", "B"}),
}
_PATTERNS: Final[Mapping[str, re.Pattern[str]]] = {
    "PatientOrientation": re.compile(r"[APRLHF]{1,3}\\[APRLHF]{1,3}"),
    "TimezoneOffsetFromUTC": re.compile(r"[+-](0\d|1[0-4])[0-5]\d"),
}
_MULTI_VALUED: Final = frozenset({"OtherPatientIDs", "PatientOrientation", "LossyImageCompressionRatio"}) | {
    "LossyImageCompressionMethod"
}
_MISSPELT: Final = re.compile(r"ISO[ _-]?(2022)?[ _-]*IR[ _-]*(\d+)")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_COPIED_IN_ITEMS: Final = STR_VR | {"SQ"}
_LONGEST_VALUE: Final = 0xFFFE
"""Bytes that the length field of an explicit-VR text element can tell."""

_DEEPEST: Final = 3


class SourceAttributes:
    """The copyable attributes of one source dataset.

    Attributes:
        character_set: values of Specific Character Set that the copied bytes are in; none for the default repertoire.
    """

    def __init__(self, header: Dataset, copied: Iterable[str]) -> None:
        self._header = header
        declared = _declared_character_set(header)
        texts = list(_texts(header, copied, convert_encodings(list(declared))))
        self.character_set = _fitting_character_set(declared, texts)
        self._encodings = convert_encodings(list(self.character_set))

    def prepare(self, target: Dataset) -> None:
        """Declare the character set in `target` and keep pydicom from decoding what is copied into it."""
        if self.character_set:
            target.SpecificCharacterSet = list(self.character_set)
        target.set_original_encoding(False, True, self._encodings if self.character_set else default_encoding)

    def copy(self, target: Dataset, attributes: Mapping[str, Presence]) -> None:
        """Copy `attributes` by keyword; those of type 2 are there afterwards, empty if they have to be."""
        for keyword, presence in attributes.items():
            self._copy_one(self._header, target, keyword, depth=0)
            if keyword not in target and presence is Presence.MAY_BE_EMPTY:
                setattr(target, keyword, None)

    def text(self, keyword: str) -> str:
        """Give a valid value as text, else an empty string."""
        data = _raw_bytes(self._header, Tag(keyword), self._encodings)
        text = None if data is None else self._decode(data, dictionary_VR(keyword))
        return text if text is not None and self._is_valid(keyword, dictionary_VR(keyword), text) else ""

    def _copy_one(self, source: Dataset, target: Dataset, keyword: str, depth: int) -> None:
        tag = Tag(keyword)
        if tag not in source:
            return
        vr = dictionary_VR(tag)
        if vr == "SQ":
            self._copy_items(source, target, keyword, depth)
            return
        data = _raw_bytes(source, tag, self._encodings)
        if data is None or len(data) > _LONGEST_VALUE:
            return
        text = self._decode(data, vr)
        if keyword not in IDENTIFYING and (text is None or not self._is_valid(keyword, vr, text)):
            return
        padding = b"\x00" if vr == "UI" else b" "
        data = data.rstrip(b"\x00 ") if not data.strip(b"\x00 ") else data
        data += padding * (len(data) % 2)
        target[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)

    def _copy_items(self, source: Dataset, target: Dataset, keyword: str, depth: int) -> None:
        items = []
        for item in read_items(source, keyword) if depth < _DEEPEST else []:
            copy = Dataset()
            # An item has no character set of its own to differ from, so its bytes are written as they are.
            copy.set_original_encoding(False, True, default_encoding)
            for inner in _text_keywords(item):
                self._copy_one(item, copy, inner, depth + 1)
            if len(copy):
                items.append(copy)
        if items:
            setattr(target, keyword, items)

    def _decode(self, data: bytes, vr: str) -> str | None:
        """Give the text of a value without its padding, None if the bytes are not in the character set."""
        data = data.rstrip(b"\x00 ")
        encodings = self._encodings if vr in CUSTOMIZABLE_CHARSET_VR else ["ascii"]
        try:
            if len(encodings) == 1:
                return data.decode(encodings[0])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return decode_bytes(data, encodings, TEXT_VR_DELIMS)
        except (UnicodeError, LookupError, UserWarning):
            return None

    def _is_valid(self, keyword: str, vr: str, text: str) -> bool:
        """PS3.5 section 6.2, and the values that PS3.3 enumerates."""
        values = text.split("\\") if vr not in ("ST", "LT", "UT") else [text]
        if not text or _CONTROL.search(text) or (len(values) > 1 and keyword not in _MULTI_VALUED):
            return False
        if keyword in ENUMERATED and text not in ENUMERATED[keyword]:
            return False
        if keyword in _PATTERNS and not _PATTERNS[keyword].fullmatch(text):
            return False
        if vr == "PN" and any(group.count("^") > 4 for group in text.split("=")):
            return False
        try:
            for value in values:
                validate_value(vr, value.strip(" ") if vr != "ST" else value, config.RAISE)
        except ValueError:
            return False
        return True


def _raw_bytes(source: Dataset, tag: BaseTag, encodings: list[str]) -> bytes | None:
    """Give the encoded value of a text element; None when there is none."""
    if tag not in source:
        return None
    element: object = source.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value
    value: object = getattr(element, "value", None)
    if value is None or isinstance(value, bytes):
        return value
    # Already decoded by someone who touched it: encode as the source would. Only names remember their bytes.
    parts = value if isinstance(value, MultiValue | list) else [value]
    return b"\\".join(_encode(part, encodings) for part in parts)


def _encode(part: object, encodings: list[str]) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(part, PersonName):
                return part.encode(encodings)
            return bytes(encode_string(str(part), encodings))
    except (UnicodeError, LookupError):
        return str(part).encode()


def _texts(source: Dataset, keywords: Iterable[str], encodings: list[str], depth: int = 0) -> Iterable[bytes]:
    """Give the encoded values that the character set concerns, those in sequences included."""
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in source:
            continue
        vr = dictionary_VR(tag)
        if vr in CUSTOMIZABLE_CHARSET_VR:
            yield _raw_bytes(source, Tag(tag), encodings) or b""
        elif vr == "SQ" and depth < _DEEPEST:
            for item in read_items(source, keyword):
                yield from _texts(item, _text_keywords(item), encodings, depth + 1)


def _text_keywords(item: Dataset) -> list[str]:
    """Keywords of an item that can be copied: text and sequences; binary values, private ones and charsets cannot."""
    keywords = []
    for element in item.values():
        tag = BaseTag(element.tag)
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            continue
        if tag != 0x00080005 and vr in _COPIED_IN_ITEMS:
            keywords.append(keyword_for_tag(tag))
    return keywords


def _declared_character_set(header: Dataset) -> tuple[str, ...]:
    """Give the declared terms, common misspellings corrected; none if one of them is unknown (PS3.3 C.12.1.1.2)."""
    data = _raw_bytes(header, Tag("SpecificCharacterSet"), ["latin_1"]) or b""
    terms = [_corrected(term.strip(" \x00")) for term in data.decode("latin_1").split("\\")]
    if len(terms) > 1:
        # Only code extensions can be combined; UTF-8, GB18030 and GBK stand alone.
        if _stands_alone(terms[0]):
            terms = terms[:1]
        else:
            terms = [re.sub(r"^ISO_IR ", "ISO 2022 IR ", term) for term in terms if not _stands_alone(term)]
    known = all(term in python_encoding for term in terms)
    return tuple(terms) if known and any(terms) else ()


def _corrected(term: str) -> str:
    match = _MISSPELT.fullmatch(term.upper())
    if match is None:
        return term.upper() if term.upper() in python_encoding else term
    return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"


def _stands_alone(term: str) -> bool:
    return term in ("ISO_IR 192", "GB18030", "GBK")


def _fitting_character_set(declared: tuple[str, ...], texts: list[bytes]) -> tuple[str, ...]:
    if len(declared) > 1:
        return declared
    if declared and all(_decodes(text, python_encoding[declared[0]]) for text in texts):
        return declared
    if all(text.isascii() for text in texts):
        return ()
    return ("ISO_IR 192",) if all(_decodes(text, "utf-8") for text in texts) else ("ISO_IR 100",)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
