"""Annex A of the statement: the objects that are created, attribute by attribute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.datadict import dictionary_description
from pydicom.uid import UID

from deploy.conformance.markdown import named, paragraphs, table, tag_text
from deploy.conformance.observations import Observed, observe
from deploy.conformance.samples import Sample, samples_of
from deploy.conformance.standard_modules import Module, module_of, modules_in
from models.records.outputs import OutputKind
from worker.outputs.common_modules import SERIES_NUMBERS

TITLES: Final = {
    OutputKind.SECONDARY_CAPTURE: "Secondary Capture of an overlay picture",
    OutputKind.STRUCTURED_REPORT: "Comprehensive 3D SR of a finding",
    OutputKind.PARAMETRIC_MAP: "Parametric Map of Grad-CAM maps",
    OutputKind.PRESENTATION_STATE: "Grayscale Softcopy Presentation State of a finding",
    OutputKind.STUDY_SUMMARY: "Comprehensive 3D SR that sums a study up",
}
_UNOPENED: Final = frozenset({"ContentSequence", "ContentTemplateSequence"})
_HEADER: Final = ("attribute", "tag", "VR", "type", "presence", "source and value")

_INTRODUCTION: Final = """\
## Annex A.A Information Object Definitions

The tables are made from objects: the builders of the product are given made sources that differ in every value, among
them one that has nothing but what an instance must have, and what comes out is compared.

| term | meaning |
| --- | --- |
| ALWAYS | the attribute is always there, with a value |
| VNAP | the attribute is always there, sometimes without a value |
| ANAP | the attribute is not always there |
| EMPTY | the attribute is always there, without a value |
| FIXED | the value is the same in every object |
| COPY | the value is that of the source instance, byte by byte where it is text |
| AUTO | the value is made by the product |

*type* is that of the module in PS3.3. Attributes of items are marked by `>`, as deep as they are nested; what is said
of them holds where there is an item. Presence of an attribute that comes from the source depends on the source.

### A.A.1 Information shared by all objects

Every object belongs to the study of its source, which it takes from the source with patient and order, whatever their
character set (annex A.D). It is in a series of its own for each source series, task and version of the network, and
its UIDs derive from the source's SOP Instance UID, task, version and kind: made again by the same version it is the
same object, made by another version it is another one in another series. Device UID derives from the hash of the
engine, and so changes with every retraining. Objects are created in Explicit VR Little Endian.

No object has standard extended or private attributes, private SOP Classes or private transfer syntaxes. The codes of
the private coding scheme are in annex A.E."""


def render() -> str:
    """Give the annex."""
    parts = [_INTRODUCTION, _series()]
    for number, kind in enumerate(OutputKind, 2):
        parts.append(f"### A.A.{number} {TITLES[kind]}")
        found = samples_of(kind)
        parts.append(_object(kind, found) if found else f"No object of kind `{kind}` is made by this version.")
    return paragraphs(*parts)


def _series() -> str:
    rows = []
    for kind in OutputKind:
        first = next(iter(samples_of(kind)), None)
        if first is not None:
            uid = str(first.dataset.SOPClassUID)
            rows.append((f"`{kind}`", named(uid), f"`{uid}`", first.dataset.Modality, str(SERIES_NUMBERS[kind])))
    return table(("kind", "SOP Class", "UID", "Modality", "Series Number"), rows)


def _object(kind: OutputKind, samples: Sequence[Sample]) -> str:
    observed = observe(samples, _UNOPENED)
    uid = str(samples[0].dataset.SOPClassUID)
    present = {each.path[0] for each in observed}
    modules = modules_in(uid, present)
    told = list(dict.fromkeys(sample.content for sample in samples))
    note = "\n\nThe content is described in annex A.B." if "ContentSequence" in present else ""
    return paragraphs(
        f"{UID(uid).name}, kind `{kind}` of `outputs` of a destination. Made of: {'; '.join(told)}.{note}",
        table(_HEADER, _rows(observed, modules)),
    )


def _rows(observed: Sequence[Observed], modules: Sequence[Module]) -> Iterator[Sequence[str]]:
    """Give the attributes by module, modules in the order of the IOD and last what no module has."""
    homes = {each.path[0]: module_of(each.path[0], modules) for each in observed if len(each.path) == 1}
    for module in [*modules, None]:
        inside = [each for each in observed if homes[each.path[0]] is module]
        if not inside:
            continue
        if module is not None:
            yield (f"**{module.name} Module** ({module.entity}, {module.usage})", "", "", "", "", "")
        else:
            yield ("**Retired**, kept where the source has it", "", "", "", "", "")
        for each in inside:
            yield _row(each, module)


def _row(each: Observed, module: Module | None) -> Sequence[str]:
    depth = len(each.path) - 1
    kind = module.types.get(each.path, "") if module is not None else ""
    name = dictionary_description(each.tag)
    return (f"{'>' * depth}{' ' if depth else ''}{name}", tag_text(each.tag), each.vr, kind, each.presence, each.source)
