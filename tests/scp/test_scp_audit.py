"""What the SCP tells an audit record repository: who sent which studies, and who was turned away."""

from __future__ import annotations

import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import AuditRepository, Heard, heard_in

from deploy.launcher import free_port
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.records.identity import IdentityPolicy
from models.settings import PatientIdentity, Settings
from scp import audit as audit_module
from scp.audit import ScpAudit, sending_entity
from scp.statuses import AssociationOutcome
from worker.source import read_facts

CR = str(ComputedRadiographyImageStorage)
Eventually = Callable[..., None]


@pytest.fixture
def repository(certificates: Path) -> Iterator[AuditRepository]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with AuditRepository(context) as listening:
        yield listening


def of_tls(repository: AuditRepository, certificates: Path) -> dict[str, str]:
    return {
        "AUDIT_REPOSITORY": f"tls://localhost:{repository.port}",
        "AUDIT_TLS_CA": str(certificates / "ca.pem"),
        "AUDIT_TLS_CERTIFICATE": str(certificates / "client.pem"),
        "AUDIT_TLS_KEY": str(certificates / "client.key"),
        "AUDIT_SOURCE_ID": "radstream@test",
    }


def named(repository: AuditRepository, event: str) -> list[Heard]:
    return [each for each in repository.heard if each.event == event]


