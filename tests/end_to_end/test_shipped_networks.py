"""The shipped networks in a whole feed: real radiographs sent by C-STORE, read back from SQL and the archive.

One feed for the file: what takes its time is to load the networks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stand_in_spine
from instances import Sender, chest, save
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid
from reconciliation import Ledger, wait_settled
from rich.console import Console

from deploy.demo import show, wait_for_findings
from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from deploy.sending import send_files
from models.settings import Settings
from models.zones import ZONES

AASCE = Path(__file__).parents[3] / "shared" / "data" / "aasce"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for the file, as the feed is."""
    with Receiver(tmp_path_factory.mktemp("archive")) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def feed(lasting_feeds: Any, tmp_path_factory: pytest.TempPathFactory, archive: Receiver) -> Iterator[Feed]:
    directory = tmp_path_factory.mktemp("shipped")
    with lasting_feeds(directory, Settings().model_store, archive) as feeds, feeds() as feed:
        yield feed


def _delivered(ledger: Ledger, source: Dataset) -> set[str]:
    """UIDs of the outputs of an instance that the archive has acknowledged."""
    rows = ledger.rows(
        "SELECT output.sop_instance_uid AS uid FROM delivery JOIN output ON output.id = delivery.output_id"
        " JOIN instance ON instance.id = output.instance_id"
        f" WHERE delivery.state = 'delivered' AND instance.sop_instance_uid = '{source.SOPInstanceUID}'"
    )
    return {str(row["uid"]) for row in rows}


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


def _spine(film: np.ndarray) -> Dataset:
    """A radiograph of 8 bits, (H, W), as a whole spine from the front."""
    return chest(
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        Modality="DX",
        PresentationIntentType="FOR PRESENTATION",
        BodyPartExamined="SPINE",
        ViewPosition="AP",
        PatientOrientation=["L", "F"],
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        WindowCenter=127.5,
        WindowWidth=256,
        Rows=film.shape[0],
        Columns=film.shape[1],
        PixelData=film.tobytes() + b"\0" * (film.size % 2),
    )


def test_zone_scores_of_a_chest_are_in_the_database_and_on_the_picture(feed: Feed, archive: Receiver) -> None:
    frontal, lateral = _chest(ViewPosition="PA"), _chest(ViewPosition="LL")
    hip = _chest(BodyPartExamined="HIP")
    sender = Sender(feed.port)
    sender.send([frontal, lateral, hip])
    assert len(sender.accepted) == 3
    wait_settled(feed, sender.accepted)
    of_frontal = f"""inference_id IN (SELECT inference.id FROM inference JOIN instance
        ON instance.id = inference.instance_id WHERE sop_instance_uid = '{frontal.SOPInstanceUID}')"""
    ledger = Ledger(feed)
    try:
        assert wait_until(lambda: len(_delivered(ledger, frontal)) == 4, 60), "a picture and a report of each task"
        rows = {str(row["sop_instance_uid"]): row for row in ledger.rows("SELECT * FROM instance_findings")}
        studies = {str(row["study_instance_uid"]): row for row in ledger.rows("SELECT * FROM study_findings")}
        zones = ledger.rows(f"SELECT * FROM zone_finding WHERE {of_frontal}")
        (summary,) = ledger.rows(f"SELECT * FROM zone_summary WHERE {of_frontal}")
        delivered = _delivered(ledger, frontal)
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

    assert archive.counts.keys() >= delivered
    files = (archive.directory / f"{uid}.dcm" for uid in delivered)
    captures = {capture.SeriesDescription: capture for capture in map(dcmread, files)}
    (picture,) = [capture for name, capture in captures.items() if name.startswith("AI csi overlay")]
    assert (
        f"mean CSI {row['csi_mean']:.2f}, right_sup {scores[0]}, left_sup {scores[1]}" in picture.DerivationDescription
    )
    assert picture.StudyInstanceUID == frontal.StudyInstanceUID
    assert min(picture.Rows, picture.Columns) >= 512


@pytest.mark.skipif(not (AASCE / "training").is_dir(), reason="the radiographs are not there")
def test_real_spines_are_located(feed: Feed) -> None:
    names = (AASCE / "training_filenames.csv").read_text().splitlines()
    rows = np.loadtxt(AASCE / "training_landmarks.csv", delimiter=",")
    chosen = [100, 250, 400]
    films = [cv2.imread(str(AASCE / "training" / names[place]), cv2.IMREAD_GRAYSCALE) for place in chosen]
    spines = [_spine(film) for film in films]
    sender = Sender(feed.port)
    for spine in spines:
        sender.send([spine])
    wait_settled(feed, sender.accepted)
    ledger = Ledger(feed)
    try:
        for spine in spines:
            assert wait_until(lambda one=spine: len(_delivered(ledger, one)) == 2, 60), "a picture and a report of each"
        found = ledger.rows("""SELECT sop_instance_uid, vertebra, corner, x, y FROM landmark
            JOIN inference ON inference.id = landmark.inference_id
            JOIN instance ON instance.id = inference.instance_id""")
    finally:
        ledger.close()
    for place, film, spine in zip(chosen, films, spines, strict=True):
        size = np.array(film.shape[::-1])
        truth = rows[place].reshape(2, -1).T * size
        of_film = {
            (row["vertebra"], row["corner"]): (row["x"], row["y"])
            for row in found
            if row["sop_instance_uid"] == str(spine.SOPInstanceUID)
        }
        answered = np.array([of_film[vertebra, corner.value] for vertebra, corner in stand_in_spine.SCHEMA.points])
        away = np.hypot(*(answered - truth).T) * 512 / size.max()
        assert away.mean() < 24, "letterbox pixels; a vertebra is about as high"


def test_the_demo_shows_the_angle_of_a_spine_that_it_is_given(feed: Feed, archive: Receiver, tmp_path: Path) -> None:
    spine = chest(BodyPartExamined="SPINE", ViewPosition="AP", Modality="DX")
    file = save(spine, tmp_path / "spine.dcm")
    sent = list(send_files([file], "127.0.0.1", feed.port, "RADSTREAM"))
    rows, settled = wait_for_findings(feed, sent)
    assert settled
    told = io.StringIO()
    assert show(Console(file=told, width=200), sent, rows, archive.directory, tmp_path), "every picture came back"
    assert "main Cobb" in told.getvalue()
    (picture,) = tmp_path.glob(f"overlay_*_{spine.SOPInstanceUID}.png")
    assert picture.name.split("_")[1] == "landmarks"
