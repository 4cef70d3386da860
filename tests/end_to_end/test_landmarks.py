"""Task landmarks through the whole feed: a spine sent by C-STORE as DX, its landmarks read back from SQL, its picture.

The network is a stand-in that finds the spine which the test draws, so that every place and angle is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stand_in_spine
from instances import PATIENT_ID, Sender, chest
from pydicom import Dataset, dcmread
from pydicom.uid import DigitalXRayImageStorageForPresentation
from reconciliation import Ledger, wait_settled
from stand_in_store import make_store

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from models.store.store import ModelStore
from models.tasks import Task

Feeds = Callable[..., Feed]

SHAPE = (1024, 600)  # eight pixels for each of the input
MIDDLE = (350.0, 520.0)
LANDMARKS = stand_in_spine.corners(*MIDDLE, 8.0)


def _spine(grey: int = 4095, **attributes: object) -> Dataset:
    """A whole spine seen from the front: 12 bits, 0.2 mm at the detector, magnified 1.25 times."""
    rows, columns = SHAPE
    return chest(
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        Modality="DX",
        PresentationIntentType="FOR PRESENTATION",
        **{
            "BodyPartExamined": "SPINE",
            "ViewPosition": "AP",
            "PatientOrientation": ["L", "F"],
            "ImagerPixelSpacing": [0.2, 0.2],
            "EstimatedRadiographicMagnificationFactor": 1.25,
            "Rows": rows,
            "Columns": columns,
            "PixelData": stand_in_spine.draw(SHAPE, LANDMARKS, grey).tobytes(),
            **attributes,
        },
    )


@pytest.fixture
def feed(feeds: Feeds, tmp_path: Path) -> Feed:
    store: ModelStore = make_store(tmp_path / "models")
    store.publish(Task.LANDMARKS, stand_in_spine.write_version(tmp_path / "spine"))
    store.activate(Task.LANDMARKS, "5.0.0")
    return feeds(RADSTREAM_MODEL_STORE=str(store.root))


def test_landmarks_of_a_spine_are_in_the_database_and_on_the_picture(feed: Feed, archive: Receiver) -> None:
    spine, dim, thorax = _spine(), _spine(grey=1500), chest()
    lateral, lumbar = _spine(ViewPosition="LL"), _spine(StudyDescription="Lumbar spine 2 views")
    with feed:
        sender = Sender(feed.port)
        for dataset in (spine, dim, lateral, lumbar, thorax):
            sender.send([dataset])
        assert len(sender.accepted) == 5
        wait_settled(feed, sender.accepted)
        assert wait_until(lambda: len(archive.counts) == 6, 60), "a picture and a report of each spine and of the chest"
        ledger = Ledger(feed)
        try:
            rows = {str(row["sop_instance_uid"]): row for row in ledger.rows("SELECT * FROM instance_findings")}
            studies = {str(row["study_instance_uid"]): row for row in ledger.rows("SELECT * FROM study_findings")}
            of_spine = f"""FROM {{}} AS finding JOIN inference ON inference.id = finding.inference_id
                JOIN instance ON instance.id = inference.instance_id
                WHERE instance.sop_instance_uid = '{spine.SOPInstanceUID}'"""
            landmarks = ledger.rows(f"SELECT finding.* {of_spine.format('landmark')}")
            angles = ledger.rows(f"SELECT finding.* {of_spine.format('cobb_finding')}")
            (body,) = ledger.rows(
                f"SELECT finding.* {of_spine.format('height_finding')} AND part = 'body' AND upper_vertebra = 'T1'"
            )
            (summary,) = ledger.rows(f"SELECT finding.* {of_spine.format('spine_summary')}")
        finally:
            ledger.close()

    row = rows[str(spine.SOPInstanceUID)]
    assert (row["state"], row["landmarks_version"]) == ("done", "5.0.0")
    assert (row["cobb_main"], row["cobb_upper"], row["cobb_lower"]) == pytest.approx((25, 15, 10), abs=0.01)
    assert (row["cobb_main_upper_vertebra"], row["cobb_main_lower_vertebra"]) == ("T4", "T11")
    assert (bool(row["landmarks_review"]), row["landmarks_review_reasons"]) == (False, None)
    assert row["pneumonia_probability"] is None, "a spine has no probability of pneumonia"
    assert studies[str(spine.StudyInstanceUID)]["cobb_main"] == row["cobb_main"]

    found = {(place["vertebra"], place["corner"]): (place["x"], place["y"]) for place in landmarks}
    ordered = np.array([found[vertebra, corner.value] for vertebra, corner in stand_in_spine.SCHEMA.points])
    assert ordered == pytest.approx(LANDMARKS, abs=4), "half a pixel of the input"
    assert {
        angle["curve"]: (round(float(str(angle["degrees"]))), angle["upper_vertebra"], angle["lower_vertebra"])
        for angle in angles
    } == stand_in_spine.ANGLES
    assert (summary["spacing_source"], summary["row_mm"]) == ("imager_pixel_spacing_corrected", pytest.approx(0.16))
    assert (body["left_px"], body["left_mm"]) == pytest.approx((32, 32 * 0.16), abs=0.01)

    doubtful = rows[str(dim.SOPInstanceUID)]
    assert (bool(doubtful["landmarks_review"]), doubtful["landmarks_review_reasons"]) == (True, "low_confidence")
    assert studies[str(dim.StudyInstanceUID)]["landmarks_review"] == 1

    for other in (lateral, lumbar):
        assert (rows[str(other.SOPInstanceUID)]["state"], rows[str(other.SOPInstanceUID)]["reason"]) == (
            "skipped",
            "excluded_by_rule",
        )
        assert rows[str(other.SOPInstanceUID)]["landmarks_version"] is None
    analysed = rows[str(thorax.SOPInstanceUID)]
    assert analysed["pneumonia_probability"] is not None
    assert (analysed["landmarks_version"], analysed["cobb_main"]) == (None, None), "a chest never gets landmarks"

    captures = [dcmread(path) for path in archive.directory.rglob("*.dcm")]
    of_spines = {str(each.StudyInstanceUID): each for each in captures if "landmarks overlay" in each.SeriesDescription}
    assert of_spines.keys() == {str(spine.StudyInstanceUID), str(dim.StudyInstanceUID)}
    picture = of_spines[str(spine.StudyInstanceUID)]
    assert picture.PatientID == PATIENT_ID
    assert "Cobb main 25.0 deg T4-T11" in picture.DerivationDescription
    assert "for review: low confidence" in of_spines[str(dim.StudyInstanceUID)].DerivationDescription
    assert min(picture.Rows, picture.Columns) >= 512
    assert picture.PhotometricInterpretation in {"RGB", "YBR_FULL_422"}
