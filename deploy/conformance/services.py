"""Sections 4 and 5 of the statement: the application entities, and the services that each uses and provides."""

from __future__ import annotations

from typing import Final

from deploy.conformance.markdown import paragraphs
from models.diagnosis.peers import DOCTOR_AE_TITLE
from models.settings import Settings
from scp.stow.parts import MAX_PARTS
from worker.sender import HELD_IDLE_S
from worker.settings import WorkerSettings

_AE_TITLE: Final = Settings.model_fields["ae_title"].default
_QUIET_S: Final = WorkerSettings.model_fields["study_quiet_s"].default

IMPLEMENTATION: Final = f"""\
## 4 Implementation model

### 4.1 Application Entities and data flow

```text
                C-STORE, STOW-RS                                           C-STORE, STOW-RS
  modality  ----------------------->  RECEIVER --> spool --> analysis --> DELIVERY ---------------->  archive
            <-----------------------                |                        <- - - - - - - - - - - -
             commitment (N-EVENT-REPORT)       database                       commitment (N-EVENT-REPORT)
                                                    |
                                                RETRIEVAL ------------------------------------------->  archive
                                                            C-FIND, C-GET
```

RECEIVER, DELIVERY, RETRIEVAL and DIAGNOSIS are processes of their own. The first three have the AE title
`{_AE_TITLE}`, or the one that is configured; a destination or source can be given another calling AE title.

#### 4.1.1 RECEIVER

Accepts associations, and HTTP requests where this is configured. Every instance is written to the spool as it
arrives; the answer Success means that it is on disk and will be analysed or reported. It answers C-ECHO. Where this
is configured it takes requests for storage commitment and reports on them.

#### 4.1.2 DELIVERY

Sends outputs to destinations, in the order in which they were made, until each has arrived or was given up. What is
given up is kept and can be sent again. Where this is configured for a destination, it asks the destination to
commit to what was sent, and takes its reports.

#### 4.1.3 RETRIEVAL

Works on command only: `python -m worker backfill` fetches instances that are to be analysed again and are not kept any
more, `python -m worker reconcile --pacs` asks a destination which outputs it has.

#### 4.1.4 DIAGNOSIS

Works on command only, `python -m worker doctor` and `python -m scp doctor`: sends C-ECHO to destinations under the AE
title that DELIVERY has, and to RECEIVER as `{DOCTOR_AE_TITLE}`, and looks which classes a destination accepts. With
`--phantom` it sends RECEIVER a made radiograph, which it removes again."""

