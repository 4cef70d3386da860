"""What the network of task `landmarks` found: landmarks, and what was measured on them.

Places are in pixels of the original image, x to the right and y downwards, counted from the top-left corner of the
top-left pixel. Millimetres are null where the header does not say what a pixel measures; sides are those of the image.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, text_enum
from models.records.inference import Inference
from models.spine.cobb import Curve
from models.spine.corners import ImageSide
from models.spine.measures import Part
from models.spine.schemas import Corner, SpineView
from models.spine.slips import SlipKind
from models.spine.spacing import SpacingSource


class SpineSummary(Base):
    """What the landmarks of an inference say together; an inference of the task has one.

    Attributes:
        landmark_schema: name of the set of landmarks.
        view: that its landmarks are of.
        anterior: side of the image at which the patient's front is; null on a frontal view and where it is not known.
        mean_confidence: of all landmarks, in [0, 1].
        review: whether a person should look at it.
        review_reasons: why, joined by commas; null when nobody need.
        row_mm: between the centres of neighbouring rows; null when the header does not say it.
        column_mm: between the centres of neighbouring columns, likewise.
        spacing_source: what says so; lengths measured at the detector are larger than those of the patient.
    """

    __tablename__ = "spine_summary"
    __table_args__ = (
        CheckConstraint("mean_confidence >= 0 AND mean_confidence <= 1", name="mean_confidence_range"),
        CheckConstraint("review = (review_reasons IS NOT NULL)", name="review_has_reasons"),
        CheckConstraint("row_mm > 0 AND column_mm > 0", name="spacing_range"),
        CheckConstraint(
            "(row_mm IS NULL) = (spacing_source IS NULL) AND (column_mm IS NULL) = (spacing_source IS NULL)",
            name="spacing_together",
        ),
    )

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    landmark_schema: Mapped[str] = mapped_column(String(32))
    view: Mapped[SpineView] = mapped_column(text_enum(SpineView))
    anterior: Mapped[ImageSide | None] = mapped_column(text_enum(ImageSide))
    mean_confidence: Mapped[float]
    review: Mapped[bool]
    review_reasons: Mapped[str | None] = mapped_column(String(256))
    row_mm: Mapped[float | None]
    column_mm: Mapped[float | None]
    spacing_source: Mapped[SpacingSource | None] = mapped_column(text_enum(SpacingSource))

    inference: Mapped[Inference] = relationship()


class VertebraFinding(Base):
    """How sure the network is of one vertebra; an inference has all of its schema.

    Attributes:
        vertebra: T1 to L5 and S1, or V1 and so on where the levels are not known.
        confidence: the least of its landmarks, in [0, 1].
        review: whether a person should look at this vertebra.
    """

    __tablename__ = "vertebra_finding"
    __table_args__ = (CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence_range"),)

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    vertebra: Mapped[str] = mapped_column(String(8), primary_key=True)
    confidence: Mapped[float]
    review: Mapped[bool]

    inference: Mapped[Inference] = relationship()


class Landmark(Base):
    """One landmark.

    Attributes:
        vertebra: that it belongs to.
        corner: of the vertebra in the image.
        x, y: its place, possibly beyond the image; null when it is not there.
        confidence: in [0, 1].
        spread: the standard deviation of its place, pixels.
    """

    __tablename__ = "landmark"
    __table_args__ = (
        CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence_range"),
        CheckConstraint("spread >= 0", name="spread_range"),
        CheckConstraint("(x IS NULL) = (y IS NULL)", name="place_together"),
    )

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    vertebra: Mapped[str] = mapped_column(String(8), primary_key=True)
    corner: Mapped[Corner] = mapped_column(text_enum(Corner), primary_key=True)
    x: Mapped[float | None]
    y: Mapped[float | None]
    confidence: Mapped[float]
    spread: Mapped[float]

    inference: Mapped[Inference] = relationship()


class CobbFinding(Base):
    """The Cobb angle of one curve of a frontal spine.

    Attributes:
        degrees: in [0, 180].
        upper_vertebra, lower_vertebra: that end the curve.
    """

    __tablename__ = "cobb_finding"
    __table_args__ = (CheckConstraint("degrees >= 0 AND degrees <= 180", name="degrees_range"),)

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    curve: Mapped[Curve] = mapped_column(text_enum(Curve), primary_key=True)
    degrees: Mapped[float]
    upper_vertebra: Mapped[str] = mapped_column(String(8))
    lower_vertebra: Mapped[str] = mapped_column(String(8))

    inference: Mapped[Inference] = relationship()


class HeightFinding(Base):
    """The height of a vertebral body or of a disc on both sides of the image; `SpineSummary.anterior` says the front.

    Attributes:
        upper_vertebra, lower_vertebra: that the disc lies between; twice the same one of a body.
        left_px, right_px: negative where two vertebrae overlap.
    """

    __tablename__ = "height_finding"
    __table_args__ = (CheckConstraint("(left_mm IS NULL) = (right_mm IS NULL)", name="mm_together"),)

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    part: Mapped[Part] = mapped_column(text_enum(Part), primary_key=True)
    upper_vertebra: Mapped[str] = mapped_column(String(8), primary_key=True)
    lower_vertebra: Mapped[str] = mapped_column(String(8), primary_key=True)
    left_px: Mapped[float]
    right_px: Mapped[float]
    left_mm: Mapped[float | None]
    right_mm: Mapped[float | None]

    inference: Mapped[Inference] = relationship()


class SlipFinding(Base):
    """How one lumbar vertebra lies on the next; see `models.spine.slips.Slip`.

    Attributes:
        upper_vertebra, lower_vertebra: neighbours.
        kind: `normal` where there is no slip.
        percent: of the lower vertebra's end plate; positive to the front, or on a frontal view to the patient's left.
        offset_px, offset_mm: the same along the end plate.
        angle_degrees: between the end plates that face each other, positive where they open to that side.
        grade: Meyerding 0 to 5; null on a frontal view.
    """

    __tablename__ = "slip_finding"
    __table_args__ = (CheckConstraint("grade >= 0 AND grade <= 5", name="grade_range"),)

    inference_id: Mapped[int] = mapped_column(ForeignKey("inference.id"), primary_key=True)
    upper_vertebra: Mapped[str] = mapped_column(String(8), primary_key=True)
    lower_vertebra: Mapped[str] = mapped_column(String(8))
    kind: Mapped[SlipKind] = mapped_column(text_enum(SlipKind))
    percent: Mapped[float]
    offset_px: Mapped[float]
    offset_mm: Mapped[float | None]
    angle_degrees: Mapped[float]
    grade: Mapped[int | None]

    inference: Mapped[Inference] = relationship()
