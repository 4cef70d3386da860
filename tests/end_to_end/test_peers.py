"""DCMTK and Orthanc as senders and as archives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instances import chest, save
from orthanc_server import Orthanc
from pydicom import dcmread
from pydicom.data import get_testdata_file
from reconciliation import Ledger, wait_settled

from deploy.launcher import Feed, free_port, wait_until
from deploy.receiver import Receiver

pytestmark = pytest.mark.peers

Feeds = Callable[..., Feed]
Programs = Callable[[str], str]


@pytest.fixture
def orthanc(tmp_path: Path, peer_program: Programs) -> Iterator[Callable[[int], Orthanc]]:
    made: list[Orthanc] = []

    def start(feed_port: int) -> Orthanc:
        made.append(Orthanc(peer_program("Orthanc"), tmp_path / f"orthanc{len(made)}", feed_port))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def _real(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def _violations(path: Path) -> list[str]:
    checker = Path(sys.executable).parent / "dciodvfy"
    done = subprocess.run([checker, str(path)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_storescu_sends_and_the_outputs_pass_dciodvfy(feeds: Feeds, archive: Receiver, peer_program: Programs) -> None:
    feed = feeds()
    feed.start()
    echo = [peer_program("echoscu"), "-aec", "RADSTREAM", "127.0.0.1", str(feed.port)]
    subprocess.run(echo, check=True, timeout=30)
    storescu = peer_program("storescu")
    for name, syntax in (("RG1_UNCR.dcm", "-xe"), ("RG1_J2KR.dcm", "-xv"), ("RG1_J2KI.dcm", "-xw")):
        command = [storescu, syntax, "-aec", "RADSTREAM", "127.0.0.1", str(feed.port), str(_real(name))]
        subprocess.run(command, check=True, timeout=60)
    uids = [str(dcmread(_real(name)).SOPInstanceUID) for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm")]
    states = wait_settled(feed, uids)
    assert [states[uid] for uid in uids] == ["done"] * 3
    assert wait_until(lambda: len(archive.counts) == 6, 30), "a picture and a report of each"
    time.sleep(0.2)
    for file in archive.directory.glob("*.dcm"):
        assert _violations(file) == []


def test_storescp_accepts_what_the_feed_sends(
    feeds: Feeds, archive: Receiver, peer_program: Programs, tmp_path: Path
) -> None:
    received = tmp_path / "storescp"
    received.mkdir()
    port = free_port()
    command = [peer_program("storescp"), "-od", str(received), "-aet", "DCMTK", str(port)]
    server = subprocess.Popen(command)
    try:
        destination = {"name": "dcmtk", "host": "127.0.0.1", "port": port, "ae_title": "DCMTK"}
        feed = feeds(RADSTREAM_WORKER_DESTINATIONS=json.dumps([destination]))
        feed.start()
        subprocess.run(
            [peer_program("storescu"), "-aec", "RADSTREAM", "127.0.0.1", str(feed.port), str(_real("RG1_UNCR.dcm"))],
            check=True,
            timeout=60,
        )
        assert wait_until(lambda: len(list(received.iterdir())) == 2, 60)
        time.sleep(0.5)
    finally:
        server.terminate()
        server.wait(10)
    objects = {dataset.Modality: dataset for dataset in map(dcmread, received.iterdir())}
    assert set(objects) == {"OT", "SR"}
    capture, source = objects["OT"], dcmread(_real("RG1_UNCR.dcm"))
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.PatientName == source.PatientName
    assert capture.pixel_array.shape[2] == 3


def test_orthanc_sends_to_the_feed_and_keeps_what_comes_back(
    feeds: Feeds, archive: Receiver, orthanc: Callable[[int], Orthanc], tmp_path: Path
) -> None:
    feed = feeds()
    server = orthanc(feed.port)
    destination = {"name": "orthanc", "host": "127.0.0.1", "port": server.dicom_port, "ae_title": "ORTHANC"}
    environment = {**feed.environment, "RADSTREAM_WORKER_DESTINATIONS": json.dumps([destination])}
    feed.environment.update(environment)
    feed.start()
    files = [_real("RG1_UNCR.dcm"), save(chest(seed=3), tmp_path / "made.dcm")]
    stored = [server.post("/instances", file.read_bytes())["ID"] for file in files]
    server.post("/modalities/radstream/store", json.dumps(stored).encode())
    uids = [str(dcmread(file).SOPInstanceUID) for file in files]
    states = wait_settled(feed, uids)
    assert [states[uid] for uid in uids] == ["done", "done"]
    assert wait_until(lambda: len(server.get("/instances")) == 6, 60), "a picture and a report of each"

    captures = [item for item in server.get("/instances") if item not in stored]
    for item in captures:
        given_back = tmp_path / f"{item}.dcm"
        given_back.write_bytes(server.get(f"/instances/{item}/file"))
        capture = dcmread(given_back)
        ours = dcmread(feed.directory / "outbox" / f"{capture.SOPInstanceUID}.dcm")
        assert capture == ours
        assert capture.Modality == "SR" or (capture.pixel_array == ours.pixel_array).all()

    # What an archive routes back to us is recognised and not analysed again; reports are no images, and not taken.
    told = {item: server.get(f"/instances/{item}/tags?simplify") for item in captures}
    pictures = [item for item in captures if told[item]["Modality"] == "OT"]
    server.post("/modalities/radstream/store", json.dumps(pictures).encode())
    back = [told[item]["SOPInstanceUID"] for item in pictures]
    states = wait_settled(feed, back)
    assert [states[uid] for uid in back] == ["skipped", "skipped"]
    ledger = Ledger(feed)
    reasons = {row["reason"] for row in ledger.rows("SELECT reason FROM instance WHERE state = 'skipped'")}
    ledger.close()
    assert reasons == {"own_output"}


def test_the_peers_of_these_tests_are_debians(peer_program: Programs) -> None:
    assert shutil.which("storescu", path="/usr/bin:/usr/local/bin") == peer_program("storescu")
