"""What a version in the shadow found, apart from everything that is believed: no view shows it, nothing is sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, UtcDateTime, text_enum
from models.records.dicom import Instance
from models.tasks import Task


class ShadowFinding(Base):
    """One instance through one version in the shadow, beside the answer that counted.

    Attributes:
        live_version: that answered, active or canary.
        shadow_version: that only looked.
        live_score, shadow_score: each answer as one number in [0, 1], as the worker's score metric has it: the
            probability of the positive label, mean CSI as a part of 3, the mean confidence of landmarks; null where an
            answer has none.
        agrees: whether both say the same: the same label; the same score in all six zones; of landmarks, the same
            verdict whether a person should look.
        difference: how far apart they are, at least 0. Classification: of the probabilities. `csi`: mean over the six
            zones of the difference of scores, a zone that only one can grade counting 3. `landmarks`: mean distance of
            the landmarks that both found, pixels of the original image; without any, the diagonal of the image.
        detail: both answers in short, keys ``live`` and ``shadow``: label and probability; scores by zone, null
            where ungradable; Cobb angles in degrees by curve.
    """

    __tablename__ = "shadow_finding"
    __table_args__ = (
        UniqueConstraint("instance_id", "task", "shadow_version"),
        Index("ix_shadow_finding_task_inferred_at", "task", "inferred_at"),
        CheckConstraint("live_score >= 0 AND live_score <= 1", name="live_score_range"),
        CheckConstraint("shadow_score >= 0 AND shadow_score <= 1", name="shadow_score_range"),
        CheckConstraint("difference >= 0", name="difference_range"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    task: Mapped[Task] = mapped_column(text_enum(Task))
    live_version: Mapped[str] = mapped_column(String(64))
    shadow_version: Mapped[str] = mapped_column(String(64))
    live_score: Mapped[float | None]
    shadow_score: Mapped[float | None]
    agrees: Mapped[bool]
    difference: Mapped[float]
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    provider: Mapped[str] = mapped_column(String(32))
    precision: Mapped[str] = mapped_column(String(16))
    inferred_at: Mapped[datetime] = mapped_column(UtcDateTime)

    instance: Mapped[Instance] = relationship()
