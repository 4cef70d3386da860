"""Annexes D and E of the statement: where attributes come from, and which codes are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from pydicom.datadict import dictionary_description, dictionary_is_retired, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from deploy.conformance.markdown import paragraphs, table, tag_text
from deploy.conformance.samples import COPIED, samples
from models.spine.measures import Implausible
from worker.outputs import report_codes, summary_codes
from worker.outputs.copied_attributes import ENUMERATED, IDENTIFYING, Presence
from worker.spine_finding import ReviewReason

_MAPPING = """\
## Annex A.D Mapping of attributes

Outputs copy these attributes of their source as bytes, without decoding them, so that a PACS finds what it knows. A
value that PS3.5 or PS3.3 forbids is left out, and empty where the attribute must be there; but what identifies patient
and study is copied whatever it is, because a shortened identifier may be another patient's. Of sequences the text of
the items is copied, private attributes are not. Laterality and orientation are copied and never inferred. Nothing is
taken from a worklist, from HL7 messages or from FHIR resources."""

_CODES = f"""\
## Annex A.E Code set usage

Concepts are coded by DCM, SNOMED CT and UCUM where PS3.16 or they have a code, else by the private scheme
`{report_codes.SCHEME}`. A code, once used, keeps its meaning. Two more kinds of private codes can occur: labels of a
two-class network that the operator adds, and vertebrae V1, V2 and so on from the top, and discs between them, where
their levels are not known. Code values of more than 16 characters are Long Code Values."""


def render() -> str:
    """Give both annexes."""
    found = used_codes()
    private = [code for code in found if code.scheme_designator == report_codes.SCHEME]
    standard = [code for code in found if code.scheme_designator != report_codes.SCHEME]
    header = ("scheme", "code", "meaning")
    return paragraphs(
        _MAPPING,
        table(("attribute", "tag", "VR", "in outputs", "values"), _copied()),
        _CODES,
        f"### A.E.1 Private coding scheme {report_codes.SCHEME}",
        _scheme(),
        table(("code", "meaning"), ((f"`{code.value}`", code.meaning) for code in private)),
        "### A.E.2 Codes of standard schemes",
        table(header, ((code.scheme_designator, f"`{code.value}`", code.meaning) for code in standard)),
    )


def used_codes() -> tuple[Code, ...]:
    """Give every code that an output may hold, by scheme and value."""
    in_objects = chain.from_iterable(_codes_in(sample.dataset) for sample in samples())
    reviewed = map(report_codes.reviewed_for, chain(ReviewReason, Implausible))
    named = chain.from_iterable(_codes_among(list(vars(module).values())) for module in (report_codes, summary_codes))
    every = chain(in_objects, reviewed, report_codes.made_codes(), named)
    found = {(code.scheme_designator, code.value): code for code in every}
    return tuple(found[key] for key in sorted(found))


def _codes_among(value: object) -> Iterator[Code]:
    """Give the codes among constants, and within the tables and tuples that are among them."""
    if isinstance(value, Code):
        yield value
    elif isinstance(value, Mapping):
        yield from _codes_among(list(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _codes_among(each)


def _codes_in(dataset: Dataset) -> Iterator[Code]:
    for element in dataset:
        if element.VR != "SQ" or element.keyword in COPIED:
            continue
        for item in element.value:
            if "CodingSchemeDesignator" in item and "CodeMeaning" in item:
                value = item.get("CodeValue") or item.get("LongCodeValue")
                yield Code(str(value), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
            yield from _codes_in(item)


def _copied() -> Iterator[tuple[str, str, str, str, str]]:
    for keyword in sorted(COPIED, key=lambda keyword: tag_for_keyword(keyword) or 0):
        tag = Tag(keyword)
        name = dictionary_description(tag) + (" (retired)" if dictionary_is_retired(tag) else "")
        presence = "always, may be empty" if COPIED[keyword] is Presence.MAY_BE_EMPTY else "where the source has it"
        values = "any, identifies" if keyword in IDENTIFYING else "valid ones"
        if keyword in ENUMERATED:
            values = ", ".join(f"`{term}`" for term in sorted(ENUMERATED[keyword]))
        yield name, tag_text(tag), dictionary_VR(tag), presence, values


def _scheme() -> str:
    item = report_codes.scheme_identification()
    return "\n".join(f"- {element.name}: {element.value}" for element in item)
