"""C-ECHO and C-STORE over real associations: what is stored, and what each request is answered."""

from __future__ import annotations

import hashlib
import struct
import threading
import time

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES
from models.requests import Lane


def test_an_echo_is_answered(scp, associate):
    association = associate(scp)
    assert association.send_c_echo().Status == 0x0000
    association.release()
    assert association.is_released


def test_a_stored_instance_lies_pending_as_it_was_sent(scp, associate, instance, encoded):
    dataset = instance()
    assert associate(scp, ae_title="CR1").send_c_store(dataset).Status == 0x0000
    (entry,) = scp.pending()
    stored = pydicom.dcmread(scp.spool.path_of(entry.key))
    assert stored == dataset
    assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    request = scp.spool.request_for(entry.key)
    assert request.sop_instance_uid == dataset.SOPInstanceUID
    assert request.calling_ae_title == "CR1"
    assert request.content_sha256 == hashlib.sha256(encoded(dataset)).hexdigest()
    assert request.lane is Lane.ROUTINE
    assert time.time() - request.received_at < 60


@pytest.mark.parametrize("syntax", DECODABLE_TRANSFER_SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_every_decodable_syntax_is_accepted_and_kept_as_sent(syntax, scp, raw_peer, instance, speech):
    peer, dataset = raw_peer(scp), instance()
    peer.associate(syntaxes=(syntax,))
    content = f"encoded as {syntax}".encode()  # the SCP does not look into it
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset)), speech.pdv(2, content)))
    assert peer.status() == 0x0000
    (entry,) = scp.pending()
    request = scp.spool.request_for(entry.key)
    assert request.transfer_syntax_uid == syntax
    assert request.content_sha256 == hashlib.sha256(content).hexdigest()
    assert scp.spool.path_of(entry.key).read_bytes().endswith(content)
    peer.release()


def test_a_syntax_that_the_worker_cannot_decode_is_not_accepted(scp, associate):
    association = associate(scp, syntaxes=("1.2.840.10008.1.2.4.100",))  # MPEG2
    assert association.is_established
    assert [context.result for context in association.rejected_contexts] == [0x04]


def test_a_class_that_carries_no_radiographs_is_not_accepted(scp, associate):
    assert [context.result for context in associate(scp, CTImageStorage).rejected_contexts] == [0x03]


@pytest.mark.parametrize(
    "proposed",
    [
        (JPEG2000Lossless, ExplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, JPEGBaseline8Bit),
    ],
)
def test_of_several_syntaxes_the_senders_first_is_taken(proposed, scp, associate):
    association = associate(scp, SecondaryCaptureImageStorage, proposed)
    accepted = {context.abstract_syntax: context.transfer_syntax for context in association.accepted_contexts}
    assert accepted[SecondaryCaptureImageStorage] == [proposed[0]]


def test_undecodable_syntaxes_before_a_decodable_one_are_passed_over(scp, associate):
    association = associate(scp, syntaxes=("1.2.840.10008.1.2.4.100", JPEGBaseline8Bit))
    assert association.accepted_contexts[1].transfer_syntax == [JPEGBaseline8Bit]


# Urgency


def test_dimse_priority_high_makes_an_instance_urgent(scp, associate, instance):
    assert associate(scp).send_c_store(instance(), priority=1).Status == 0x0000
    assert scp.spool.request_for(scp.pending()[0].key).lane is Lane.STAT


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_study_priority_high_makes_an_instance_urgent(syntax, scp, associate, instance):
    dataset = instance()
    dataset.add_new(0x0032000C, "CS", "HIGH")
    dataset.file_meta.TransferSyntaxUID = syntax
    assert associate(scp, syntaxes=(syntax,)).send_c_store(dataset).Status == 0x0000
    assert scp.spool.request_for(scp.pending()[0].key).lane is Lane.STAT


