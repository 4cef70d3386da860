"""The queue payload: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Reason, Unprocessable
from models.requests import JOB_NAME, QUEUE_NAMES, REQUEST_VERSION, InferenceRequest, Lane, job_id_for

UIDS = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,8}){0,6}", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


@st.composite
def requests(draw: st.DrawFn) -> InferenceRequest:
    uid, digest = draw(UIDS), draw(DIGESTS)
    return InferenceRequest(
        spool_key=f"{uid}_{digest[:16]}",
        sop_instance_uid=uid,
        sop_class_uid=draw(UIDS),
        transfer_syntax_uid=draw(UIDS),
        content_sha256=digest,
        calling_ae_title=draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16)),
        lane=draw(st.sampled_from(Lane)),
        received_at=draw(st.floats(0, 4e9)),
    )


REQUEST = InferenceRequest(
    spool_key="1.2.3_0123456789abcdef",
    sop_instance_uid="1.2.3",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    content_sha256="0123456789abcdef" * 4,
    calling_ae_title="MODALITY",
    lane=Lane.STAT,
    received_at=1_700_000_000.25,
)
PAYLOAD = {
    "version": 1,
    "spool_key": "1.2.3_0123456789abcdef",
    "sop_instance_uid": "1.2.3",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    "content_sha256": "0123456789abcdef" * 4,
    "calling_ae_title": "MODALITY",
    "lane": "stat",
    "received_at": 1_700_000_000.25,
}


def _refuses(payload: Any) -> bool:
    with pytest.raises(Unprocessable) as caught:
        InferenceRequest.from_payload(payload)
    return caught.value.reason is Reason.MALFORMED_DATASET


def test_the_payload_is_plain_json_with_these_fields() -> None:
    assert REQUEST.to_payload() == PAYLOAD
    assert InferenceRequest.from_payload(PAYLOAD) == REQUEST


def test_the_contract_names_stay_as_they_are() -> None:
    assert JOB_NAME == "worker.jobs.infer_instance"
    assert QUEUE_NAMES == ("stat", "routine")
    assert REQUEST_VERSION == 1


@given(requests())
def test_a_request_survives_the_way_through_json(request: InferenceRequest) -> None:
    assert InferenceRequest.from_payload(json.loads(json.dumps(request.to_payload()))) == request


@given(requests())
def test_a_job_id_has_only_signs_that_rq_allows_and_tells_instances_apart(request: InferenceRequest) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", request.job_id)
    assert request.job_id == job_id_for(request.spool_key)
    assert request.job_id.replace("_", ".") == request.spool_key.replace("_", ".")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_anything_else_is_refused_and_nothing_else_is_raised(payload: Any) -> None:
    assert _refuses(payload)


@given(st.sampled_from(sorted(PAYLOAD)), JSON)
def test_a_field_with_any_other_value_is_refused_or_harmless(name: str, value: Any) -> None:
    with suppress(Unprocessable):
        request = InferenceRequest.from_payload({**PAYLOAD, name: value})
        assert request.spool_key == REQUEST.spool_key, "the key is the path, so only the one of UID and digest passes"
        assert math.isfinite(request.received_at)
        assert len(request.calling_ae_title) <= 16
        assert "\x00" not in request.calling_ae_title


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("version", "1"),
        ("spool_key", "../../etc/passwd"),
        ("spool_key", "1.2.3_0123456789abcde0"),
        ("spool_key", "1.2.3_0123456789abcdef\n"),
        ("sop_instance_uid", "1.2.4"),
        ("sop_instance_uid", "1" * 65),
        ("sop_class_uid", "1.2\n"),
        ("sop_class_uid", ""),
        ("transfer_syntax_uid", "1..2"),
        ("content_sha256", "0123456789ABCDEF" * 4),
        ("content_sha256", "0123456789abcdef"),
        ("calling_ae_title", "A\x00B"),
        ("calling_ae_title", "seventeen letters"),
        ("calling_ae_title", "Ä"),
        ("lane", "urgent"),
        ("lane", ["stat"]),
        ("lane", None),
        ("received_at", "1700000000"),
        ("received_at", True),
        ("received_at", math.nan),
        ("received_at", math.inf),
        ("received_at", -1.0),
        ("received_at", 1e12),
        ("received_at", 10**400),
    ],
)
def test_hostile_values_are_refused_without_being_quoted(name: str, value: object) -> None:
    with pytest.raises(Unprocessable) as caught:
        InferenceRequest.from_payload({**PAYLOAD, name: value})
    assert caught.value.reason is Reason.MALFORMED_DATASET
    assert not isinstance(value, str) or len(value) < 3 or value not in str(caught.value)


def test_missing_and_unknown_fields_are_refused() -> None:
    for name in PAYLOAD:
        assert _refuses({key: value for key, value in PAYLOAD.items() if key != name})
    assert _refuses({**PAYLOAD, "patient_name": "Somebody"})
    assert _refuses([*PAYLOAD])
    assert _refuses(json.dumps(PAYLOAD))
