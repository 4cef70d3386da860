"""Orthanc as a peer of storage commitment, both ways, and of STOW-RS, both ways."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instances import chest, save
from orthanc_server import Orthanc
from pydicom import dcmread
from reconciliation import Ledger, wait_settled

from deploy.launcher import Feed, free_port, wait_until

pytestmark = pytest.mark.peers

DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TOKEN = "0123456789abcdef-of-orthanc"


@pytest.fixture
def stow_port() -> int:
    return free_port()


@pytest.fixture
def feed(feeds: Callable[..., Feed], stow_port: int, tmp_path: Path) -> Feed:
    """A feed that commits, asks for commitment, takes reports on the port of the SCP, and has a STOW-RS entry."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ORTHANC_WEB {TOKEN}\n")
    return feeds(
        RADSTREAM_SCP_COMMITMENT="true",
        RADSTREAM_SCP_COMMITMENT_REPORTS="true",
        RADSTREAM_SCP_STOW_PORT=str(stow_port),
        RADSTREAM_SCP_STOW_TOKENS=str(tokens),
        RADSTREAM_WORKER_COMMITMENT_GROUP_S="0.5",
        RADSTREAM_WORKER_COMMITMENT_WAIT_S="0.5",
    )


@pytest.fixture
def orthanc(tmp_path: Path, feed: Feed, stow_port: int, peer_program: Callable[[str], str]) -> Iterator[Orthanc]:
    if not DICOM_WEB.exists():
        if os.environ.get("CI"):
            pytest.fail("orthanc-dicomweb is not installed")
        pytest.skip("orthanc-dicomweb is not installed")
    web = {
        "Url": f"http://127.0.0.1:{stow_port}/dicom-web/",
        "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"},
    }
    more: dict[str, object] = {"Plugins": [str(DICOM_WEB)], "DicomWeb": {"Enable": True, "Servers": {"radstream": web}}}
    server = Orthanc(peer_program("Orthanc"), tmp_path / "orthanc", feed.port, more=more)
    yield server
    server.stop()


def _commitment(server: Orthanc, references: list[tuple[str, str]]) -> dict[str, object]:
    """Let Orthanc ask the feed, and give the report that it got."""
    body = {"DicomInstances": [list(reference) for reference in references], "Timeout": 20}
    path = server.post("/modalities/radstream/storage-commitment", json.dumps(body).encode())["Path"]
    assert wait_until(lambda: server.get(path)["Status"] != "Pending", 20)
    report: dict[str, object] = server.get(path)
    return report


def test_orthanc_and_the_feed_commit_to_each_other_and_speak_stow_both_ways(
    feed: Feed, orthanc: Orthanc, tmp_path: Path
) -> None:
    peers = {"ORTHANC": {"host": "127.0.0.1", "port": orthanc.dicom_port}}
    dimse = {
        "name": "dimse",
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "ae_title": "ORTHANC",
        "commitment": True,
    }
    web = {"name": "web", "url": f"http://127.0.0.1:{orthanc.http_port}/dicom-web"}
    feed.environment["RADSTREAM_SCP_COMMITMENT_PEERS"] = json.dumps(peers)
    feed.environment["RADSTREAM_WORKER_DESTINATIONS"] = json.dumps([dimse, web])
    feed.start()

    first, second = save(chest(seed=3), tmp_path / "first.dcm"), save(chest(seed=4), tmp_path / "second.dcm")
    sent, by_web = [orthanc.post("/instances", file.read_bytes())["ID"] for file in (first, second)]
    orthanc.post("/modalities/radstream/store", json.dumps([sent]).encode())
    orthanc.post("/dicom-web/servers/radstream/stow", json.dumps({"Resources": [by_web]}).encode())
    references = [(str(data.SOPClassUID), str(data.SOPInstanceUID)) for data in map(dcmread, (first, second))]
    uids = [uid for _, uid in references]
    states = wait_settled(feed, uids)
    assert [states[uid] for uid in uids] == ["done", "done"]

    # Asked of us: what we were given is committed, what we never saw is not.
    report = _commitment(orthanc, references)
    assert report["Status"] == "Success", report
    unknown = (references[0][0], "2.25.404")
    report = _commitment(orthanc, [references[0], unknown])
    assert report["Status"] == "Failure", report
    (failure,) = report["Failures"]  # type: ignore[misc]
    assert failure["SOPInstanceUID"] == "2.25.404"  # type: ignore[index]

    # Asked by us: every output is committed by DIMSE, and arrived by STOW-RS.
    ledger = Ledger(feed)

    def is_committed() -> bool:
        rows = ledger.rows("SELECT state, committed_at FROM delivery WHERE destination = 'dimse'")
        return bool(rows) and all(row["committed_at"] for row in rows)

    try:
        assert wait_until(is_committed, 30), feed.worker.log.read_text()[-4000:]
        arrived = ledger.rows("SELECT state, last_http_status FROM delivery WHERE destination = 'web'")
        assert {(row["state"], row["last_http_status"]) for row in arrived} == {("delivered", 200)}
        assert len(ledger.rows("SELECT id FROM instance WHERE committed_at IS NOT NULL")) == 2
        by_name = ledger.rows("SELECT sop_instance_uid, calling_ae_title FROM instance")
        assert {row["sop_instance_uid"]: row["calling_ae_title"] for row in by_name} == {
            uids[0]: "ORTHANC",
            uids[1]: "ORTHANC_WEB",
        }
        assert len(arrived) + 2 == len(orthanc.get("/instances"))
    finally:
        ledger.close()
        feed.worker.kill()  # Orthanc waits at its end for the association that the deliverer holds
