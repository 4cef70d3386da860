"""Every audit message is one that DICOM PS3.15 A.5.1 allows, and says what its table of A.5.3 wants."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from lxml import etree

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import SCHEMA, Heard

from models.audit import events
from models.audit.events import Patient, Process, StudyTouched, application_entity
from models.audit.messages import AuditMessage, AuditSource, Outcome, Participant, to_xml

SOURCE = AuditSource("radstream@host", "St. Elsewhere")
SCP = Process("scp", "RADSTREAM", 4711, "host.example")
PERSON = Participant("jane@host.example", True, (events.APPLICATION,))
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
STUDY = StudyTouched("1.2.3", {DX: 2, CR: 1}, Patient("P1"))
PEER = application_entity("CR1", "10.0.0.5", events.SOURCE, is_requestor=True)
PACS = application_entity("PACS", "pacs.example", events.DESTINATION, is_requestor=False)


def heard(message: AuditMessage) -> Heard:
    return Heard(to_xml(message, SOURCE))


@pytest.mark.parametrize(
    ("message", "event", "types", "action", "outcome"),
    [
        (events.application_activity(SCP, starts=True), "Application Activity", ["Application Start"], "E", "0"),
        (events.application_activity(SCP, starts=False), "Application Activity", ["Application Stop"], "E", "0"),
        (events.begin_transferring(PEER, PACS, STUDY), "Begin Transferring DICOM Instances", [], "E", "0"),
        (events.instances_transferred(PEER, PACS, STUDY), "DICOM Instances Transferred", [], "R", "0"),
        (
            events.instances_transferred(PEER, PACS, STUDY, Outcome.SERIOUS_FAILURE),
            "DICOM Instances Transferred",
            [],
            "R",
            "8",
        ),
        (events.instances_accessed(SCP, PERSON, STUDY), "DICOM Instances Accessed", [], "R", "0"),
        (events.study_deleted(SCP, PERSON, STUDY), "DICOM Study Deleted", [], "D", "0"),
        (events.data_export(SCP, PERSON, "file:///a.csv", "results", 3, [STUDY]), "Export", [], "R", "0"),
        (events.security_alert(SCP, PEER, "who is it?"), "Security Alert", ["Node Authentication"], "E", "4"),
    ],
)
def test_an_event_has_the_codes_of_its_table(
    message: AuditMessage, event: str, types: list[str], action: str, outcome: str
) -> None:
    told = heard(message)
    assert (told.event, told.types, told.head) == (event, types, {"action": action, "outcome": outcome})
    requestors = [each for each in told.root.iter("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    assert len(requestors) <= 1  # A.5.2: the system shall not identify several


def test_a_message_is_written_as_the_standard_spells_it() -> None:
    at = datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=1)))
    start = events.application_activity(SCP, starts=True)
    message = AuditMessage(start.event, start.action, start.outcome, start.participants, start.types, at=at)
    assert to_xml(message, SOURCE).decode("ascii") == (
        '<?xml version="1.0" encoding="UTF-8"?><AuditMessage>'
        '<EventIdentification EventActionCode="E" EventDateTime="2026-01-31T08:30:00.000Z" EventOutcomeIndicator="0">'
        '<EventID csd-code="110100" codeSystemName="DCM" originalText="Application Activity" />'
        '<EventTypeCode csd-code="110120" codeSystemName="DCM" originalText="Application Start" />'
        "</EventIdentification>"
        '<ActiveParticipant UserID="4711" AlternativeUserID="AETITLES=RADSTREAM" UserName="radstream scp"'
        ' UserIsRequestor="false" NetworkAccessPointID="host.example" NetworkAccessPointTypeCode="1">'
        '<RoleIDCode csd-code="110150" codeSystemName="DCM" originalText="Application" /></ActiveParticipant>'
        '<AuditSourceIdentification AuditEnterpriseSiteID="St. Elsewhere" AuditSourceID="radstream@host">'
        '<AuditSourceTypeCode csd-code="4" /></AuditSourceIdentification></AuditMessage>'
    )


def test_a_transfer_names_both_ends_the_study_its_classes_and_the_patient() -> None:
    told = heard(events.instances_transferred(PEER, PACS, STUDY))
    assert told.participant("110153") == {
        "UserID": "CR1",
        "AlternativeUserID": "AETITLES=CR1",
        "UserIsRequestor": "true",
        "NetworkAccessPointID": "10.0.0.5",
        "NetworkAccessPointTypeCode": "2",
    }
    assert told.participant("110152")["NetworkAccessPointTypeCode"] == "1"
    assert told.studies() == {"1.2.3": {CR: 1, DX: 2}}
    assert told.patients() == ["P1"]


def test_without_a_patient_there_is_no_patient_object() -> None:
    told = heard(events.instances_transferred(PEER, PACS, StudyTouched("1.2.3", {CR: 1}, None)))
    assert told.patients() == []
    assert told.root.xpath("//*[@ParticipantObjectTypeCode='1']") == []


def test_a_dataset_without_a_study_is_told_by_its_class() -> None:
    told = heard(events.instances_transferred(PEER, PACS, StudyTouched(None, {CR: 2}, None)))
    assert told.studies() == {}
    (of_class,) = told.objects("110181")
    assert of_class.get("ParticipantObjectID") == CR


def test_an_export_names_person_process_and_target_and_repeats_no_patient() -> None:
    again = StudyTouched("1.2.4", {}, Patient("P1"))
    told = heard(events.data_export(SCP, PERSON, "file:///a.csv", "results --since 2026", 7, [STUDY, again]))
    assert told.participant("110154")["UserID"] == "file:///a.csv"
    assert (told.detail("rows"), told.patients(), list(told.studies())) == ("7", ["P1"], ["1.2.3", "1.2.4"])


def test_an_alert_counts_what_came_in_between() -> None:
    told = heard(events.security_alert(SCP, PEER, "no", 5))
    assert told.detail("Alert Description") == "no; 5 times since the last alert of this kind"
    (node,) = told.objects("110182")
    assert node.get("ParticipantObjectID") == "10.0.0.5"


@pytest.mark.parametrize(
    "hostile", ["\"><x/>&amp;'<!--", "a\0b\x1b[2J\x07", "\ud800\udfff￾", "Müller\r\n\tÉ", "😀" * 64]
)
def test_hostile_titles_and_identifiers_stay_values(hostile: str) -> None:
    peer = application_entity(hostile, "10.0.0.5", events.SOURCE, is_requestor=True)
    message = events.instances_transferred(peer, PACS, StudyTouched("1.2.3", {CR: 1}, Patient(hostile)))
    xml = to_xml(message, AuditSource(hostile))
    assert b"\n" not in xml
    told = Heard(xml)
    assert [child.tag for child in told.root] == [
        "EventIdentification",
        "ActiveParticipant",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
        "ParticipantObjectIdentification",
    ]
    kept = "".join("?" if sign in "\0\x1b\x07\ud800\udfff\ufffe\r\n\t" else sign for sign in hostile)
    assert told.patients() == [kept]
    assert told.participant("110153")["UserID"] == kept


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b'EventOutcomeIndicator="0"', b'EventOutcomeIndicator="1"'),
        (b'originalText="Application" ', b""),
        (b"csd-code", b"code"),
        (b'AuditSourceID="radstream@host"', b""),
        (b'UserIsRequestor="false"', b'UserIsRequestor="no"'),
    ],
)
def test_the_schema_of_these_tests_refuses_what_the_standard_does(right: bytes, wrong: bytes) -> None:
    xml = to_xml(events.application_activity(SCP, starts=True), SOURCE)
    assert right in xml
    assert SCHEMA.validate(etree.fromstring(xml))
    assert not SCHEMA.validate(etree.fromstring(xml.replace(right, wrong)))
