"""Writes rows of the results database as a worker would, in few words, for answers that are worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.shadow import ShadowFinding
from models.records.spine import CobbFinding, SpineSummary
from models.requests import Lane
from models.spine.cobb import Curve
from models.spine.schemas import SpineView
from models.tasks import Task
from models.zones import ZONES, HeartFailureClass

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = date(2026, 1, 1)


def at(minute: int) -> datetime:
    """So many minutes after noon of 2026-01-01, UTC."""
    return NOON.replace(minute=minute)


class Records:
    """Writes rows in one session; the caller commits."""

    def __init__(self, session: Session) -> None:
        self.session = session
        served = {
            Task.PNEUMONIA: ("1.0", "2.0"),
            Task.NORMALITY: ("1.0",),
            Task.CSI: ("3.0", "4.0"),
            Task.LANDMARKS: ("5.0", "6.0"),
        }
        self.versions = {
            (task, name): self.add(
                ModelVersion(task=task, version=name, network="n", network_sha256="0" * 64, first_served_at=NOON)
            )
            for task, names in served.items()
            for name in names
        }

    def add(self, row: Any) -> Any:
        """Add a row, so that it has its key."""
        self.session.add(row)
        self.session.flush()
        return row

    def study(self, uid: str, day: date | None = DAY, **attributes: str | None) -> Study:
        """A study, found or made."""
        known = self.session.query(Study).filter_by(study_instance_uid=uid).one_or_none()
        return known or self.add(
            Study(**{"study_instance_uid": uid, "accession_number": f"A{uid}", "study_date": day, **attributes})
        )

    def series(self, study_uid: str, series_uid: str, modality: str = "DX") -> Series:
        """A series, in its study."""
        study = self.study(study_uid)
        return self.add(Series(study_id=study.id, series_instance_uid=series_uid, modality=modality))

    def instance(
        self,
        uid: str,
        series: Series | None,
        state: InstanceState = InstanceState.DONE,
        minute: int = 0,
        reason: str | None = None,
        received_at: datetime | None = None,
        settled_after_s: float = 60,
        **attributes: Any,
    ) -> Instance:
        """An instance."""
        received = received_at or at(minute)
        waiting = state in {InstanceState.RECEIVED, InstanceState.QUEUED}
        known: dict[str, Any] = {
            "sop_class_uid": "1.2",
            "transfer_syntax_uid": "1.2",
            "content_sha256": "0" * 64,
            "calling_ae_title": "MODALITY",
            "lane": Lane.ROUTINE,
            "settled_at": None if waiting else received + timedelta(seconds=settled_after_s),
        }
        return self.add(
            Instance(
                sop_instance_uid=uid,
                state=state,
                reason=reason,
                series_id=series.id if series else None,
                received_at=received,
                **{**known, **attributes},
            )
        )

    def inference(self, instance: Instance, version: str, task: Task, inferred_at: datetime = NOON) -> Inference:
        """An answer, without its finding."""
        return self.add(
            Inference(
                instance_id=instance.id,
                model_version_id=self.versions[task, version].id,
                provider="onnxruntime",
                precision="fp32",
                inferred_at=inferred_at,
            )
        )

    def finding(
        self,
        instance: Instance,
        probability: float,
        version: str = "1.0",
        task: Task = Task.PNEUMONIA,
        inferred_at: datetime = NOON,
    ) -> None:
        """An answer of two classes, positive from a half on."""
        inference = self.inference(instance, version, task, inferred_at)
        positive = probability >= 0.5
        self.add(
            ClassificationFinding(
                inference_id=inference.id,
                label="pneumonia" if positive else "normal",
                positive=positive,
                probability=probability,
                threshold=0.5,
            )
        )

    def congestion(
        self,
        instance: Instance,
        scores: Sequence[int | None],
        mean: float | None,
        worst: str | None,
        version: str = "3.0",
        lungs_found: bool = True,
        inferred_at: datetime = NOON,
    ) -> None:
        """An answer of six zones."""
        inference = self.inference(instance, version, Task.CSI, inferred_at)
        for zone, score in zip(ZONES, scores, strict=True):
            expected = None if score is None else 1.5
            self.add(
                ZoneFinding(inference_id=inference.id, zone=zone, score=score, probability=0.5, expected_score=expected)
            )
        self.add(
            ZoneSummary(
                inference_id=inference.id,
                mean_csi=mean,
                gradable_zones=sum(score is not None for score in scores),
                heart_failure_class=worst and HeartFailureClass(worst),
                lungs_found=lungs_found,
                frame_left=-5,
                frame_top=0,
                frame_right=100,
                frame_bottom=90,
            )
        )

    def spine(
        self,
        instance: Instance,
        angles: Sequence[float],
        reasons: str | None = None,
        version: str = "5.0",
        inferred_at: datetime = NOON,
    ) -> None:
        """An answer of landmarks."""
        inference = self.inference(instance, version, Task.LANDMARKS, inferred_at)
        self.add(
            SpineSummary(
                inference_id=inference.id,
                landmark_schema="aasce68",
                view=SpineView.FRONTAL,
                mean_confidence=0.75,
                review=reasons is not None,
                review_reasons=reasons,
            )
        )
        for curve, degrees in zip(Curve, angles, strict=False):
            ends = ("T4", "T11") if curve is Curve.MAIN else ("T1", "T4")
            self.add(
                CobbFinding(
                    inference_id=inference.id,
                    curve=curve,
                    degrees=degrees,
                    upper_vertebra=ends[0],
                    lower_vertebra=ends[1],
                )
            )

    def shadow(
        self, instance: Instance, agrees: bool, live: str = "1.0", shadow: str = "2.0", inferred_at: datetime = NOON
    ) -> None:
        """What a version of pneumonia in the shadow found."""
        self.add(
            ShadowFinding(
                instance_id=instance.id,
                task=Task.PNEUMONIA,
                live_version=live,
                shadow_version=shadow,
                live_score=0.5,
                shadow_score=0.5,
                agrees=agrees,
                difference=0.0,
                detail={},
                provider="onnxruntime",
                precision="fp32",
                inferred_at=inferred_at,
            )
        )
