"""Who may associate, how often, over what; and what is refused when there is no room."""

from __future__ import annotations

import os
import ssl
import subprocess
import time

import pytest
from pydicom.uid import CTImageStorage

REJECTED_CALLING = (0x01, 0x01, 0x03)
REJECTED_CALLED = (0x01, 0x01, 0x07)
REJECTED_LIMIT = (0x02, 0x03, 0x02)


def rejection(association) -> tuple[int, int, int]:
    assert association.is_rejected
    primitive = association.acceptor.primitive
    return primitive.result, primitive.result_source, primitive.diagnostic


def test_strangers_and_wrong_numbers_are_rejected_with_the_reason(start_scp, associate, eventually):
    scp = start_scp(
        SCP_ALLOWED_CALLING_AE_TITLES='["CR1", "CR2", "CR3"]',
        SCP_ALLOWED_CALLING_ADDRESSES='{"CR2": ["10.0.0.0/8", "192.168.1.7"], "CR3": ["127.0.0.0/8", "::1"]}',
    )
    assert associate(scp, ae_title="CR1").is_established
    assert rejection(associate(scp, ae_title="STRANGER")) == REJECTED_CALLING
    assert rejection(associate(scp, ae_title="CR2")) == REJECTED_CALLING  # from an address that is not its own
    assert associate(scp, ae_title="CR3").is_established
    assert rejection(associate(scp, ae_title="CR1", called="ANOTHER")) == REJECTED_CALLED
    name = 'radstream_scp_associations_total{outcome="rejected_%s"}'
    eventually(lambda: scp.metrics()[name % "calling_ae_title"] == 2)
    eventually(lambda: scp.metrics()[name % "called_ae_title"] == 1)


def test_the_called_title_may_be_left_unchecked(start_scp, associate):
    scp = start_scp(SCP_CHECK_CALLED_AE_TITLE="false", AE_TITLE="CHEST_AI")
    assert associate(scp, called="ANYTHING").is_established


def test_the_limit_counts_the_associations_of_all_processes(start_scp, associate, eventually):
    scp = start_scp(SCP_MAX_ASSOCIATIONS="3", SCP_PROCESSES="2")
    held = [associate(scp) for _ in range(3)]
    assert all(association.is_established for association in held)
    assert rejection(associate(scp)) == REJECTED_LIMIT
    held[0].release()
    eventually(lambda: scp.metrics()["radstream_scp_open_associations"] == 2)
    assert associate(scp).is_established
    assert len(scp.receivers()) == 2


def test_an_idle_association_is_ended(start_scp, associate, eventually):
    scp = start_scp(SCP_IDLE_TIMEOUT_S="0.5", SCP_DIMSE_TIMEOUT_S="0.5")
    association = associate(scp)
    eventually(lambda: association.is_aborted)
    eventually(lambda: scp.metrics()['radstream_scp_associations_total{outcome="timed_out"}'] == 1)


def test_a_sender_that_stops_within_a_message_is_ended_and_leaves_nothing(
    start_scp, raw_peer, instance, speech, eventually
):
    scp = start_scp(SCP_DIMSE_TIMEOUT_S="0.5")
    peer = raw_peer(scp)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(0, b"half of it")))
    assert peer.receive()[0] == "abort"
    eventually(lambda: not scp.incoming())
    assert scp.pending() == []


def test_stat_titles_are_urgent_and_every_class_is_taken_when_asked(start_scp, associate, instance):
    scp = start_scp(SCP_STAT_AE_TITLES='["TRAUMA"]', SCP_ACCEPT_ALL_STORAGE="true")
    dataset = instance(SOPClassUID=CTImageStorage)
    assert associate(scp, CTImageStorage, ae_title="TRAUMA").send_c_store(dataset).Status == 0x0000
    assert scp.spool.request_for(scp.pending()[0].key).lane == "stat"


# No room


def test_at_the_pending_limit_instances_are_refused_until_others_are_done(start_scp, associate, instance, eventually):
    scp = start_scp(SCP_MAX_PENDING="3", SCP_SWEEP_INTERVAL_S="0.3", SCP_PROCESSES="2")
    association = associate(scp)
    datasets = [instance() for _ in range(5)]
    for dataset in datasets[:3]:  # one that comes during a count may be counted twice, and refused until the next
        eventually(lambda dataset=dataset: association.send_c_store(dataset).Status == 0x0000)
    assert [association.send_c_store(dataset).Status for dataset in datasets[3:]] == [0xA700, 0xA700]
    assert associate(scp).send_c_store(datasets[3]).Status == 0xA700
    assert len(scp.pending()) == 3
    assert scp.incoming() == []
    assert scp.http("/readyz")[0] == 503
    scp.spool.finish(scp.pending()[0].key)
    eventually(lambda: scp.http("/readyz")[0] == 200)
    assert association.send_c_store(datasets[3]).Status == 0x0000


def test_what_lay_in_the_spool_before_the_start_counts(start_scp, associate, instance):
    scp = start_scp(SCP_MAX_PENDING="1")
    assert associate(scp).send_c_store(instance()).Status == 0x0000
    assert scp.stop() == 0
    again = start_scp(SCP_MAX_PENDING="1")
    assert associate(again).send_c_store(instance()).Status == 0xA700


