"""DICOM objects that we made and their way to destinations: the outbox."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, UtcDateTime, text_enum
from models.records.dicom import Instance
from models.records.inference import ModelVersion


class OutputKind(StrEnum):
    """Which object an output is."""

    SECONDARY_CAPTURE = "secondary_capture"


class DeliveryState(StrEnum):
    """Where an output is on its way to one destination."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class Output(Base):
    """One DICOM object of ours; its file lies in the outbox under ``file_name``.

    ``sop_instance_uid`` derives from source, task, model version and revision, so a rerun is the same object.
    """

    __tablename__ = "output"

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    kind: Mapped[OutputKind] = mapped_column(text_enum(OutputKind))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    file_name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    instance: Mapped[Instance] = relationship()
    model_version: Mapped[ModelVersion] = relationship()


class Delivery(Base):
    """One output to one destination.

    Attributes:
        requested_at: when it was asked for, by settling or by `redeliver`; giving up counts from here.
        next_attempt_at: when it is due; a claim moves it ahead, so that two deliverers never send at once and a
            killed one's claim runs out by itself.
        last_status: DIMSE status of the last attempt (PS3.7 annex C), null when none came.
        reason: a `models.errors.Reason` of the last failure.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("output_id", "destination"),
        Index("ix_delivery_due", "destination", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    output_id: Mapped[int] = mapped_column(ForeignKey("output.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[DeliveryState] = mapped_column(text_enum(DeliveryState), default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_status: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(String(64))
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    output: Mapped[Output] = relationship()
