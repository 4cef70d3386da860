"""Study, series and instance: the DICOM hierarchy as received, and where each instance is on its way."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, UtcDateTime, text_enum
from models.requests import Lane


class InstanceState(StrEnum):
    """Where an instance is. The last three are final: every accepted instance reaches one of them."""

    RECEIVED = "received"
    QUEUED = "queued"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


SETTLED_STATES = frozenset({InstanceState.DONE, InstanceState.SKIPPED, InstanceState.FAILED})


class Study(Base):
    """One study. Patient columns are filled as `RADSTREAM_PHI` allows, else null; see `models.records.identity`.

    Attributes:
        patient_id: as sent, or a keyed hash of it and its issuer.
        patient_id_issuer: who gave the identifier out; an identifier is unique only with it. Null where the header
            does not say, and where `patient_id` is a hash.
    """

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    accession_number: Mapped[str | None] = mapped_column(String(64), index=True)
    study_date: Mapped[date | None]
    study_description: Mapped[str | None] = mapped_column(String(64))
    patient_id: Mapped[str | None] = mapped_column(String(64), index=True)
    patient_id_issuer: Mapped[str | None] = mapped_column(String(64))
    patient_name: Mapped[str | None] = mapped_column(String(324))
    patient_birth_date: Mapped[date | None]
    patient_sex: Mapped[str | None] = mapped_column(String(16))


class Series(Base):
    """One series."""

    __tablename__ = "series"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    modality: Mapped[str | None] = mapped_column(String(16))
    body_part_examined: Mapped[str | None] = mapped_column(String(16))
    series_description: Mapped[str | None] = mapped_column(String(64))
    manufacturer: Mapped[str | None] = mapped_column(String(64))
    manufacturer_model_name: Mapped[str | None] = mapped_column(String(64))

    study: Mapped[Study] = relationship()


class Instance(Base):
    """One SOP Instance and its way through the feed: the ledger.

    Attributes:
        content_sha256: hex digest of the encoded dataset whose result counts.
        revision: how often other bytes under the same UID replaced the result.
        duplicates: how often the same bytes came again; no second result was made.
        conflicts: how often other bytes came under this UID.
        attempts: how many workers died with this instance in hand before it was given up; 0 when it was not.
        reason: a `models.errors.Reason`, null when done; detail is in our own words, never dataset values.
        delivered_at: when the last of its outputs reached its last destination.
        committed_at: when the archive committed to its outputs (storage commitment).
    """

    __tablename__ = "instance"
    __table_args__ = (Index("ix_instance_state_received_at", "state", "received_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    content_sha256: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int] = mapped_column(default=0)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    lane: Mapped[Lane] = mapped_column(text_enum(Lane))
    state: Mapped[InstanceState] = mapped_column(text_enum(InstanceState), default=InstanceState.RECEIVED)
    reason: Mapped[str | None] = mapped_column(String(64))
    reason_detail: Mapped[str | None] = mapped_column(String(256))
    duplicates: Mapped[int] = mapped_column(default=0)
    conflicts: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)

    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"), index=True)
    instance_number: Mapped[int | None]
    view_position: Mapped[str | None] = mapped_column(String(16))
    laterality: Mapped[str | None] = mapped_column(String(16))

    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    queued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    inferred_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    settled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    series: Mapped[Series | None] = relationship()
