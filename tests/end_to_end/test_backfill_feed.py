"""A newer version answers for what the feed has finished: from the archive, else from a PACS; real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instances import Sender, chest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from reconciliation import Ledger, wait_settled
from stand_in_pacs import Pacs
from stand_in_store import add_stand_in, make_store

from deploy.launcher import Feed, wait_until


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs(ComputedRadiographyImageStorage, [ExplicitVRLittleEndian])
    pacs.start()
    yield pacs
    pacs.stop()


def _backfill(feed: Feed, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    command = ["backfill", "--task", "pneumonia", "--version", "two", "--format", "json", "--rate", "0", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "worker", *command],
        env={**os.environ, **feed.environment, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "PLANTED" not in done.stderr + done.stdout
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_newer_version_answers_for_finished_instances_from_archive_and_pacs(
    feeds: Callable[..., Feed], tmp_path: Path, pacs: Pacs
) -> None:
    store = make_store(tmp_path / "models", "one", side=64)
    add_stand_in(store, tmp_path / "two", "two", side=96)
    feed = feeds(processes=1, RADSTREAM_MODEL_STORE=str(store.root), RADSTREAM_SPOOL_ARCHIVE_DAYS="1")
    feed.start()
    images = [chest(128, seed) for seed in range(4)]
    sender = Sender(feed.port)
    sender.send(images)
    wait_settled(feed, sender.accepted)
    spool = feed.directory / "spool"
    assert wait_until(lambda: len(list(spool.glob("archive/*/*.dcm"))) == 4, 20, 0.1)
    assert list(spool.glob("pending/*/*.dcm")) == []

    # One only the PACS has, one nobody has any more.
    from_pacs, gone = images[0], images[1]
    for image in (from_pacs, gone):
        (path,) = spool.glob(f"archive/*/{image.SOPInstanceUID}_*.dcm")
        path.unlink()
    pacs.holds[str(from_pacs.SOPInstanceUID)] = from_pacs
    source = {"RADSTREAM_WORKER_BACKFILL_SOURCE": json.dumps(pacs.source)}
    counts = {row["what"]: row["count"] for row in _backfill(feed, "--where", "modality = CR", **source)}
    assert list(counts.values()) == [4, 2, 2, 0, 4]
    assert pacs.asked == [], "a preview asks nobody"

    rows = _backfill(feed, "--yes", "--where", "modality = CR", **source)
    assert {(row["what"], row["count"]) for row in rows} == {("recorded", 3), ("not had", 1)}
    assert list(spool.glob("incoming/*")) == []
    answered = {str(image.SOPInstanceUID) for image in images if image is not gone}
    ledger = Ledger(feed)
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
    assert len(ledger.rows("SELECT id FROM output")) == 4, "nothing is sent unless --deliver"
    ledger.close()
    # Run again, there is only what cannot be had.
    assert [row["count"] for row in _backfill(feed)] == [1, 0, 0, 1, 0]