@pytest.mark.parametrize("value", ["LOW", "MED"])
def test_other_study_priorities_are_routine(value, scp, associate, instance):
    dataset = instance()
    dataset.add_new(0x0032000C, "CS", value)
    assert associate(scp).send_c_store(dataset).Status == 0x0000
    assert scp.spool.request_for(scp.pending()[0].key).lane is Lane.ROUTINE


# Duplicates


def test_the_same_instance_twice_is_one_pending_file(scp, associate, instance):
    dataset = instance()
    association = associate(scp)
    assert [association.send_c_store(dataset).Status for _ in range(2)] == [0, 0]
    assert len(scp.pending()) == 1


def test_the_same_instance_at_once_over_four_associations_is_one_pending_file(scp, associate, instance):
    dataset = instance(512, 512)
    statuses: list[int] = []

    def send() -> None:
        statuses.append(associate(scp).send_c_store(dataset).Status)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0, 0, 0]
    assert len(scp.pending()) == 1
    assert scp.incoming() == []


def test_other_bytes_under_one_uid_are_kept_beside_the_first(scp, associate, instance):
    first = instance()
    second = instance(SOPInstanceUID=first.SOPInstanceUID, PatientID="OTHER")
    association = associate(scp)
    assert [association.send_c_store(dataset).Status for dataset in (first, second)] == [0, 0]
    assert len(scp.pending()) == 2


# Requests that are refused


@pytest.mark.parametrize(
    "uid",
    [
        b"../../../../tmp/evil",
        b"1.2.3/../../x",
        b"/etc/passwd",
        b"1.2..3",
        b"1.2.3.",
        b"1." * 40 + b"1",
        b"1.2\x00.3",
        b"a",
    ],
)
def test_a_uid_that_is_none_never_becomes_a_path(uid, scp, raw_peer, instance, speech):
    peer, dataset = raw_peer(scp), instance()
    before = sorted(scp.directory.rglob("*"))
    peer.associate()
    command = speech.store_command(dataset, sop_instance=uid)
    peer.send(speech.pdu(speech.pdv(3, command)) + speech.pdu(speech.pdv(2, b"dataset")))
    assert peer.status() == 0xC001
    assert sorted(scp.directory.rglob("*")) == before
    peer.release()


def test_a_class_other_than_the_contexts_is_refused_and_the_association_goes_on(scp, raw_peer, instance, speech):
    peer, dataset = raw_peer(scp), instance()
    peer.associate()
    wrong = speech.store_command(dataset, sop_class=SecondaryCaptureImageStorage.encode())
    peer.send(speech.pdu(speech.pdv(3, wrong)) + speech.pdu(speech.pdv(2, b"dataset")))
    assert peer.status() == 0xA900
    assert scp.pending() == []
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset)), speech.pdv(2, b"dataset")))
    assert peer.status() == 0x0000
    peer.release()


@pytest.mark.parametrize("missing", ["sop_class", "sop_instance"])
def test_a_request_without_a_uid_is_not_understood(missing, scp, raw_peer, instance, speech):
    peer = raw_peer(scp)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance(), **{missing: b""})), speech.pdv(2, b"x")))
    assert peer.status() == 0xC000
    peer.release()


def test_a_request_without_a_dataset_is_not_understood(scp, raw_peer, instance, speech):
    peer = raw_peer(scp)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance(), has_dataset=False))))
    assert peer.status() == 0xC000
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(2, b"")))
    assert peer.status() == 0xC000
    assert scp.pending() == []
    assert scp.incoming() == []
    peer.release()


def test_a_store_on_the_context_of_echo_is_refused(scp, raw_peer, instance, speech):
    peer = raw_peer(scp)
    verification = "1.2.840.10008.1.1"
    peer.associate(sop_class=verification, syntaxes=(ImplicitVRLittleEndian,))
    command = speech.store_command(instance(), sop_class=verification.encode())
    peer.send(speech.pdu(speech.pdv(3, command), speech.pdv(2, b"dataset")))
    assert peer.status() == 0xA900
    peer.release()


# The response