def test_without_free_space_instances_are_refused_before_they_are_written(start_scp, raw_peer, instance, speech):
    scp = start_scp(SCP_MIN_FREE_BYTES=str(1 << 60))
    peer = raw_peer(scp)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(0, b"begin")))
    time.sleep(0.3)
    assert scp.incoming() == []
    peer.send(speech.pdu(speech.pdv(2, b"end")))
    assert peer.status() == 0xA700
    assert "out_of_space" in scp.http("/readyz")[1]
    peer.release()


def test_a_too_large_instance_is_refused_while_it_comes_and_the_next_is_taken(start_scp, associate, instance):
    scp = start_scp(SCP_MAX_INSTANCE_BYTES="100000")
    association = associate(scp)
    assert association.send_c_store(instance(1000, 1000)).Status == 0xC002
    assert association.send_c_store(instance(100, 100)).Status == 0x0000
    assert len(scp.pending()) == 1
    assert scp.incoming() == []
    assert scp.metrics()['radstream_scp_instances_total{status="too_large"}'] == 1


def test_a_failing_disk_is_answered_with_out_of_resources(start_scp, associate, instance):
    scp = start_scp()
    association = associate(scp)
    incoming = scp.spool.root / "incoming"
    incoming.rename(scp.spool.root / "away")
    assert association.send_c_store(instance(700, 700)).Status == 0xA700
    (scp.spool.root / "away").rename(incoming)
    assert association.send_c_store(instance()).Status == 0x0000


# TLS


def context(certificates, name: str | None) -> tuple[ssl.SSLContext, str]:
    made = ssl.create_default_context(cafile=certificates / "ca.pem")
    if name is not None:
        made.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return made, "localhost"


@pytest.fixture
def tls(certificates) -> dict[str, str]:
    return {
        "SCP_TLS_CERTIFICATE": str(certificates / "server.pem"),
        "SCP_TLS_KEY": str(certificates / "server.key"),
    }


def test_over_tls_instances_are_stored_and_plain_peers_are_not_served(
    start_scp, associate, instance, tls, certificates, raw_peer, eventually
):
    scp = start_scp(**tls)
    dataset = instance(1500, 1500)
    assert associate(scp, tls_args=context(certificates, None)).send_c_store(dataset).Status == 0x0000
    assert len(scp.pending()) == 1
    peer = raw_peer(scp)
    peer.request_association()
    assert peer.receive()[0] == "closed"
    eventually(lambda: scp.metrics()['radstream_scp_associations_total{outcome="tls_failed"}'] == 1)


def test_mutual_tls_serves_only_peers_with_a_certificate_of_the_ca(
    start_scp, associate, instance, tls, certificates, eventually
):
    scp = start_scp(**tls, SCP_TLS_CA=str(certificates / "ca.pem"), SCP_TLS_REQUIRE_CLIENT_CERTIFICATE="true")
    assert associate(scp, tls_args=context(certificates, "client")).send_c_store(instance()).Status == 0x0000
    for name in (None, "stranger"):
        assert not associate(scp, tls_args=context(certificates, name)).is_established
    eventually(lambda: scp.metrics()['radstream_scp_associations_total{outcome="tls_failed"}'] == 2)


@pytest.mark.peers
def test_dcmtk_sends_over_mutual_tls(start_scp, instance, tls, certificates, dcmtk, tmp_path):
    scp = start_scp(**tls, SCP_TLS_CA=str(certificates / "ca.pem"), SCP_TLS_REQUIRE_CLIENT_CERTIFICATE="true")
    instance(600, 600).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    command = [dcmtk("storescu"), "+tls", str(certificates / "client.key"), str(certificates / "client.pem")]
    command += ["+cf", str(certificates / "ca.pem"), "-aec", "RADSTREAM", "127.0.0.1", str(scp.port)]
    done = subprocess.run([*command, str(tmp_path / "a.dcm")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(scp.pending()) == 1


def test_a_peer_that_never_finishes_its_tls_handshake_blocks_nobody(start_scp, associate, tls, certificates, raw_peer):
    scp = start_scp(**tls)
    idle = [raw_peer(scp) for _ in range(3)]
    assert associate(scp, tls_args=context(certificates, None)).send_c_echo().Status == 0x0000
    assert len(idle) == 3


def test_no_descriptor_is_left_behind(start_scp, associate, instance, raw_peer, speech, eventually):
    scp = start_scp()
    (receiver,) = scp.receivers()
    associate(scp).send_c_store(instance())
    eventually(lambda: scp.metrics()["radstream_scp_open_associations"] <= 1)

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{receiver}/fd"))

    before = descriptors()
    for number in range(20):
        peer = raw_peer(scp)
        peer.associate()
        peer.send(speech.pdu(speech.pdv(3, speech.store_command(instance())), speech.pdv(0, b"x")))
        peer.send(speech.ABORT if number % 2 else speech.pdu(speech.pdv(1, b"nonsense")))
        peer.connection.close()
    eventually(lambda: descriptors() <= before)
    assert scp.incoming() == []
