"""DICOM objects that we made and their way to destinations: the outbox."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, UtcDateTime, text_enum
from models.records.dicom import Instance, Study
from models.records.inference import ModelVersion


class OutputKind(StrEnum):
    """Which object an output is."""

    SECONDARY_CAPTURE = "secondary_capture"
    STRUCTURED_REPORT = "structured_report"
    PARAMETRIC_MAP = "parametric_map"
    PRESENTATION_STATE = "presentation_state"
    STUDY_SUMMARY = "study_summary"


class DeliveryState(StrEnum):
    """Where an output is on its way to one destination."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class Output(Base):
    """One DICOM object of ours; its file lies in the outbox under ``file_name``.

    ``sop_instance_uid`` derives from source, task, model version and revision, so a rerun is the same object.

    Attributes:
        instance_id: the instance that it is of; null for what is made of a whole study.
        study_id: the study that it is of; null for what is made of an instance.
        model_version_id: the version that answered; null where none did (a report that an instance was not analysed)
            or several may have (a study summary).
    """

    __tablename__ = "output"
    __table_args__ = (CheckConstraint("(instance_id IS NULL) <> (study_id IS NULL)", name="of_instance_or_study"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int | None] = mapped_column(ForeignKey("instance.id"), index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    model_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    kind: Mapped[OutputKind] = mapped_column(text_enum(OutputKind))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    file_name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    instance: Mapped[Instance | None] = relationship()
    study: Mapped[Study | None] = relationship()
    model_version: Mapped[ModelVersion | None] = relationship()


class Delivery(Base):
    """One output to one destination.

    Attributes:
        requested_at: when it was asked for, by settling or by `redeliver`; giving up counts from here.
        next_attempt_at: when it is due; a claim moves it ahead, so that two deliverers never send at once and a
            killed one's claim runs out by itself.
        last_status: DIMSE status of the last attempt (PS3.7 annex C), null when none came. Of STOW-RS the failure
            reason (0008,1197) that the answer names, where it names one.
        last_http_status: of the last attempt by STOW-RS.
        reason: a `models.errors.Reason` of the last failure.
        commitment_due_at: when the destination is to be asked (again) to commit; null where it is not asked, has
            committed, or was given up.
        commitment_uid: transaction UID of the last commitment request that named this output.
        commitment_attempts: requests that named it.
        commitment_failures: reports that said it is not kept; it was sent again.
        committed_at: when the destination said that it keeps the output (PS3.4 annex J).
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("output_id", "destination"),
        Index("ix_delivery_due", "destination", "state", "next_attempt_at"),
        Index("ix_delivery_commitment_due", "destination", "commitment_due_at"),
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
    last_http_status: Mapped[int | None]
    commitment_due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    commitment_uid: Mapped[str | None] = mapped_column(String(64))
    commitment_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    commitment_failures: Mapped[int] = mapped_column(default=0, server_default="0")
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    output: Mapped[Output] = relationship()


class CommitmentRequest(Base):
    """One storage commitment request of ours (PS3.4 J.3.2); kept so that a late report still finds its destination.

    Attributes:
        answered_at: when its report came.
    """

    __tablename__ = "commitment_request"

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    destination: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
