"""A newer version answers for what the feed has finished: from the archive, else from a PACS; real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from instances import Sender, chest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from reconciliation import Ledger, wait_settled
from stand_in_pacs import Pacs
from stand_in_store import add_stand_in, make_store

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from worker.__main__ import main


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs(ComputedRadiographyImageStorage, [ExplicitVRLittleEndian])
    pacs.start()
    yield pacs
    pacs.stop()


def _command(*arguments: str, rate: str = "0") -> list[str]:
    return ["backfill", "--task", "pneumonia", "--version", "two", "--format", "json", "--rate", rate, *arguments]


def _preview(capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Give the counts of a preview, made in this process, whose environment is that of the feed."""
    assert main(_command("--where", "modality = CR")) == 0
    return [row["count"] for row in json.loads(capsys.readouterr().out)]


def _started(*arguments: str, rate: str) -> subprocess.Popen[str]:
    """Start one as from a terminal, with a process group of its own."""
    command = [sys.executable, "-m", "worker", *_command("--yes", *arguments, rate=rate)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def _ended(backfill: subprocess.Popen[str], status: int) -> tuple[dict[str, int], str]:
    """Wait for its end; give its counts, and what it said beside them."""
    printed, said = backfill.communicate(timeout=120)
    assert backfill.returncode == status, said
    assert "PLANTED" not in printed + said
    return {row["what"]: row["count"] for row in json.loads(printed)}, said


def test_a_newer_version_answers_for_finished_instances_from_archive_and_pacs(
    feeds: Callable[..., Feed],
    tmp_path: Path,
    pacs: Pacs,
    archive: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = make_store(tmp_path / "models", "one", side=64)
    add_stand_in(store, tmp_path / "two", "two", side=96)
    feed = feeds(RADSTREAM_MODEL_STORE=str(store.root), RADSTREAM_SPOOL_ARCHIVE_DAYS="1")
    feed.start()
    images = [chest(128, seed) for seed in range(4)]
    sender = Sender(feed.port)
    sender.send(images)
    wait_settled(feed, sender.accepted)
    spool = feed.directory / "spool"
    assert wait_until(lambda: len(list(spool.glob("archive/*/*.dcm"))) == 4, 20, 0.1)
    assert list(spool.glob("pending/*/*.dcm")) == []
    ledger = Ledger(feed)
    made = len(ledger.rows("SELECT id FROM output"))

    # One only the PACS has, one nobody has any more.
    from_pacs, gone = images[0], images[1]
    for image in (from_pacs, gone):
        (path,) = spool.glob(f"archive/*/{image.SOPInstanceUID}_*.dcm")
        path.unlink()
    pacs.holds[str(from_pacs.SOPInstanceUID)] = from_pacs
    for name, value in {**feed.environment, "RADSTREAM_WORKER_BACKFILL_SOURCE": json.dumps(pacs.source)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
    assert _preview(capsys) == [4, 2, 2, 0, 4]
    assert pacs.asked == [], "a preview asks nobody"

    # Ctrl-C reaches every process of the terminal's group: one every five seconds, stopped after the first.
    count = "SELECT COUNT(*) AS number FROM inference JOIN model_version ON model_version.id = model_version_id"
    backfill = _started("--where", "modality = CR", rate="12")
    by_two = f"{count} WHERE version = 'two'"
    assert wait_until(lambda: ledger.rows(by_two)[0]["number"] >= 1, 60, 0.02), backfill.communicate()
    os.killpg(backfill.pid, signal.SIGINT)
    counts, said = _ended(backfill, 128 + signal.SIGINT)
    assert "the same command goes on where it stopped" in said
    assert counts["recorded"] == ledger.rows(by_two)[0]["number"] < 3
    assert len(ledger.rows("SELECT id FROM output")) == made, "nothing is sent unless --deliver"

    counts_after, _ = _ended(_started("--where", "modality = CR", "--deliver", rate="0"), 0)
    assert counts["recorded"] + counts_after["recorded"] == 3
    assert counts_after["not had"] == 1
    assert list(spool.glob("incoming/*")) == []
    answered = {str(image.SOPInstanceUID) for image in images if image is not gone}
    found = ledger.rows(
        "SELECT instance.sop_instance_uid AS uid, model_version.version FROM inference"
        " JOIN instance ON instance.id = inference.instance_id"
        " JOIN model_version ON model_version.id = inference.model_version_id"
    )
    assert sorted((row["uid"], row["version"]) for row in found) == sorted(
        [(uid, "one") for uid in sender.accepted] + [(uid, "two") for uid in answered]
    )
    views = ledger.rows("SELECT sop_instance_uid AS uid, pneumonia_version AS version, state FROM instance_findings")
    assert {row["uid"] for row in views if row["version"] == "two"} == answered
    assert {row["state"] for row in views} == {"done"}
    outputs = {str(row["uid"]) for row in ledger.rows("SELECT sop_instance_uid AS uid FROM output")}
    assert len(outputs) == made + made // 4 * counts_after["recorded"]
    ledger.close()
    assert wait_until(lambda: set(archive.counts) == outputs, 60, 0.1), "each output reaches the archive"
    assert set(archive.counts.values()) == {1}
    # Run again, there is only what cannot be had.
    assert _preview(capsys) == [1, 0, 1, 0, 1]
