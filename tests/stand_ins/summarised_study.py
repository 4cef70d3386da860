"""A study of which everything can be told that a summary tells, with two earlier ones of the patient, as records."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from stand_in_records import NOON, Records

from models.records.dicom import Instance, InstanceState, Study
from models.records.inference import Inference
from models.records.outputs import Output, OutputKind
from models.records.spine import SlipFinding
from models.spine.slips import SlipKind
from models.tasks import Task

STUDY_UID: Final = "1.2.826.0.1.3680043.9.7433.1"
CR: Final = "1.2.840.10008.5.1.4.1.1.1"
PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
PATIENT: Final = {"patient_id": "4711", "patient_id_issuer": "CLINIC"}


def write_study(write: Records, *, earlier: bool = True) -> Study:
    """Write two chests, a spine, a PDF that was skipped and an image that failed."""
    for number, (mean, degrees) in enumerate(((1.0, 20.0), (1.5, 24.5)) if earlier else (), start=1):
        before = write.study(f"1.2.7.{number}", date(2025, number, 1), **PATIENT)
        series = write.series(before.study_instance_uid, f"1.2.7.{number}.1")
        write.congestion(write.instance(f"1.2.7.{number}.1.1", series), (1,) * 6, mean, "low")
        write.spine(write.instance(f"1.2.7.{number}.1.2", series), (degrees,))
    study = write.study(STUDY_UID, date(2026, 3, 1), **PATIENT)
    series = write.series(STUDY_UID, f"{STUDY_UID}.1")
    chests = [write.instance(f"{STUDY_UID}.1.{number}", series, sop_class_uid=CR) for number in (1, 2)]
    for chest, probability in zip(chests, (0.25, 0.8125), strict=True):
        write.finding(chest, probability)
        write.finding(chest, probability / 2, task=Task.NORMALITY)
    write.congestion(chests[0], (0, 1, 2, 3, None, 0), 1.2, "low")
    write.congestion(chests[1], (3, 2, 2, 2, None, 3), 2.4, "high")
    spine = write.instance(f"{STUDY_UID}.2.1", write.series(STUDY_UID, f"{STUDY_UID}.2"), sop_class_uid=CR)
    write.spine(spine, (31.25, 12.0, 9.5), "low_confidence")
    write_slip(write, spine, 27.5)
    write.instance(f"{STUDY_UID}.1.8", series, InstanceState.SKIPPED, reason="not_a_radiograph", sop_class_uid=PDF)
    write.instance(f"{STUDY_UID}.1.9", series, InstanceState.FAILED, reason="decode_timeout", sop_class_uid=CR)
    for number, chest in enumerate(chests, start=1):
        write_report(write, chest, f"2.25.{number}")
    return study


def write_slip(write: Records, spine: Instance, percent: float) -> None:
    """Let the answer of landmarks have a slip of L4."""
    answer = write.session.query(Inference).filter_by(instance_id=spine.id).one()
    kind = SlipKind.NORMAL if abs(percent) < 5 else SlipKind.ANTEROLISTHESIS if percent > 0 else SlipKind.RETROLISTHESIS
    write.add(
        SlipFinding(
            inference_id=answer.id,
            upper_vertebra="L4",
            lower_vertebra="L5",
            kind=kind,
            percent=percent,
            offset_px=9.0,
            angle_degrees=3.0,
            grade=2,
        )
    )


def write_report(write: Records, instance: Instance, uid: str, version: str | None = "1.0", minute: int = 1) -> None:
    """Write the structured report on an instance, of a version of pneumonia or that it was not analysed."""
    write.add(
        Output(
            instance_id=instance.id,
            model_version_id=write.versions[Task.PNEUMONIA, version].id if version else None,
            kind=OutputKind.STRUCTURED_REPORT,
            sop_class_uid=SR,
            sop_instance_uid=uid,
            series_instance_uid="2.25.80",
            file_name=f"{uid}.dcm",
            created_at=NOON + timedelta(minutes=minute),
        )
    )
