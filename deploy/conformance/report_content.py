"""Annex B of the statement: the content trees of the structured reports, merged over all samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from deploy.conformance.markdown import paragraphs, table
from deploy.conformance.samples import Sample, samples
from models.records.outputs import OutputKind

_MOST_VALUES: Final = 6
_HEADER: Final = ("content item", "relationship", "value type", "number", "value")
_INTRODUCTION: Final = """\
## Annex A.B Structured Report content encoding

Every report is UNVERIFIED, as no person has seen it, and COMPLETE, but for the summary of a study of which instances
wait for analysis, which is PARTIAL. All text is ASCII, in English. *number* is how many of
an item its parent has. Numbers are written as Numeric Value and, exactly, as Floating Point Value. Coordinates are
those of the source image, from the top left corner of its first pixel (PS3.3 C.18.6.1.1). Items that refer to
anatomy name the patient's side, never that of the image, unless the item says so. Values that are listed are those of
the samples; all codes are in annex A.E."""


@dataclass(slots=True)
class _Item:
    """One place of the tree.

    Attributes:
        parents: how many parents there were.
        counts: how many of it a parent had that had any.
    """

    relationship: str
    value_type: str
    name: str
    parents: int = 0
    counts: list[int] = field(default_factory=list)
    values: dict[str, None] = field(default_factory=dict)
    children: dict[tuple[str, str, str], _Item] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """Least and most that a parent has."""
        least = min(self.counts) if len(self.counts) == self.parents else 0
        most = max(self.counts)
        return str(most) if least == most else f"{least} to {'n' if most > 1 else most}"


def render() -> str:
    """Give the annex."""
    parts = [_INTRODUCTION]
    by_content: dict[str, list[Sample]] = {}
    for sample in samples():
        if "ContentSequence" in sample.dataset:
            by_content.setdefault(sample.content, []).append(sample)
    for number, (content, found) in enumerate(by_content.items(), 1):
        parts += [f"### A.B.{number} Report of: {content}", _report(found)]
    return paragraphs(*parts)


def _report(found: list[Sample]) -> str:
    root = _Item("", "CONTAINER", _concept(found[0].dataset))
    template = found[0].dataset.ContentTemplateSequence[0]
    for sample in found:
        root.parents += 1
        root.counts.append(1)
        root.values[_value(sample.dataset, sample)] = None
        _merge(root, sample.dataset, sample)
    return paragraphs(
        f"Template {template.MappingResource} TID {template.TemplateIdentifier}.", table(_HEADER, _rows(root, 0))
    )


def _merge(item: _Item, dataset: Dataset, sample: Sample) -> None:
    """Add the children of one content item to those that were there before."""
    groups: dict[tuple[str, str, str], list[Dataset]] = {}
    for child in dataset.get("ContentSequence") or ():
        key = (str(child.RelationshipType), str(child.get("ValueType", "by reference")), _concept(child))
        groups.setdefault(key, []).append(child)
    for key, members in groups.items():
        merged = item.children.setdefault(key, _Item(*key))
        merged.counts.append(len(members))
        for member in members:
            merged.values[_value(member, sample)] = None
            _merge(merged, member, sample)


def _rows(item: _Item, depth: int) -> Iterator[tuple[str, str, str, str, str]]:
    name = f"{'>' * depth}{' ' if depth else ''}{item.name}"
    yield name, item.relationship, item.value_type, item.number, _values(item)
    for child in item.children.values():
        child.parents = sum(item.counts)
        yield from _rows(child, depth + 1)


def _values(item: _Item) -> str:
    values = [value for value in item.values if value]
    if len(values) > _MOST_VALUES:
        return "codes of annex A.E" if item.value_type == "CODE" else "AUTO"
    if item.value_type in ("TEXT", "UIDREF") and len(values) > 1:
        return "AUTO"
    return ", ".join(values)


def _concept(dataset: Dataset) -> str:
    names = dataset.get("ConceptNameCodeSequence")
    return _code(names[0]) if names else "(no name)"


def _code(item: Dataset) -> str:
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return f"{item.CodeMeaning} ({value}, {item.CodingSchemeDesignator})"


def _value(dataset: Dataset, sample: Sample) -> str:
    """Say what an item holds, as far as that is not of one report alone."""
    match dataset.get("ValueType"):
        case "CODE":
            return _code(dataset.ConceptCodeSequence[0])
        case "NUM":
            units = dataset.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
            return f"unit {units.CodeValue}"
        case "TEXT":
            return f"`{dataset.TextValue}`"
        case "DATE" | "TIME" | "DATETIME":
            return "AUTO"
        case "UIDREF":
            return "`" + str(dataset.UID) + "`"
        case "SCOORD" | "SCOORD3D":
            return str(dataset.GraphicType)
        case "IMAGE" | "COMPOSITE":
            reference = dataset.ReferencedSOPSequence[0]
            if str(reference.ReferencedSOPInstanceUID).startswith(sample.source.SOPInstanceUID):
                return "an instance of the study" if sample.kind is OutputKind.STUDY_SUMMARY else "the source"
            return UID(reference.ReferencedSOPClassUID).name
        case "CONTAINER":
            template = dataset.get("ContentTemplateSequence")
            return f"TID {template[0].TemplateIdentifier}" if template else ""
        case _:
            return ""