SERVICES: Final = f"""\
## 5 Service and interoperability description

### 5.1 Mapping of services to Application Entities

| service | role | entity |
| --- | --- | --- |
| Verification | SCP | RECEIVER, DELIVERY (on its port for reports) |
| Verification | SCU | DIAGNOSIS |
| Storage | SCP | RECEIVER, RETRIEVAL (of what C-GET brings) |
| Storage | SCU | DELIVERY, DIAGNOSIS (a phantom, to RECEIVER) |
| Storage Commitment Push Model | SCP | RECEIVER |
| Storage Commitment Push Model | SCU | DELIVERY; reports to it may come to RECEIVER |
| Query/Retrieve | SCU | RETRIEVAL |
| Studies web service, Store | origin server | RECEIVER |
| Studies web service, Store | user agent | DELIVERY |

### 5.2 DIMSE services

#### 5.2.1 Verification service

C-ECHO is answered at any time, and sent by DIAGNOSIS alone.

#### 5.2.2 Storage service

##### 5.2.2.1 SCP of the Storage SOP Classes

RECEIVER stores every attribute as it came, without coercion. Storage is not permanent: an instance is kept until it is
analysed, or as long as `spool_archive_days` says, so that no level of conformance of PS3.4 B.4.1 is claimed. Any
attribute may be missing; an instance without usable UIDs of study and series, or without pixel data, is accepted and
reported as not analysed. Of the transfer syntaxes of a context the first one that the sender names and RECEIVER knows
is accepted, so that nobody need transcode. C-STORE with priority HIGH, Study Priority ID HIGH, and AE titles of
`stat_ae_titles` are served first. The same instance with the same bytes is answered Success and has one result; with
other bytes `duplicate_policy` decides which counts. Outputs of radstream that come back are known by their equipment
and not analysed. Digital signatures are neither checked nor kept.

##### 5.2.2.2 SCU of the Storage SOP Classes

DELIVERY holds one association to each destination while there is something to send, and releases it after
{HELD_IDLE_S:g} s without. It sends one instance at a time with priority LOW. Which kinds of output a destination gets
is configured. An object that is sent again has the same SOP Instance UID and the same content. Nothing is transcoded
but between the two transfer syntaxes that are proposed.

#### 5.2.3 Storage Commitment service

##### 5.2.3.1 SCP

Only where `commitment` is set. **RECEIVER commits to having analysed or reported an instance, not to keeping it**:
do not let a sender delete its own copy for it. Any storage class can be named. A request is answered when it is on
disk, and survives a restart. The report is sent on the association of the request as long as that is idle and open,
else on a new one to the address of `commitment_peers`, with role selection; it is tried again with growing waits
until `commitment_give_up_s`. Instances that are neither in the spool nor known as analysed or reported are named as
failed.

##### 5.2.3.2 SCU

For destinations with `commitment`. DELIVERY gathers delivered outputs for `commitment_group_s`, names them in one
request on an association of its own, and waits `commitment_wait_s` for the report there. Reports on new
associations are taken on `commitment_port`, or by RECEIVER where `commitment_reports` is set. Without a report for
`commitment_timeout_s` it asks again under another transaction UID. An output that a report names as failed is sent
again.

#### 5.2.4 Query/Retrieve service

RETRIEVAL uses the Study Root information model at the level IMAGE, with Study, Series and SOP Instance UID as the only
keys; no relational queries, no extended negotiation. C-FIND asks for all instances of one series. C-GET asks for one
instance at a time, and proposes the storage classes of the instances that are wanted, each in the transfer syntax in
which it was first received and then in any that is known. C-MOVE is not used.

#### 5.2.5 Other services

Worklist, Performed Procedure Step, Unified Procedure Step, Instance Availability Notification and Print Management are
not supported.

### 5.3 DICOM Web Services

#### 5.3.1 Store, as origin server

| | |
| --- | --- |
| resources | `POST <base>/studies`, `POST <base>/studies/{{study}}` |
| request | `multipart/related; type="application/dicom"`, up to {MAX_PARTS} parts, DICOM files; no content encoding |
| response | `application/dicom+json`: Store Instances Response |
| SOP Classes, transfer syntaxes | those of RECEIVER for C-STORE |
| authentication | bearer token |

A part is stored like an instance that came by C-STORE, and the name of the token's owner takes the place of the
calling AE title. Parts are independent: one that is refused does not hinder the others. Retrieve URLs are empty.
Metadata with bulk data, and instances in other media types, are not supported.

#### 5.3.2 Store, as user agent

DELIVERY sends one output in a request to `<url>/studies`, in Explicit VR Little Endian, with `Content-Length` and
without chunks, and reads the Store Instances Response where it is DICOM JSON. It waits for as long as Retry-After
says, up to `delivery_longest_retry_s`, and follows no redirects.

### 5.4 Media services

None.

### 5.5 Real-Time Video services

None.

### 5.6 Cross-service considerations

Instances have the same result by whichever way they come, and outputs the same content by whichever way they are
sent. A study that was quiet for {_QUIET_S:g} s (`study_quiet_s`) is summarised for destinations that want this.
Reports that an instance was not analysed, with the coded reason, are sent to destinations with `not_analysed`:
silence never means normal.

### 5.7 Specific Character Sets

Texts of the source are copied as bytes, with its Specific Character Set; a misspelt term is corrected. Where the
bytes do not fit what the source declares, `ISO_IR 192` is declared where they are UTF-8, else `ISO_IR 100`. What
radstream itself writes is ASCII. Code extensions (ISO 2022) and Person Names of three groups are kept."""


def render() -> str:
    """Give both sections."""
    return paragraphs(IMPLEMENTATION, SERVICES)
