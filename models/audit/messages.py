"""Audit messages in the form of DICOM PS3.15 A.5.1, and their XML. What each says is in `models.audit.events`.

The XML is ASCII in one line, so that it is a line of a file as well as the MSG of a syslog message. Values may come
from the network: what XML cannot hold is replaced, and all else is escaped by the serialiser.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from ipaddress import ip_address
from typing import Final
from xml.etree import ElementTree

DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'
_NOT_XML: Final = re.compile("[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 section 2.2 forbids, and its white space, which a reader of attributes would normalise."""


class Action(StrEnum):
    """EventActionCode (PS3.15 A.5.1)."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.1); of a security alert a severity (A.5.3.11)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


class ObjectType(IntEnum):
    """ParticipantObjectTypeCode."""

    PERSON = 1
    SYSTEM = 2


class ObjectRole(IntEnum):
    """ParticipantObjectTypeCodeRole (PS3.15 A.5.1.2.2)."""

    PATIENT = 1
    REPORT = 3
    SECURITY_RESOURCE = 13
    QUERY = 24


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value."""

    value: str
    system: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Participant:
    """Who or what took part (ActiveParticipant).

    Attributes:
        user_id: process id, AE title, URI or user, see `models.audit.events`.
        network: host name or IP address.
        media: what data went to, where that is a medium and no peer.
    """

    user_id: str
    is_requestor: bool
    roles: tuple[Code, ...] = ()
    alternative_id: str | None = None
    name: str | None = None
    network: str | None = None
    media: Code | None = None


@dataclass(frozen=True, slots=True)
class ParticipantObject:
    """What it was about (ParticipantObjectIdentification).

    Attributes:
        query: in place of a name.
        details: name and value each.
        sop_classes: number of instances by SOP Class UID.
    """

    object_id: str
    id_type: Code
    type: ObjectType
    role: ObjectRole | None
    name: str = ""
    query: str | None = None
    details: tuple[tuple[str, str], ...] = ()
    sop_classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event.

    Attributes:
        at: when it was, aware.
    """

    event: Code
    action: Action
    outcome: Outcome
    participants: tuple[Participant, ...]
    types: tuple[Code, ...] = ()
    objects: tuple[ParticipantObject, ...] = ()
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports (AuditSourceIdentification)."""

    source_id: str
    enterprise_site_id: str | None = None


def to_xml(message: AuditMessage, source: AuditSource) -> bytes:
    """Encode a message, with XML declaration and without a line end."""
    root = ElementTree.Element("AuditMessage")
    told = _element(
        root,
        "EventIdentification",
        EventActionCode=message.action.value,
        EventDateTime=message.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=str(message.outcome.value),
    )
    _code(told, "EventID", message.event)
    for kind in message.types:
        _code(told, "EventTypeCode", kind)
    for participant in message.participants:
        _participant(root, participant)
    reporter = _element(
        root,
        "AuditSourceIdentification",
        AuditEnterpriseSiteID=source.enterprise_site_id,
        AuditSourceID=source.source_id,
    )
    _element(reporter, "AuditSourceTypeCode", **{"csd-code": "4"})  # application server process (A.5.1.2.1)
    for each in message.objects:
        _object(root, each)
    encoded: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=False)
    return DECLARATION + encoded


def _participant(root: ElementTree.Element, of: Participant) -> None:
    node = _element(
        root,
        "ActiveParticipant",
        UserID=of.user_id,
        AlternativeUserID=of.alternative_id,
        UserName=of.name,
        UserIsRequestor="true" if of.is_requestor else "false",
        NetworkAccessPointID=of.network,
        NetworkAccessPointTypeCode=None if of.network is None else _network_type(of.network),
    )
    for role in of.roles:
        _code(node, "RoleIDCode", role)
    if of.media is not None:
        _code(_element(node, "MediaIdentifier"), "MediaType", of.media)


def _network_type(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        return "1"  # machine name
    return "2"  # IP address


def _object(root: ElementTree.Element, of: ParticipantObject) -> None:
    node = _element(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=of.object_id,
        ParticipantObjectTypeCode=str(of.type.value),
        ParticipantObjectTypeCodeRole=None if of.role is None else str(of.role.value),
    )
    _code(node, "ParticipantObjectIDTypeCode", of.id_type)
    if of.query is None:
        _element(node, "ParticipantObjectName").text = _legal(of.name)
    else:
        _element(node, "ParticipantObjectQuery").text = _base64(of.query)
    for name, value in of.details:
        _element(node, "ParticipantObjectDetail", type=name, value=_base64(value))
    if of.sop_classes:
        described = _element(node, "ParticipantObjectDescription")
        for uid, count in sorted(of.sop_classes.items()):
            _element(described, "SOPClass", UID=uid, NumberOfInstances=str(count))


def _element(parent: ElementTree.Element, name: str, **attributes: str | None) -> ElementTree.Element:
    given = {key: _legal(value) for key, value in attributes.items() if value is not None}
    return ElementTree.SubElement(parent, name, given)


def _code(parent: ElementTree.Element, name: str, code: Code) -> None:
    told = {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning}
    _element(parent, name, **told)


def _legal(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
