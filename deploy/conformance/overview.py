"""Sections 1 and 3 of the statement: what there is at a glance, and the introduction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.charset import python_encoding

from deploy.conformance.contexts import Negotiation, accepted, proposed
from deploy.conformance.markdown import named, paragraphs, table, uid_cells
from deploy.conformance.objects import TITLES
from deploy.conformance.samples import samples, samples_of
from models.identity import DISCLAIMER, VERSION
from models.records.outputs import OutputKind

COVER: Final = f"""\
# DICOM conformance statement of radstream {VERSION}

Written by `python -m deploy.conformance` from the tables and the builders in the code; change those, not this file.
Structure: DICOM PS3.2, annex N, edition 2026. **{DISCLAIMER}.**"""

_SUMMARY: Final = """\
## 1 Overview

radstream receives radiographs from modalities and archives, analyses them by neural networks, and returns what was
found as DICOM objects of the same study: pictures, structured reports, parametric maps, presentation states. It is
no archive and no viewer: instances are kept until they are analysed, and nothing can be queried or retrieved from
it. Objects of other kinds than radiographs are accepted where this is configured, and not analysed."""

INTRODUCTION: Final = """\
## 3 Introduction

### 3.1 Revision history

The statement is that of the version on its title; `CHANGELOG.md` and the history of the repository say what changed.

### 3.2 Audience

Administrators of PACS, of modalities and of networks, and those who integrate or test systems. Readers are expected to
know DICOM.

### 3.3 Remarks

Conformance alone does not ensure that two systems work together. It is the reader's duty to compare this statement
with that of the peer, and to test both. Passing on of results to clinical use is not intended: this is research
software.

### 3.4 Terms and definitions

*instance*: a SOP Instance that was received. *output*: an object that radstream made. *destination*: an application
entity or origin server that outputs are sent to. *spool*: the directory of instances that are not yet finished.
*task*: what a network answers. *version*: one trained network with all that belongs to it. The terms of DICOM are
those of PS3.1.

### 3.5 Abbreviations

AE application entity, DIMSE DICOM Message Service Element, GSPS Grayscale Softcopy Presentation State, SCP service
class provider, SCU service class user, SR structured report, STOW store over the web, TID template identifier, VR
value representation.

### 3.6 References

DICOM PS3.1 to PS3.18, edition 2026; BCP 195 (RFC 8996, RFC 9325); RFC 6750; RFC 7617; RFC 9110."""


def render() -> str:
    """Give section 1."""
    return paragraphs(
        _SUMMARY,
        "### 1.1 Content and transfer",
        "Objects that are created:",
        table(("object", "SOP Class", "UID", "created", "sent by"), _created()),
        _templates(),
        "Objects that are received are not changed and not passed on. What is received:",
        table(("SOP Class", "UID"), _classes(each for each in accepted() if _is_storage(each))),
        "With `accept_all_storage`, those of annex A.F as well.",
        "### 1.2 DIMSE services",
        table(("SOP Class", "UID", "SCU", "SCP"), _roles()),
        "### 1.3 DICOM Web Services",
        table(
            ("service", "transaction", "user agent", "origin server"),
            [
                ("Studies", "Store (STOW-RS)", "yes", "yes"),
                ("Studies", "Retrieve (WADO-RS), Search (QIDO-RS), Delete", "no", "no"),
                ("URI, Worklist, Non-Patient Instance, Storage Commitment and others", "all", "no", "no"),
            ],
        ),
        "### 1.4 Media services",
        "None.",
        "### 1.5 Real-Time Video service",
        "None.",
        "### 1.6 De-identification profiles",
        "None. Outputs have the identity that their source has.",
        "### 1.7 Specific Character Sets",
        "Read, and kept in outputs as in the source: "
        + ", ".join(f"`{term}`" for term in python_encoding if term)
        + ".",
    )


def _created() -> Iterator[tuple[str, str, str, str, str]]:
    for kind in OutputKind:
        found = samples_of(kind)
        uid = str(found[0].dataset.SOPClassUID) if found else ""
        yield TITLES[kind], *(uid_cells(uid) if uid else ("", "")), "yes" if uid else "not by this version", _sent(uid)


def _sent(uid: str) -> str:
    return "C-STORE, STOW-RS" if uid in {each.abstract_syntax for each in proposed()} else "STOW-RS"


def _templates() -> str:
    templates = {
        str(item.TemplateIdentifier)
        for sample in samples()
        for item in sample.dataset.get("ContentTemplateSequence") or ()
    }
    return f"#### 1.1.1 Structured Reporting root template IDs\n\nTID {', '.join(sorted(templates))}, of PS3.16."


def _is_storage(each: Negotiation) -> bool:
    return "Storage" in named(each.abstract_syntax) and "Commitment" not in named(each.abstract_syntax)


def _classes(negotiations: Iterable[Negotiation]) -> Iterator[tuple[str, str]]:
    for uid in dict.fromkeys(each.abstract_syntax for each in negotiations):
        yield uid_cells(uid)


def _roles() -> Iterator[tuple[str, str, str, str]]:
    every = [*accepted(), *proposed()]
    for uid in dict.fromkeys(each.abstract_syntax for each in every):
        of = [each for each in every if each.abstract_syntax == uid]
        roles = {role: sorted({str(each.entity) for each in of if role in each.role}) for role in ("SCU", "SCP")}
        yield *uid_cells(uid), ", ".join(roles["SCU"]) or "no", ", ".join(roles["SCP"]) or "no"
