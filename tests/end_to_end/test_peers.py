"""DCMTK and Orthanc as senders and as archives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from instances import chest, save
from orthanc_server import Orthanc
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from reconciliation import Ledger, wait_settled

from deploy.launcher import Feed, free_port, wait_until
from deploy.receiver import Receiver

pytestmark = pytest.mark.peers

Programs = Callable[[str], str]


@dataclass(frozen=True)
class Peers:
    """A feed that delivers to all of its archives whatever it makes.

    Attributes:
        archive: pynetdicom's.
        received: directory of DCMTK's.
        orthanc: an archive that sends as well.
    """

    feed: Feed
    archive: Receiver
    received: Path
    orthanc: Orthanc


@pytest.fixture(scope="module")
def peers(
    lasting_feeds: Any, tmp_path_factory: pytest.TempPathFactory, stand_in_store: Path, peer_program: Programs
) -> Iterator[Peers]:
    directory = tmp_path_factory.mktemp("peers")
    received = directory / "storescp"
    received.mkdir()
    with (
        Receiver(directory / "archive") as archive,
        lasting_feeds(directory, stand_in_store, archive) as feeds,
        ExitStack() as closing,
    ):
        feed, port = feeds(), free_port()
        storescp = subprocess.Popen([peer_program("storescp"), "-od", str(received), "-aet", "DCMTK", str(port)])
        closing.callback(storescp.wait, 10)
        closing.callback(storescp.terminate)
        orthanc = Orthanc(peer_program("Orthanc"), directory / "orthanc", feed.port)
        closing.callback(orthanc.stop)
        places = (("archive", archive.port, archive.ae_title), ("dcmtk", port, "DCMTK"))
        destinations = [
            {"name": name, "host": "127.0.0.1", "port": number, "ae_title": title}
            for name, number, title in (*places, ("orthanc", orthanc.dicom_port, "ORTHANC"))
        ]
        feed.environment["RADSTREAM_WORKER_DESTINATIONS"] = json.dumps(destinations)
        feed.start()
        closing.callback(feed.worker.kill)  # Orthanc waits at its end for the association that the deliverer holds
        yield Peers(feed, archive, received, orthanc)


def _delivered(feed: Feed, uids: list[str], destination: str) -> set[str]:
    """UIDs of outputs of some instances that a destination has acknowledged."""
    ledger = Ledger(feed)
    try:
        rows = ledger.rows(
            "SELECT output.sop_instance_uid AS uid, instance.sop_instance_uid AS source FROM delivery"
            " JOIN output ON output.id = delivery.output_id JOIN instance ON instance.id = output.instance_id"
            f" WHERE delivery.state = 'delivered' AND destination = '{destination}'"
        )
    finally:
        ledger.close()
    return {str(row["uid"]) for row in rows if row["source"] in uids}


def _real(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def _renamed(name: str) -> Dataset:
    """A real radiograph under UIDs of its own."""
    dataset = dcmread(_real(name))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    return dataset


def _violations(path: Path) -> list[str]:
    checker = Path(sys.executable).parent / "dciodvfy"
    done = subprocess.run([checker, str(path)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_storescu_sends_and_the_outputs_pass_dciodvfy(peers: Peers, peer_program: Programs) -> None:
    feed = peers.feed
    echo = [peer_program("echoscu"), "-aec", "RADSTREAM", "127.0.0.1", str(feed.port)]
    subprocess.run(echo, check=True, timeout=30)
    storescu = peer_program("storescu")
    for name, syntax in (("RG1_UNCR.dcm", "-xe"), ("RG1_J2KR.dcm", "-xv"), ("RG1_J2KI.dcm", "-xw")):
        command = [storescu, syntax, "-aec", "RADSTREAM", "127.0.0.1", str(feed.port), str(_real(name))]
        subprocess.run(command, check=True, timeout=60)
    uids = [str(dcmread(_real(name)).SOPInstanceUID) for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm")]
    states = wait_settled(feed, uids)
    assert [states[uid] for uid in uids] == ["done"] * 3
    arrived = wait_until(lambda: len(_delivered(feed, uids, "archive")) == 6, 60)
    assert arrived, "a picture and a report of each"
    for uid in _delivered(feed, uids, "archive"):
        assert _violations(peers.archive.directory / f"{uid}.dcm") == []


def test_storescp_accepts_what_the_feed_sends(peers: Peers, peer_program: Programs, tmp_path: Path) -> None:
    source = _renamed("RG1_UNCR.dcm")
    file = save(source, tmp_path / "source.dcm")
    command = [peer_program("storescu"), "-aec", "RADSTREAM", "127.0.0.1", str(peers.feed.port), str(file)]
    subprocess.run(command, check=True, timeout=60)
    uids = [str(source.SOPInstanceUID)]
    assert wait_until(lambda: len(_delivered(peers.feed, uids, "dcmtk")) == 2, 60)
    outputs = _delivered(peers.feed, uids, "dcmtk")
    objects = {
        dataset.Modality: dataset
        for dataset in map(dcmread, peers.received.iterdir())
        if dataset.SOPInstanceUID in outputs
    }
    assert set(objects) == {"OT", "SR"}
    capture = objects["OT"]
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.PatientName == source.PatientName
    assert capture.pixel_array.shape[2] == 3


def test_orthanc_sends_to_the_feed_and_keeps_what_comes_back(peers: Peers, tmp_path: Path) -> None:
    feed, server = peers.feed, peers.orthanc
    files = [save(_renamed("RG1_UNCR.dcm"), tmp_path / "real.dcm"), save(chest(seed=3), tmp_path / "made.dcm")]
    stored = [server.post("/instances", file.read_bytes())["ID"] for file in files]
    server.post("/modalities/radstream/store", json.dumps(stored).encode())
    uids = [str(dcmread(file).SOPInstanceUID) for file in files]
    states = wait_settled(feed, uids)
    assert [states[uid] for uid in uids] == ["done", "done"]
    assert wait_until(lambda: len(_delivered(feed, uids, "orthanc")) == 4, 60), "a picture and a report of each"

    captures = []
    for uid in _delivered(feed, uids, "orthanc"):
        (found,) = server.post("/tools/lookup", uid.encode())
        captures.append(found["ID"])
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
