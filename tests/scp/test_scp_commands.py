"""The command codec beside pynetdicom's, which is slower and general."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode

from scp import commands
from scp.ingest import has_high_study_priority
from scp.statuses import ERROR_COMMENTS, StoreStatus

REQUEST = commands.StoreRequest(17, str(ComputedRadiographyImageStorage), "1.2.3.4.5", False, True)


def pynetdicom_request(priority: int) -> bytes:
    primitive = C_STORE()
    primitive.MessageID = 17
    primitive.AffectedSOPClassUID = ComputedRadiographyImageStorage
    primitive.AffectedSOPInstanceUID = "1.2.3.4.5"
    primitive.Priority = priority
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    message.command_set.CommandDataSetType = 0x0001
    return bytes(encode(message.command_set, True, True))


@pytest.mark.parametrize(("priority", "high"), [(0, False), (1, True), (2, False)])
def test_requests_of_pynetdicom_are_read(priority, high):
    request = commands.store_request(commands.elements(pynetdicom_request(priority)))
    assert request == commands.StoreRequest(17, str(ComputedRadiographyImageStorage), "1.2.3.4.5", high, True)


@pytest.mark.parametrize("status", StoreStatus)
def test_responses_are_those_of_pynetdicom(status):
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = 17
    primitive.AffectedSOPClassUID = ComputedRadiographyImageStorage
    primitive.AffectedSOPInstanceUID = "1.2.3.4.5"
    primitive.Status = int(status)
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    message.command_set.CommandDataSetType = 0x0101
    expected = message.command_set
    if status in ERROR_COMMENTS:
        expected.ErrorComment = ERROR_COMMENTS[status]
    response = commands.store_response(REQUEST, status)
    given = decode(__import__("io").BytesIO(response), True, True)
    del expected[0x00000000], given[0x00000000]
    assert given == expected


@pytest.mark.parametrize("comment", ERROR_COMMENTS.values())
def test_an_error_comment_fits_its_vr(comment):
    assert len(comment) <= 64


def test_a_uid_that_is_none_is_echoed_byte_for_byte():
    body = struct.pack("<HHI", 0, 0x0100, 2) + b"\x01\x00" + struct.pack("<HHI", 0, 0x0110, 2) + b"\x01\x00"
    body += struct.pack("<HHI", 0, 0x0800, 2) + b"\x00\x00" + struct.pack("<HHI", 0, 0x1000, 4) + b"\xff/\xe4."
    request = commands.store_request(commands.elements(body))
    assert b"\xff/\xe4." in commands.store_response(request, StoreStatus.INVALID_UID)


@given(st.binary(max_size=200))
def test_no_bytes_lead_to_another_error_than_malformed(data):
    try:
        commands.store_request(commands.elements(data))
    except commands.MalformedCommand:
        return


@given(st.binary(max_size=4000))
def test_random_bytes_are_not_urgent(data):
    assert not has_high_study_priority(data.replace(b"HIGH", b"LOW "))


@pytest.mark.parametrize(
    "encoded",
    [b"\x32\x00\x0c\x00CS\x04\x00HIGH", b"\x32\x00\x0c\x00\x04\x00\x00\x00HIGH", b"\x00\x32\x00\x0cCS\x00\x04HIGH"],
)
def test_high_study_priority_is_seen_in_every_encoding(encoded):
    assert has_high_study_priority(b"\x08\x00\x16\x00" + encoded + b"\x40\x00")
    assert has_high_study_priority(encoded[:4] + b"\x00\x00" + encoded)
