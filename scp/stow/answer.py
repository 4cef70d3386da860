"""The answer to a STOW-RS request: HTTP status and Store Instances Response (PS3.18 10.5.3, table 10.5.3-1 ff.)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset

from scp.statuses import StoreStatus
from scp.stow.parts import PartResult

OK: Final = 200
ACCEPTED: Final = 202
CONFLICT: Final = 409
TOO_LARGE: Final = 413
UNAVAILABLE: Final = 503

ANSWERS: Final[Mapping[int, str]] = {
    OK: "Every part is on disk, and will be processed or reported.",
    ACCEPTED: "Some parts are on disk; the body names the others with their failure reasons.",
    400: "Not a multipart body of at least one part, or cut off, or the study is not a UID. "
    "Parts before a break may be stored: the body then names them.",
    401: "No bearer token, or one that is not known.",
    404: "No such resource; there is only POST to /studies and /studies/{study} below the base path.",
    405: "Another method than POST.",
    406: "The client does not accept application/dicom+json.",
    408: "Nothing came for too long.",
    CONFLICT: "No part was stored; the body names them with their failure reasons.",
    TOO_LARGE: "No part was stored, each being larger than is accepted.",
    415: "Not multipart/related of application/dicom, or with a content encoding.",
    500: "An error of radstream.",
    UNAVAILABLE: "No space, too many instances pending, or too many requests at once: "
    "Retry-After says when to send it again.",
}
"""What the HTTP statuses of the service mean, those of a request as a whole included (PS3.18 table 10.5.3-1)."""


def http_status(results: Sequence[PartResult]) -> int:
    """Judge a request with at least one part by its parts.

    Where nothing was stored for one reason that has an HTTP status of its own, that is given: a client that reads
    nothing else then knows whether it is to try again.
    """
    failures = {result.status for result in results} - {StoreStatus.SUCCESS}
    if not failures:
        return OK
    if any(result.status is StoreStatus.SUCCESS for result in results):
        return ACCEPTED
    if failures == {StoreStatus.OUT_OF_RESOURCES}:
        return UNAVAILABLE
    return TOO_LARGE if failures == {StoreStatus.TOO_LARGE} else CONFLICT


def response_body(results: Sequence[PartResult]) -> bytes:
    """Encode the response as DICOM JSON (PS3.18 annex F).

    Parts of which no UIDs could be read are in Other Failures Sequence. Retrieve URLs are empty: nothing can be
    retrieved here.
    """
    response = Dataset()
    response.RetrieveURL = ""
    stored = [result for result in results if result.status is StoreStatus.SUCCESS]
    failed = [result for result in results if result.status is not StoreStatus.SUCCESS and result.sop_instance_uid]
    others = [result for result in results if not result.sop_instance_uid]
    if stored:
        response.ReferencedSOPSequence = [_reference(result) for result in stored]
    if failed:
        response.FailedSOPSequence = [_failure(_reference(result), result.status) for result in failed]
    if others:
        response.OtherFailuresSequence = [_failure(Dataset(), result.status) for result in others]
    return json.dumps(response.to_json_dict()).encode()


def _reference(result: PartResult) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = result.sop_class_uid
    item.ReferencedSOPInstanceUID = result.sop_instance_uid
    if result.status is StoreStatus.SUCCESS:
        item.RetrieveURL = ""
    return item


def _failure(item: Dataset, status: StoreStatus) -> Dataset:
    item.FailureReason = int(status)
    return item
