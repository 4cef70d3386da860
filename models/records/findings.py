"""What the networks found, one class per kind of answer; that of a spine is in `models.records.spine`."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, ForeignKey, String, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.records.base import Base, text_enum
from models.records.inference import Inference
from models.records.shadow import ShadowFinding
from models.records.spine import CobbFinding, HeightFinding, Landmark, SlipFinding, SpineSummary, VertebraFinding
from models.zones import HeartFailureClass, Zone


class ClassificationFinding(Base):
    """Answer of a two-class task (`pneumonia`, `normality`).

    Attributes:
        probability: calibrated probability of the positive label, in [0, 1].
        threshold: the decision threshold of the model version, in [0, 1].
        positive: probability >= threshold.
        label: the label decided for.
    """

    __tablename__ = "classification_finding"
    __table_args__ = (CheckConstraint("probability >= 0 AND probability <= 1", name="probability_range"),)

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    label: Mapped[str] = mapped_column(String(64))
    positive: Mapped[bool]
    probability: Mapped[float]
    threshold: Mapped[float]

    inference: Mapped[Inference] = relationship()


class ZoneFinding(Base):
    """One of the six zones of task `csi`; an inference has all six.

    Attributes:
        zone: sides are the patient's.
        score: 0 normal, 1 mild, 2 moderate, 3 severe; null when the zone is ungradable.
        probability: of the class called, which may be ungradable, in [0, 1].
        expected_score: mean of the graded classes by their probabilities, in [0, 3]; null when `score` is.
    """

    __tablename__ = "zone_finding"
    __table_args__ = (
        CheckConstraint("score >= 0 AND score <= 3", name="score_range"),
        CheckConstraint("probability >= 0 AND probability <= 1", name="probability_range"),
        CheckConstraint("expected_score >= 0 AND expected_score <= 3", name="expected_score_range"),
        CheckConstraint("(score IS NULL) = (expected_score IS NULL)", name="scores_together"),
    )

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    zone: Mapped[Zone] = mapped_column(text_enum(Zone), primary_key=True)
    score: Mapped[int | None]
    probability: Mapped[float]
    expected_score: Mapped[float | None]

    inference: Mapped[Inference] = relationship()


class ZoneSummary(Base):
    """What the six zones of an inference say together, and where they lie.

    Attributes:
        mean_csi: mean score of the gradable zones, in [0, 3]; null when no zone is gradable.
        gradable_zones: how many of the six have a score.
        heart_failure_class: acute heart failure by `mean_csi`; null when that is.
        lungs_found: whether the zones divide the lungs; else they divide the whole image, because the lungs were not
            found or the model version does not look for them.
        frame_left: first column of what the zones divide, pixels of the original image; negative when it begins
            beyond the image.
        frame_top: first row, likewise.
        frame_right: column after the last, pixels; more than the image's columns when it ends beyond the image.
        frame_bottom: row after the last, likewise.
    """

    __tablename__ = "zone_summary"
    __table_args__ = (
        CheckConstraint("mean_csi >= 0 AND mean_csi <= 3", name="mean_csi_range"),
        CheckConstraint("gradable_zones >= 0 AND gradable_zones <= 6", name="gradable_zones_range"),
        CheckConstraint("(mean_csi IS NULL) = (gradable_zones = 0)", name="mean_csi_of_gradable_zones"),
    )

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    mean_csi: Mapped[float | None]
    gradable_zones: Mapped[int]
    heart_failure_class: Mapped[HeartFailureClass | None] = mapped_column(text_enum(HeartFailureClass))
    lungs_found: Mapped[bool]
    frame_left: Mapped[int]
    frame_top: Mapped[int]
    frame_right: Mapped[int]
    frame_bottom: Mapped[int]

    inference: Mapped[Inference] = relationship()


_Kind = (
    type[ClassificationFinding]
    | type[ZoneFinding]
    | type[ZoneSummary]
    | type[SpineSummary]
    | type[VertebraFinding]
    | type[Landmark]
    | type[CobbFinding]
    | type[HeightFinding]
    | type[SlipFinding]
)

FINDING_KINDS: Final[tuple[_Kind, ...]] = (
    ClassificationFinding,
    ZoneFinding,
    ZoneSummary,
    SpineSummary,
    VertebraFinding,
    Landmark,
    CobbFinding,
    HeightFinding,
    SlipFinding,
)


def delete_findings(session: Session, instance_id: int) -> None:
    """Delete what any version found in an instance, one in the shadow too, within the caller's transaction."""
    inferences = select(Inference.id).where(Inference.instance_id == instance_id)
    for kind in FINDING_KINDS:
        session.execute(delete(kind).where(kind.inference_id.in_(inferences)))
    session.execute(delete(Inference).where(Inference.instance_id == instance_id))
    session.execute(delete(ShadowFinding).where(ShadowFinding.instance_id == instance_id))