def test_the_response_names_message_class_instance_and_status(scp, raw_peer, speech, instance):
    peer, dataset = raw_peer(scp), instance(SOPInstanceUID=generate_uid(entropy_srcs=["fixed"]))
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset, message_id=4711)), speech.pdv(2, b"dataset")))
    kind, body = peer.receive()
    assert kind == "data"
    length, context_id, control = struct.unpack_from(">IBB", body)
    assert (length, context_id, control) == (len(body) - 4, 1, 0x03)
    message = pydicom.filereader.read_dataset(
        pydicom.filebase.DicomBytesIO(body[6:]), is_implicit_VR=True, is_little_endian=True
    )
    assert message.CommandField == 0x8001
    assert message.MessageIDBeingRespondedTo == 4711
    assert message.CommandDataSetType == 0x0101
    assert message.AffectedSOPClassUID == dataset.SOPClassUID
    assert message.AffectedSOPInstanceUID == dataset.SOPInstanceUID
    assert message.Status == 0x0000
    assert message[0x00000000].value == len(body) - 6 - 12  # bytes after the group length element
    peer.release()


def test_a_response_is_cut_to_the_senders_largest_pdu(scp, raw_peer, speech, instance):
    peer = raw_peer(scp)
    peer.associate(maximum_length=128)
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(2, b"dataset")))
    controls, command = [], b""
    while not controls or not controls[-1] & 2:
        _, body = peer.receive()
        assert len(body) <= 128
        controls.append(body[5])
        command += body[6:]
    assert controls == [1, 3]
    assert struct.pack("<HHI", 0, 0x0900, 2) + b"\0\0" in command
    peer.release()


def test_any_largest_pdu_of_the_sender_will_do(scp, raw_peer, speech, instance):
    peer = raw_peer(scp)
    peer.associate(maximum_length=0)  # no limit, PS3.8 D.1
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(2, b"dataset")))
    assert peer.status() == 0x0000
    peer.release()


# Fragments


def fragments(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 1000, 16_376, 70_000])
@pytest.mark.parametrize("per_pdu", [1, 3, 1000])
def test_a_dataset_may_be_cut_anywhere(size, per_pdu, scp, raw_peer, instance, speech, encoded):
    dataset = instance(16, 16) if size == 1 else instance(300, 400)
    content = encoded(dataset)
    parts = fragments(content, size)
    pdvs = [speech.pdv(2 if index == len(parts) - 1 else 0, part) for index, part in enumerate(parts)]
    pdus = [speech.pdu(*pdvs[start : start + per_pdu]) for start in range(0, len(pdvs), per_pdu)]
    peer = raw_peer(scp)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset))) + b"".join(pdus))
    assert peer.status() == 0x0000
    assert pydicom.dcmread(scp.spool.path_of(scp.pending()[0].key)) == dataset
    peer.release()


def test_command_and_dataset_may_share_a_pdu_and_the_command_may_be_cut(scp, raw_peer, instance, speech):
    peer, dataset = raw_peer(scp), instance()
    command = speech.store_command(dataset)
    pieces = fragments(command, 50)
    controls = [1] * (len(pieces) - 1) + [3]
    peer.associate()
    peer.send(
        speech.pdu(
            *(speech.pdv(control, piece) for control, piece in zip(controls, pieces, strict=True)),
            speech.pdv(0, b"data"),
        )
        + speech.pdu(speech.pdv(0, b""))
        + speech.pdu(speech.pdv(2, b"set"))
    )
    assert peer.status() == 0x0000
    assert scp.spool.path_of(scp.pending()[0].key).read_bytes().endswith(b"dataset")
    peer.release()


def test_a_slow_sender_is_waited_for(scp, raw_peer, instance, speech):
    peer = raw_peer(scp)
    peer.associate()
    message = speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(2, b"dataset"))
    for piece in fragments(message, 9):
        peer.send(piece)
        time.sleep(0.02)
    assert peer.status() == 0x0000
    peer.release()


