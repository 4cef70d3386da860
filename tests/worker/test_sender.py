"""One destination's association against a real storage SCP."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from models.errors import ConfigurationError, Reason
from models.identity import IMPLEMENTATION_CLASS_UID
from worker import sender as sender_module
from worker.sender import Sender, SendResult, judge
from worker.settings import Destination

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
VERIFICATION = "1.2.840.10008.1.1"
PutOutput = Callable[[str], Path]


@pytest.fixture
def sender_to() -> Iterator[Callable[..., Sender]]:
    """Make senders to archives."""
    made: list[Sender] = []

    def make(archive: Any, timeout_s: float = 5.0, **options: Any) -> Sender:
        destination = Destination(name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE", **options)
        made.append(Sender(destination, "RADSTREAM", timeout_s))
        return made[-1]

    yield make
    for sender in made:
        sender.release()


@pytest.mark.parametrize(
    ("status", "reason", "permanent"),
    [
        (0x0000, None, False),
        (0x0111, None, False),  # the archive has it already
        (0xB000, None, False),  # stored, elements coerced
        (0xB006, None, False),
        (0xB007, None, False),
        (0xA700, Reason.DESTINATION_REFUSED, False),  # out of resources: later
        (0xA7FF, Reason.DESTINATION_REFUSED, False),
        (0x0110, Reason.DESTINATION_REFUSED, False),  # processing failure says nothing of the object
        (0xA900, Reason.DESTINATION_REFUSED, True),
        (0xC000, Reason.DESTINATION_REFUSED, True),
        (0xCFFF, Reason.DESTINATION_REFUSED, True),
        (0x0122, Reason.DESTINATION_REFUSED, True),  # SOP class not supported
        (0x0124, Reason.DESTINATION_REFUSED, True),  # not authorised
    ],
)
def test_statuses_mean_delivered_later_or_never(status: int, reason: Reason | None, permanent: bool) -> None:
    assert judge(status) == SendResult(status, reason, permanent)


def test_an_object_arrives_as_it_lies_in_the_outbox(archive: Any, sender_to: Any, put_output: PutOutput) -> None:
    sender = sender_to(archive)
    assert sender.send(put_output("2.25.1")) == SendResult(0x0000)
    (dataset,) = archive.received
    assert dataset.SOPInstanceUID == "2.25.1"
    assert dataset.PatientID == "ID7"
    assert dataset.PixelData == bytes(range(16))


def test_several_objects_go_over_one_held_association(archive: Any, sender_to: Any, put_output: PutOutput) -> None:
    sender = sender_to(archive)
    for number in range(1, 6):
        assert sender.send(put_output(f"2.25.{number}")).reason is None
    assert archive.associations == 1
    assert archive.uids == [f"2.25.{number}" for number in range(1, 6)]


def test_an_idle_association_is_released_and_opened_again_when_needed(
    archive: Any, sender_to: Any, put_output: PutOutput, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = sender_to(archive)
    sender.send(put_output("2.25.1"))
    sender.release_idle()
    assert archive.released == 0
    monkeypatch.setattr(sender_module, "HELD_IDLE_S", 0.0)
    time.sleep(0.01)
    sender.release_idle()
    eventually(lambda: archive.released == 1)
    assert sender.send(put_output("2.25.2")).reason is None
    assert archive.associations == 2


def test_an_association_that_the_archive_lost_is_opened_again(
    archive: Any, sender_to: Any, put_output: PutOutput, eventually: Any
) -> None:
    sender = sender_to(archive)
    sender.send(put_output("2.25.1"))
    archive.stop()
    results = [sender.send(put_output("2.25.2"))]
    assert results[0].reason is Reason.DESTINATION_UNREACHABLE
    archive.start()
    eventually(lambda: sender.send(put_output("2.25.2")).reason is None)
    assert archive.uids == ["2.25.1", "2.25.2"]


def test_nobody_listening_is_unreachable(new_archive: Any, sender_to: Any, put_output: PutOutput) -> None:
    result = sender_to(new_archive()).send(put_output("2.25.1"))
    assert result == SendResult(None, Reason.DESTINATION_UNREACHABLE, permanent=False)


def test_a_rejected_association_is_unreachable(new_archive: Any, sender_to: Any, put_output: PutOutput) -> None:
    archive = new_archive().start(called=True)
    destination = Destination(name="a", host="127.0.0.1", port=archive.port, ae_title="SOMEBODY")
    result = Sender(destination, "RADSTREAM", 5.0).send(put_output("2.25.1"))
    assert result == SendResult(None, Reason.DESTINATION_UNREACHABLE, permanent=False)


def test_an_archive_that_takes_no_secondary_captures_rejects_the_context(
    new_archive: Any, sender_to: Any, put_output: PutOutput
) -> None:
    archive = new_archive().start(contexts={VERIFICATION: [ImplicitVRLittleEndian]})
    sender = sender_to(archive)
    for _ in range(2):
        result = sender.send(put_output("2.25.1"))
        assert result == SendResult(None, Reason.DESTINATION_REJECTED_CONTEXT, permanent=True)
    assert archive.received == []


def test_an_archive_that_speaks_only_implicit_vr_gets_that(
    new_archive: Any, sender_to: Any, put_output: PutOutput
) -> None:
    archive = new_archive().start(contexts={SECONDARY_CAPTURE: [ImplicitVRLittleEndian]})
    assert sender_to(archive).send(put_output("2.25.1")) == SendResult(0x0000)
    (dataset,) = archive.received
    assert dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert dataset.PatientID == "ID7"
    assert dataset.PixelData == bytes(range(16))


def test_an_abort_instead_of_an_answer_is_unreachable_and_the_next_attempt_is_fresh(
    archive: Any, sender_to: Any, put_output: PutOutput
) -> None:
    archive.abort_once = True
    sender = sender_to(archive)
    assert sender.send(put_output("2.25.1")).reason is Reason.DESTINATION_UNREACHABLE
    assert sender.send(put_output("2.25.1")) == SendResult(0x0000)
    assert archive.associations == 2


def test_an_archive_that_never_answers_costs_no_more_than_the_timeout(
    archive: Any, sender_to: Any, put_output: PutOutput
) -> None:
    archive.hold.clear()
    sender = sender_to(archive, timeout_s=0.5)
    started = time.monotonic()
    assert sender.send(put_output("2.25.1")).reason is Reason.DESTINATION_UNREACHABLE
    assert time.monotonic() - started < 3
    archive.hold.set()


def test_a_file_that_is_gone_or_cut_off_never_reaches_the_archive(
    archive: Any, sender_to: Any, put_output: PutOutput, tmp_path: Path
) -> None:
    sender = sender_to(archive)
    gone = SendResult(None, Reason.OUTPUT_FILE_MISSING, permanent=True)
    assert sender.send(tmp_path / "nothing.dcm") == gone
    broken = put_output("2.25.1")
    broken.write_bytes(b"not DICOM")
    assert sender.send(broken) == gone
    broken.write_bytes(b"")
    assert sender.send(broken) == gone
    assert archive.associations == 0


def test_the_archive_learns_who_is_calling(new_archive: Any, sender_to: Any, put_output: PutOutput) -> None:
    archive = new_archive().start()
    seen: list[Any] = []
    archive._established = lambda event: seen.append(event.assoc.requestor)
    archive.stop()
    archive.start()
    sender_to(archive, calling_ae_title="AI_ONE").send(put_output("2.25.1"))
    (requestor,) = seen
    assert requestor.ae_title == "AI_ONE"
    assert requestor.implementation_class_uid == IMPLEMENTATION_CLASS_UID


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=archive"],
            *["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def _server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_an_object_arrives_over_tls(
    new_archive: Any, sender_to: Any, put_output: PutOutput, certificate: tuple[Path, Path]
) -> None:
    archive = new_archive().start(tls=_server_context(certificate))
    sender = sender_to(archive, tls=True, tls_ca=certificate[0])
    assert sender.send(put_output("2.25.1")) == SendResult(0x0000)
    assert archive.uids == ["2.25.1"]


def test_a_certificate_that_we_do_not_trust_is_unreachable(
    new_archive: Any, sender_to: Any, put_output: PutOutput, certificate: tuple[Path, Path]
) -> None:
    archive = new_archive().start(tls=_server_context(certificate))
    sender = sender_to(archive, tls=True)
    assert sender.send(put_output("2.25.1")).reason is Reason.DESTINATION_UNREACHABLE
    assert archive.received == []


def test_tls_files_that_cannot_be_read_are_a_wrong_setting(new_archive: Any, sender_to: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"RADSTREAM_WORKER_DESTINATIONS: TLS files of archive"):
        sender_to(new_archive(), tls=True, tls_ca=tmp_path / "missing.pem")
    (tmp_path / "broken.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="TLS files of archive"):
        sender_to(new_archive(), tls=True, tls_ca=tmp_path / "broken.pem")
