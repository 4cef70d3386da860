"""What is seen of the attributes of an output over all samples: when they are there, and where their values come from.

The terms are those of PS3.2 annex N: ALWAYS, VNAP (value not always present), ANAP (attribute not always present),
EMPTY; and of sources FIXED, COPY, AUTO.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from deploy.conformance.samples import COPIED, Sample
from deploy.conformance.standard_modules import Path

_BINARY: Final = frozenset({"OB", "OW", "OF", "OD", "OL", "UN"})
_TERMS: Final = frozenset({"CS", "SH", "LO"})
_MOST_TERMS: Final = 8
_LONGEST: Final = 70
_UIDS_OF_SOURCE: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(slots=True)
class Observed:
    """One attribute, in all samples of a kind.

    Attributes:
        path: keywords down to it.
        parents: datasets or items that could have it.
        present: those that have it.
        values: text of each value that is not empty, with its sample.
        copies: keywords of the source whose value was the same, for each value; empty where there was none.
    """

    path: Path
    tag: int
    vr: str
    parents: int = 0
    present: int = 0
    values: list[tuple[Sample, str]] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    @property
    def presence(self) -> str:
        """When it is there."""
        if self.present < self.parents:
            return "ANAP"
        if len(self.values) == self.present:
            return "ALWAYS"
        return "VNAP" if self.values else "EMPTY"

    @property
    def is_copied_as_it_stands(self) -> bool:
        """Whether it is one of those that outputs copy, its items included."""
        return self.path[0] in COPIED

    @property
    def source(self) -> str:
        """Where its values come from, with those that are fixed."""
        distinct = {text for _, text in self.values}
        if not self.values:
            return ""
        if self.vr == "SQ":
            return "COPY" if self.is_copied_as_it_stands else ""
        if self.is_copied_as_it_stands:
            return "COPY"
        if len(distinct) == 1 and self._is_of_several_variants(*distinct):
            return f"FIXED {_quoted(distinct)}"
        if copied := {name for name in self.copies if name}:
            of = "" if copied == {self.path[-1]} else f" of {_quoted(copied)}"
            return f"COPY{of}" + ("" if all(self.copies) else ", else AUTO")
        return f"AUTO, one of {_quoted(distinct)}" if self._is_of_few_terms(distinct) else "AUTO"

    def _is_of_few_terms(self, distinct: set[str]) -> bool:
        if self.vr not in _TERMS or not 1 < len(distinct) <= _MOST_TERMS or max(map(len, distinct)) > _LONGEST:
            return False
        # A term that one sample alone has may be one of many; terms that follow the variant are values of its source.
        repeated = all(len({id(sample) for sample, text in self.values if text == term}) > 1 for term in distinct)
        return repeated and any(map(self._is_of_several_variants, distinct))

    def _is_of_several_variants(self, value: str) -> bool:
        return len({sample.variant for sample, text in self.values if text == value}) > 1


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in sorted(values))


def observe(samples: Iterable[Sample], without: frozenset[str]) -> list[Observed]:
    """Give the attributes of samples of one kind, each before what is nested in it.

    Args:
        samples: to look at.
        without: sequences that are not looked into.
    """
    found: dict[Path, Observed] = {}
    numbers: dict[Path, int] = {}
    for sample in samples:
        for parent, dataset in _datasets(sample.dataset, (), without):
            numbers[parent] = numbers.get(parent, 0) + 1
            for element in dataset:
                path = (*parent, _keyword(element))
                seen = found.setdefault(path, Observed(path, int(element.tag), element.VR))
                _note(seen, element, sample)
    for seen in found.values():
        seen.parents = numbers[seen.path[:-1]]
    return [found[path] for path in sorted(found, key=lambda path: _tags(path, found))]


def _tags(path: Path, found: dict[Path, Observed]) -> list[int]:
    return [found[path[:depth]].tag for depth in range(1, len(path) + 1)]


def _datasets(dataset: Dataset, path: Path, without: frozenset[str]) -> Iterator[tuple[Path, Dataset]]:
    yield path, dataset
    for element in dataset:
        keyword = _keyword(element)
        if element.VR == "SQ" and keyword not in without and keyword not in COPIED:
            for item in element.value:
                yield from _datasets(item, (*path, keyword), without)


def _note(seen: Observed, element: DataElement, sample: Sample) -> None:
    seen.present += 1
    text = _text(element)
    if text:
        seen.values.append((sample, text))
        seen.copies.append(_copied_from(element, text, sample.source))


def _copied_from(element: DataElement, text: str, source: Dataset) -> str:
    keyword = _keyword(element)
    if keyword in source and _text(source[keyword]) == text:
        return keyword
    if element.VR != "UI":
        return ""
    return next((name for name in _UIDS_OF_SOURCE if str(source[name].value) == text), "")


def _text(element: DataElement) -> str:
    value = element.value
    if element.VR in _BINARY:
        return f"{len(value)} bytes" if value else ""
    if element.VR == "SQ":
        return f"{len(value)} items" if value else ""
    if isinstance(value, MultiValue | list):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _keyword(element: DataElement) -> str:
    return keyword_for_tag(element.tag) or str(element.tag)