def test_messages_sent_without_waiting_are_served_in_order(scp, raw_peer, instance, speech):
    peer = raw_peer(scp)
    peer.associate()
    messages = [
        speech.pdu(speech.pdv(3, speech.store_command(instance(), message_id=number)), speech.pdv(2, b"dataset"))
        for number in range(20)
    ]
    peer.send(b"".join(messages) + speech.RELEASE)
    assert [peer.status() for _ in messages] == [0] * 20
    assert peer.receive()[0] == "release reply"
    assert len(scp.pending()) == 20


# Endings within a message


def wait_until(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("ending", ["abort", "close", "reset", "release"])
def test_a_message_that_ends_early_leaves_nothing(ending, scp, raw_peer, instance, speech):
    peer, dataset = raw_peer(scp), instance()
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset)), speech.pdv(0, b"half of it")))
    wait_until(lambda: scp.incoming())
    if ending == "abort":
        peer.send(speech.ABORT)
    elif ending == "release":
        peer.send(speech.RELEASE)
    elif ending == "reset":
        linger = struct.pack("ii", 1, 0)
        peer.connection.setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER: close with RST
        peer.connection.close()
    else:
        peer.connection.close()
    wait_until(lambda: not scp.incoming())
    assert scp.pending() == []


NONSENSE = {
    "a dataset without a command": lambda s: s.pdu(s.pdv(2, b"dataset")),
    "a context that was not accepted": lambda s: s.pdu(s.pdv(3, s.store_command(), context_id=99)),
    "a PDV longer than its PDU": lambda s: bytes.fromhex("04000000000a 000000ff 01 03 00000000"),
    "a PDV too short for its header": lambda s: bytes.fromhex("040000000006 00000001 01 03"),
    "a PDU too short for a PDV": lambda s: bytes.fromhex("040000000003 000000"),
    "a command set cut short": lambda s: s.pdu(s.pdv(3, s.store_command()[:-3])),
    "a command set that is none": lambda s: s.pdu(s.pdv(3, b"\x08\x00\x18\x00" * 8)),
    "an unknown PDU": lambda s: bytes.fromhex("ff0000000004 00000000"),
    "a second association request": lambda s: bytes.fromhex("010000000004 00000000"),
    "a service that was not offered": lambda s: s.pdu(
        s.pdv(3, s.element(0x0100, b"\x20\x00") + s.element(0x0110, b"\x01\x00") + s.element(0x0800, b"\x01\x01"))
    ),
    "an endless command set": lambda s: b"".join(s.pdu(s.pdv(1, bytes(60_000))) for _ in range(3)),
    "a huge control PDU": lambda s: bytes.fromhex("0500ffffffff"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_answered_with_an_abort_and_others_are_served_on(name, scp, raw_peer, associate, speech):
    peer = raw_peer(scp)
    peer.associate()
    peer.send(NONSENSE[name](speech))
    assert peer.receive()[0] == "abort"
    assert peer.receive()[0] == "closed"
    assert associate(scp).send_c_echo().Status == 0x0000


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", bytes(600), bytes.fromhex("0100ffffffff") + bytes(600)])
def test_a_peer_that_does_not_speak_dicom_is_got_rid_of(first, scp, raw_peer, associate):
    peer = raw_peer(scp)
    peer.send(first)
    assert peer.receive()[0] in {"abort", "closed"}
    assert associate(scp).send_c_echo().Status == 0x0000


def test_a_peer_that_says_nothing_is_got_rid_of(scp, raw_peer):
    peer = raw_peer(scp)  # the module's SCP has an ACSE timeout of 5 s
    began = time.monotonic()
    assert peer.receive()[0] == "closed"
    assert 3 < time.monotonic() - began < 15


def test_no_log_line_holds_patient_data(scp):
    assert "Planted" not in scp.log()
    assert "PLANTED-ID" not in scp.log()
    assert "Traceback" not in scp.log()
    assert scp.events("association_failed") == []
    assert scp.events("uncaught_exception") == []
