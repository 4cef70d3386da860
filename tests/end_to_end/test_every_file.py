"""Every file of a mixed collection is refused, answered or ends in a recorded state; nothing dies or hangs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instances import chest, save
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from reconciliation import Ledger, spool_leftovers, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from deploy.sending import Sent, files_under, send_files

COLLECTION = Path(__file__).parents[3] / "shared" / "data" / "dicom"
LONGEST_S = 30.0

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files are odd on purpose


@pytest.fixture(scope="module")
def long_lived(
    lasting_feeds: Any, tmp_path_factory: pytest.TempPathFactory, stand_in_store: Path
) -> Iterator[tuple[Feed, set[str]]]:
    """One feed for the file, and all that it ever accepted."""
    directory = tmp_path_factory.mktemp("every_file")
    with (
        Receiver(directory / "archive") as archive,
        lasting_feeds(directory, stand_in_store, archive) as feeds,
        feeds() as feed,
    ):
        yield feed, set()


@pytest.fixture
def accepted(long_lived: tuple[Feed, set[str]]) -> set[str]:
    return long_lived[1]


@pytest.fixture
def feed(long_lived: tuple[Feed, set[str]]) -> Feed:
    return long_lived[0]


def _send_timed(files: list[Path], feed: Feed) -> tuple[list[Sent], float]:
    sent, longest = [], 0.0
    for file in files:
        began = time.monotonic()
        sent.extend(send_files([file], "127.0.0.1", feed.port, "RADSTREAM"))
        longest = max(longest, time.monotonic() - began)
    return sent, longest


def _assert_all_accounted_for(feed: Feed, sent: list[Sent], accepted: set[str]) -> Counter[tuple[str, str]]:
    """Every instance of the ledger was accepted, now or before; count the states of those that were sent now."""
    now = {item.sop_instance_uid for item in sent if item.status == 0}
    accepted |= now
    wait_settled(feed, now)
    ledger = Ledger(feed)
    try:
        rows = ledger.rows("SELECT sop_instance_uid, state, reason FROM instance")
        slow = ledger.rows("SELECT sop_instance_uid, received_at, settled_at FROM instance")
    finally:
        ledger.close()
    assert {row["sop_instance_uid"] for row in rows} == accepted
    for item in sent:
        assert item.status is not None or item.problem, f"{item.path.name}: neither answered nor refused"
    for row in rows:
        assert (row["reason"] is None) == (row["state"] == "done"), row
    assert len(slow) == len(accepted)
    assert wait_until(lambda: not spool_leftovers(feed), 20)
    assert feed.scp.running
    assert feed.worker.running
    return Counter((str(row["state"]), str(row["reason"] or "")) for row in rows if row["sop_instance_uid"] in now)


@pytest.mark.skipif(not COLLECTION.exists(), reason="the shared collection of DICOM files is not here")
@pytest.mark.parametrize("accept_all", [False, True], ids=["radiographs only", "every storage class"])
def test_every_file_of_the_shared_collection_is_accounted_for(feed: Feed, accepted: set[str], accept_all: bool) -> None:
    if accept_all:
        feed.scp.stop()
        feed.environment["RADSTREAM_SCP_ACCEPT_ALL_STORAGE"] = "true"
        feed.scp.start()
        feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
    files = [file for file in files_under(COLLECTION) if file.name != "manifest.csv"]
    assert len(files) == 55
    sent, longest = _send_timed(files, feed)
    states = _assert_all_accounted_for(feed, sent, accepted)
    assert longest < LONGEST_S
    answers = Counter(item.problem or f"0x{item.status:04x}" for item in sent)
    print("answers", dict(answers), "states", dict(states))
    assert states["done", ""] >= 5, "the chest radiographs of the collection"
    assert states["skipped", "no_rule_matched"] >= 10


def test_malformed_and_odd_instances_end_with_a_reason(feed: Feed, accepted: set[str], tmp_path: Path) -> None:
    odd = {
        "no_pixel_data": _without(chest(), "PixelData"),
        "unsupported_pixels": chest(NumberOfFrames=3, PixelData=chest().PixelData * 3),
        "too_large": chest(Rows=65535, Columns=65535),
        "undecodable_pixels": chest(PixelData=b"\x00" * 1000),
        "malformed_dataset": _without(chest(), "StudyInstanceUID"),
        "excluded_by_rule": chest(ViewPosition="LL"),
        "no_rule_matched": chest(BodyPartExamined="KNEE"),
        "own_output": chest(Manufacturer="radstream", ManufacturerModelName="radstream"),
    }
    files = [save(dataset, tmp_path / f"{name}.dcm") for name, dataset in odd.items()]
    sent, longest = _send_timed(files, feed)
    assert longest < LONGEST_S
    _assert_all_accounted_for(feed, sent, accepted)
    ledger = Ledger(feed)
    reasons = {row["sop_instance_uid"]: row["reason"] for row in ledger.rows("SELECT * FROM instance")}
    ledger.close()
    assert {name: reasons[dataset.SOPInstanceUID] for name, dataset in odd.items()} == {name: name for name in odd}


def test_one_bad_instance_never_fails_its_neighbours(feed: Feed, accepted: set[str], tmp_path: Path) -> None:
    real = dcmread(str(get_testdata_file("RG1_J2KR.dcm", download=False)))
    broken = bytearray(real.PixelData)
    broken[2000:-2000] = b"\xff" * (len(broken) - 4000)
    real.PixelData = bytes(broken)
    real.SOPInstanceUID = real.file_meta.MediaStorageSOPInstanceUID = generate_uid()  # the whole one may be there
    files = [save(chest(seed=seed), tmp_path / f"good{seed}.dcm") for seed in range(3)]
    files.insert(1, save(real, tmp_path / "broken.dcm"))
    sent, _ = _send_timed(files, feed)
    states = _assert_all_accounted_for(feed, sent, accepted)
    assert states["done", ""] == 3
    assert sum(count for (state, _), count in states.items() if state == "failed") == 1


def _without(dataset: object, keyword: str) -> object:
    delattr(dataset, keyword)
    return dataset
