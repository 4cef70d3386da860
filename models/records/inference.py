"""Which model version was run on which instance."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.records.base import Base, UtcDateTime, text_enum
from models.records.dicom import Instance
from models.tasks import Task


class ModelVersion(Base):
    """A model version that was served at least once."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("task", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[Task] = mapped_column(text_enum(Task))
    version: Mapped[str] = mapped_column(String(64))
    network: Mapped[str] = mapped_column(String(64))
    network_sha256: Mapped[str] = mapped_column(String(64))
    first_served_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Inference(Base):
    """One instance through one model version, at most once."""

    __tablename__ = "inference"
    __table_args__ = (UniqueConstraint("instance_id", "model_version_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)
    provider: Mapped[str] = mapped_column(String(32))
    precision: Mapped[str] = mapped_column(String(16))
    inferred_at: Mapped[datetime] = mapped_column(UtcDateTime)

    instance: Mapped[Instance] = relationship()
    model_version: Mapped[ModelVersion] = relationship()
