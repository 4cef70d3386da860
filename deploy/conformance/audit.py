"""Annex A.C.3 of the statement: audit messages, which there are and what they say."""

from __future__ import annotations

from typing import Final

from deploy.conformance.markdown import paragraphs, table
from models.audit import events as audit_events
from models.audit.messages import Code

_INTRODUCTION: Final = """\
### A.C.3 Audit trail

Messages are of the schema of A.5.1.1 and are sent only; none is received. They are off unless `RADSTREAM_AUDIT_*`
name a repository or a file. `AuditSourceID` and `AuditEnterpriseSiteID` are configured; `AuditSourceTypeCode` is 4."""

_ONE_STUDY: Final = "one study with SOP classes and counts, its patient"

_EVENTS: Final[tuple[tuple[Code, str, str, str, str], ...]] = (
    (
        audit_events.APPLICATION_ACTIVITY,
        "RECEIVER, the worker or DELIVERY starts (110120), or stops in good order (110121)",
        "0",
        "the process",
        "none",
    ),
    (
        audit_events.INSTANCES_TRANSFERRED,
        "an association or STOW-RS request is over that brought instances, or has brought them for ten minutes",
        "0",
        "sender, receiving process",
        _ONE_STUDY,
    ),
    (
        audit_events.BEGIN_TRANSFERRING,
        "DELIVERY tried outputs for the first time",
        "0",
        "sending process, destination",
        _ONE_STUDY,
    ),
    (
        audit_events.INSTANCES_TRANSFERRED,
        "outputs have arrived at a destination",
        "0",
        "sending process, destination",
        _ONE_STUDY,
    ),
    (audit_events.INSTANCES_TRANSFERRED, "outputs are given up", "8", "sending process, destination", _ONE_STUDY),
    (
        audit_events.SECURITY_ALERT,
        "Node Authentication (110126): an association is rejected for its calling or called AE title, a TLS handshake "
        "with RECEIVER fails, or a STOW-RS request has no known token",
        "4",
        "the reporting process, the peer",
        "the address of the peer as Node ID, with the description of the alert",
    ),
    (
        audit_events.EXPORT,
        "`python -m worker results` shows or writes rows of instances or studies",
        "0",
        "the person, the process, the target as URI",
        "what was asked for and how many rows so far; up to 50 studies a message, patients if they were exported",
    ),
    (
        audit_events.INSTANCES_ACCESSED,
        "`python -m worker backfill --yes` begins",
        "0",
        "the person, the process",
        _ONE_STUDY,
    ),
    (
        audit_events.STUDY_DELETED,
        "`python -m worker retain --yes` has deleted the records of a study",
        "0",
        "the person, the process",
        _ONE_STUDY,
    ),
)

_RULES: Final = """\
The action of a transfer is always R: whether the receiver held the instances before is not known where it is told.
UserID of a process of the product is its process id and UserName its name in the logs; of an application entity it is
the AE title, of an origin server its URL, of a person `login@host`. AlternativeUserID of an application entity is
`AETITLES=` and its title. Network access points are the host name of the product's host, and the address or host name
of a peer. The patient is identified as `RADSTREAM_PHI` says: by Patient ID (`full`), by its pseudonym
(`pseudonymised`), or, against the tables of A.5.3, not at all (`none`). ParticipantObjectName never holds a name.
Instances that are refused, and retries of a delivery, are not told. Alerts of one kind about one address come at most
once a minute and count those between. Of the search criteria of an export, the Participant Object Type Code Role 24
with its query is an extension.

Syslog (RFC 5424): facility 10, severity 5, or 4 where the outcome is not 0; APP-NAME `radstream`, PROCID the process
id, MSGID `DICOM+RFC3881`, no STRUCTURED-DATA; the XML is ASCII with character references, so that there is no byte
order mark. TLS (RFC 5425) is 1.2 or later, with a certificate of ours where one is configured, and the certificate and
host name of the repository are checked; TCP (RFC 6587, octet counting) and UDP (RFC 5426) are there for closed
networks. Messages wait on disk while the repository is away, up to a configured number; one that was on its way when
a connection broke is sent again. One that does not fit into a datagram is dropped."""


def render() -> str:
    """Give the section."""
    rows = ((f"{event.meaning} ({event.value})", *told) for event, *told in _EVENTS)
    return paragraphs(_INTRODUCTION, table(("event", "when", "outcome", "participants", "objects"), rows), _RULES)
