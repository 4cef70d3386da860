"""Task csi through the whole feed, with the shipped networks: sent by C-STORE, read back from SQL and the archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from instances import Sender
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from reconciliation import Ledger, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from models.settings import Settings
from models.zones import ZONES

Feeds = Callable[..., Feed]


def _chest(**attributes: object) -> Dataset:
    """A real frontal chest radiograph under UIDs of its own; `attributes` are changed."""
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert isinstance(path, str), "comes with pydicom-data"
    dataset = dcmread(Path(path))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def feed(feeds: Feeds) -> Feed:
    return feeds(RADSTREAM_MODEL_STORE=str(Settings().model_store))


def test_zone_scores_of_a_chest_are_in_the_database_and_on_the_picture(feed: Feed, archive: Receiver) -> None:
    frontal, lateral = _chest(ViewPosition="PA"), _chest(ViewPosition="LL")
    hip = _chest(BodyPartExamined="HIP")
    with feed:
        sender = Sender(feed.port)
        sender.send([frontal, lateral, hip])
        assert len(sender.accepted) == 3
        wait_settled(feed, sender.accepted)
        assert wait_until(lambda: len(archive.counts) == 4, 60), "a picture and a report of each task"
        ledger = Ledger(feed)
        try:
            rows = {str(row["sop_instance_uid"]): row for row in ledger.rows("SELECT * FROM instance_findings")}
            studies = {str(row["study_instance_uid"]): row for row in ledger.rows("SELECT * FROM study_findings")}
            zones = ledger.rows("SELECT * FROM zone_finding")
            (summary,) = ledger.rows("SELECT * FROM zone_summary")
        finally:
            ledger.close()

    row = rows[str(frontal.SOPInstanceUID)]
    scores = [row[f"csi_{zone}"] for zone in ZONES]
    assert row["state"] == "done"
    assert row["csi_gradable_zones"] == 6
    assert all(score in (0, 1, 2, 3) for score in scores)
    assert row["csi_mean"] == pytest.approx(np.mean(scores))
    assert row["heart_failure_class"] == (
        "low" if row["csi_mean"] <= 1.3 else "medium" if row["csi_mean"] <= 2.2 else "high"
    )
    assert row["csi_lungs_found"]
    assert row["pneumonia_probability"] is not None
    assert studies[str(frontal.StudyInstanceUID)]["csi_mean"] == row["csi_mean"]

    assert {finding["zone"]: finding["score"] for finding in zones} == dict(zip(map(str, ZONES), scores, strict=True))
    for finding in zones:
        assert 0 <= finding["expected_score"] <= 3
        assert 0 < finding["probability"] <= 1
    assert 0 <= summary["frame_left"] < summary["frame_right"] <= frontal.Columns
    assert 0 <= summary["frame_top"] < summary["frame_bottom"] <= frontal.Rows

    assert (rows[str(lateral.SOPInstanceUID)]["state"], rows[str(lateral.SOPInstanceUID)]["reason"]) == (
        "skipped",
        "excluded_by_rule",
    )
    assert rows[str(lateral.SOPInstanceUID)]["csi_mean"] is None
    assert rows[str(hip.SOPInstanceUID)]["reason"] == "no_rule_matched"

    captures = {capture.SeriesDescription: capture for capture in map(dcmread, archive.directory.rglob("*.dcm"))}
    (picture,) = [capture for name, capture in captures.items() if name.startswith("AI csi overlay")]
    assert (
        f"mean CSI {row['csi_mean']:.2f}, right_sup {scores[0]}, left_sup {scores[1]}" in picture.DerivationDescription
    )
    assert picture.StudyInstanceUID == frontal.StudyInstanceUID
    assert min(picture.Rows, picture.Columns) >= 512
