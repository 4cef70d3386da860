"""What the networks found, one class per kind of answer."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base
from models.records.inference import Inference


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