def test_a_running_scp_tells_its_life_what_it_received_and_whom_it_turned_away(
    start_scp: Any,
    instance: Callable[..., Dataset],
    associate: Callable[..., Any],
    repository: AuditRepository,
    certificates: Path,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("WARD 0123456789abcdef\n")
    scp = start_scp(
        SCP_ALLOWED_CALLING_AE_TITLES='["SENDER"]',
        SCP_STOW_PORT=str(free_port()),
        SCP_STOW_TOKENS=str(tokens),
        **of_tls(repository, certificates),
    )
    association = associate(scp)
    for number in range(3):
        image = instance(StudyInstanceUID="1.2.840.1", PatientID="P1", InstanceNumber=number)
        assert association.send_c_store(image).Status == 0
    assert association.send_c_store(instance(StudyInstanceUID="1.2.840.2", PatientID='P<2&"')).Status == 0
    assert named(repository, "DICOM Instances Transferred") == []  # one message when it is over, not one each
    association.release()
    for _ in range(3):
        assert not associate(scp, ae_title='BAD<A>&"E').is_established
    assert not associate(scp, called="OTHER").is_established
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{scp._environment['RADSTREAM_SCP_STOW_PORT']}/dicom-web/studies", b"")
    eventually(lambda: len(named(repository, "DICOM Instances Transferred")) == 2, timeout_s=30)
    eventually(lambda: len(named(repository, "Security Alert")) == 3, timeout_s=30)
    assert scp.stop() == 0

    heard = repository.heard
    assert heard[0].types == ["Application Start"]
    assert heard[-1].types == ["Application Stop"]
    assert heard[-1].participant("110150")["AlternativeUserID"] == "AETITLES=RADSTREAM"
    transfers = named(repository, "DICOM Instances Transferred")
    assert [(each.studies(), each.patients()) for each in transfers] == [
        ({"1.2.840.1": {CR: 3}}, ["P1"]),
        ({"1.2.840.2": {CR: 1}}, ['P<2&"']),
    ]
    sender = transfers[0].participant("110153")
    assert (sender["UserID"], sender["NetworkAccessPointID"]) == ("SENDER", "127.0.0.1")
    assert transfers[0].participant("110152")["UserName"] == "radstream scp-receiver-0"
    alerts = [each.detail("Alert Description") for each in named(repository, "Security Alert")]
    assert sorted(alerts[:3]) == [
        "STOW-RS request refused: no bearer token, or one that is not known",
        "association rejected: called AE title not recognised",
        "association rejected: calling AE title not recognised",
    ]
    # The two that were held back come at the end, as one.
    assert alerts[3:] == [
        "association rejected: calling AE title not recognised; 2 times since the last alert of this kind"
    ]
    titles = {each.root.findall("ActiveParticipant")[1].get("UserID") for each in named(repository, "Security Alert")}
    assert titles == {'BAD<A>&"E', "SENDER", "127.0.0.1"}
    assert "P1" not in scp.log()
    assert "planted" not in scp.log().lower()


def test_a_stranger_in_the_repositorys_place_gets_nothing_and_stores_go_on(
    start_scp: Any, instance: Any, associate: Any, certificates: Path, eventually: Eventually
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "stranger.pem", certificates / "stranger.key")
    with AuditRepository(context) as stranger:
        scp = start_scp(
            SCP_TLS_CERTIFICATE=str(certificates / "server.pem"),
            SCP_TLS_KEY=str(certificates / "server.key"),
            AUDIT_REPOSITORY=f"tls://localhost:{stranger.port}",
            AUDIT_TLS_CA=str(certificates / "ca.pem"),
        )
        with socket.create_connection(("127.0.0.1", scp.port), 30) as plain, suppress(ConnectionResetError):
            plain.sendall(b"\x01\x00 this is no TLS")
            while plain.recv(1024):
                pass
        sender = ssl.create_default_context(cafile=certificates / "ca.pem")
        association = associate(scp, tls_args=(sender, "localhost"))
        assert association.send_c_store(instance()).Status == 0
        association.release()
        eventually(lambda: scp.events("audit_repository_away"), timeout_s=60)
        eventually(lambda: scp.metrics()["radstream_scp_audit_waiting"] >= 3, timeout_s=60)
        assert scp.stop() == 0
        assert stranger.heard == []
    waiting = [Heard.of_syslog(path.read_bytes()) for path in sorted((scp.directory / "audit").glob("*.syslog"))]
    assert [each.types for each in waiting[:: len(waiting) - 1]] == [["Application Start"], ["Application Stop"]]
    assert sorted(each.event for each in waiting[1:-1]) == ["DICOM Instances Transferred", "Security Alert"]
    (alert,) = [each for each in waiting if each.event == "Security Alert"]
    assert alert.detail("Alert Description") == "connection closed: TLS handshake failed"
    assert alert.priority == 84  # a warning
    assert alert.objects("110182")[0].get("ParticipantObjectID") == "127.0.0.1"


# Within a process


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., tuple[ScpAudit, Callable[[], list[Heard]]]]:
    """An audit of a process with a file, and what the file says when it has ended."""

    def make(mode: PatientIdentity = PatientIdentity.FULL) -> tuple[ScpAudit, Callable[[], list[Heard]]]:
        file = tmp_path / "audit.log"
        settings = Settings(data_dir=tmp_path, phi=mode, phi_key="0123456789abcdef")  # type: ignore[arg-type]
        trail = AuditTrail(settings, AuditSettings(file=file), "scp-receiver-0").start()
        audit = ScpAudit(trail, IdentityPolicy.of(settings))

        def end() -> list[Heard]:
            audit.stop()
            return heard_in(file)

        return audit, end

    return make


PEER = sending_entity("SENDER", "10.0.0.5")


@pytest.mark.parametrize("mode", list(PatientIdentity))
def test_a_patient_is_told_as_the_records_have_it(
    told: Any, instance: Any, encoded: Callable[[Dataset], bytes], mode: PatientIdentity
) -> None:
    audit, end = told(mode)
    image = instance(PatientID="MÜ-1", IssuerOfPatientID="WARD", SpecificCharacterSet="ISO_IR 100")
    transfers = audit.transfers()
    transfers.add(encoded(image)[:4096], CR, ExplicitVRLittleEndian, PEER)
    transfers.end()
    (message,) = end()
    stored = read_facts(image, IdentityPolicy(mode, b"0123456789abcdef")).patient_id
    assert message.patients() == ([stored] if stored is not None else [])
    expected = {
        PatientIdentity.FULL: "MÜ-1",
        # printf 'WARD\0MÜ-1' | openssl dgst -sha256 -hmac 0123456789abcdef | cut -c1-32
        PatientIdentity.PSEUDONYMISED: "e46c8ba90eb1ad8dbb8ba6b8aaa4c952",
        PatientIdentity.NONE: None,
    }
    assert stored == expected[mode]
    assert "Planted" not in message.xml.decode()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_study_and_patient_are_read_in_every_encoding(told: Any, instance: Any, tmp_path: Path, syntax: Any) -> None:
    audit, end = told()
    image = instance(StudyInstanceUID="1.2.840.7")
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    whole = (tmp_path / "a.dcm").read_bytes()
    meta_length = int.from_bytes(whole[140:144], "little")  # (0002,0000), the first element behind the prefix
    transfers = audit.transfers()
    transfers.add(whole[144 + meta_length :], CR, str(syntax), PEER)
    transfers.end()
    (message,) = end()
    assert (message.studies(), message.patients()) == ({"1.2.840.7": {CR: 1}}, ["PLANTED-ID"])


