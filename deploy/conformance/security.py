"""Section 8 and annex C of the statement: security."""

from __future__ import annotations

from typing import Final

from scp.settings import ScpSettings
from scp.stow.clients import MIN_TOKEN_LENGTH

_PORT: Final = ScpSettings.model_fields["port"].default

TEXT: Final = f"""\
## 8 Security

### 8.1 Introduction

The product is made for a protected network: whoever can reach its ports and says an accepted AE title is served,
unless TLS with client certificates, or tokens, are configured. It keeps instances on disk until they are analysed, and
longer where `spool_archive_days` says so; encryption of that disk is left to the operator.

### 8.2 External network requirements

None. Names are resolved and the time is kept by the operating system; the clock must be right for expiry of
certificates and for the times in outputs.

### 8.3 TCP port configuration

RECEIVER listens on port {_PORT} for DIMSE, with or without TLS, and on `stow_port` for HTTP. DELIVERY listens on
`commitment_port` where that is set, without TLS. The ports of metrics and health are no DICOM services.

### 8.4 DICOM security profiles support

| profile (PS3.15) | support |
| --- | --- |
| Secure Use (annex A) | no |
| Audit Trail Message Format (A.5) | yes, where it is configured; see annex A.C.3 |
| Audit Trail Message Transmission, SYSLOG-TLS (A.6) and SYSLOG-UDP (A.7) | yes, as sender; see annex A.C.3 |
| BCP 195 RFC 8996, 9325 TLS Secure Transport Connection (B.12) | see annex A.C.2 |
| Modified BCP 195 RFC 8996, 9325 TLS (B.13) and older TLS profiles | no |
| Digital Signature (C) | no; signatures of a source are not copied |
| Media Storage Security (D) | no |
| Attribute Confidentiality (E) | no |
| Network Address Management, Time Synchronization, Application Configuration Management (F to H) | no |

### 8.5 User Identity Negotiation support

None as requestor; as acceptor it is ignored, and nothing is answered to it.

### 8.6 Web services security features

RECEIVER takes bearer tokens (RFC 6750) of at least {MIN_TOKEN_LENGTH} characters, each of which stands for a client's
name, and https. It listens on the loopback address unless told otherwise, and to other hosts only with tokens or with
`stow_open`. DELIVERY sends a bearer token or basic authentication, checks certificate and host name of the server,
shows a client certificate where one is configured, follows no redirects, and sends credentials over http only to the
same host or where `cleartext_credentials` allows it.

### 8.7 Other security features

Calling AE titles, and the addresses that each may come from, can be restricted. UIDs that come from the network are
checked before they become names of files. Patient data is in no log line, metric, queue message or error text.
`RADSTREAM_PHI` decides what of patient identity the results database holds."""

ANNEX: Final = """\
## Annex A.C Security details

### A.C.1 External network requirement details

None.

### A.C.2 DICOM security profile details

TLS is 1.2 or 1.3, as B.12 asks; the higher one that both sides have is taken. Cipher suites are those that the
installed OpenSSL offers by default and are not restricted further, so that conformance to B.12 depends on that
installation. TLS is from the first byte, never begun within a connection. On the side that listens, client
certificates are checked where `tls_ca` is set and required where `tls_require_client_certificate` is; on the side
that calls, the certificate of the peer is always checked, its host name included."""