def test_what_cannot_be_read_is_told_without_study_and_patient(told: Any) -> None:
    audit, end = told()
    transfers = audit.transfers()
    for head in (b"", b"\xff" * 500, b"garbage"):
        transfers.add(head, CR, ExplicitVRLittleEndian, PEER)
    transfers.end()
    transfers.end()
    (message,) = end()
    assert (message.studies(), message.patients(), len(message.objects("110181"))) == ({}, [], 1)


def test_a_long_association_tells_now_and_then(
    told: Any, instance: Any, encoded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, end = told()
    monkeypatch.setattr(audit_module, "OPEN_STUDIES", 2)
    transfers = audit.transfers()
    for uid in ("1.2.1", "1.2.1", "1.2.2", "1.2.3"):
        transfers.add(encoded(instance(StudyInstanceUID=uid)), CR, ExplicitVRLittleEndian, PEER)
    monkeypatch.setattr(audit_module, "OPEN_S", -1.0)
    transfers.add(encoded(instance(StudyInstanceUID="1.2.3")), CR, ExplicitVRLittleEndian, PEER)
    heard = end()  # not ended: what is open is not told
    assert [each.studies() for each in heard] == [{"1.2.1": {CR: 2}}, {"1.2.3": {CR: 1}}]


def test_one_study_of_two_patients_makes_two_messages(told: Any, instance: Any, encoded: Any) -> None:
    audit, end = told()
    transfers = audit.transfers()
    for patient in ("A", "B"):
        image = instance(StudyInstanceUID="1.2.1", PatientID=patient)
        transfers.add(encoded(image), CR, ExplicitVRLittleEndian, PEER)
    transfers.end()
    assert [each.patients() for each in end()] == [["A"], ["B"]]


def test_instances_in_a_row_are_told_apart_whatever_lies_before_their_identity(
    told: Any, instance: Any, encoded: Any
) -> None:
    audit, end = told()
    transfers = audit.transfers()
    item = Dataset()
    item.PatientID, item.StudyInstanceUID = "NESTED", "1.2.99"
    changes = (
        {"PatientID": "A"},
        {"PatientID": "A", "ReferencedStudySequence": [item]},
        {"PatientID": "B", "ReferencedStudySequence": [item]},
        {"PatientID": "B", "IssuerOfPatientID": "WARD"},
    )
    for change in (*changes, *changes[-1:]):
        transfers.add(encoded(instance(StudyInstanceUID="1.2.1", **change)), CR, ExplicitVRLittleEndian, PEER)
    transfers.end()
    heard = end()
    assert [(each.patients(), each.studies()) for each in heard] == [
        (["A"], {"1.2.1": {CR: 2}}),
        (["B"], {"1.2.1": {CR: 3}}),
    ]


def test_alerts_of_very_many_addresses_are_bounded_and_none_is_lost(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, end = told()
    monkeypatch.setattr(audit_module, "ALERT_KINDS", 10)
    for _ in range(2):
        for number in range(25):
            audit.connection_ended(AssociationOutcome.TLS_FAILED, f"10.0.0.{number}", "")
        assert len(audit._told_at) <= 11
    audit.connection_ended(AssociationOutcome.RELEASED, "10.0.0.1", "SENDER")
    heard = end()
    seen = [each.objects("110182")[0].get("ParticipantObjectID") for each in heard]
    assert set(seen) == {f"10.0.0.{number}" for number in range(25)}
