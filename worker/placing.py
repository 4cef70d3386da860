"""Rows that instances share: their studies, series and the versions that answered, placed for a whole batch at once.

Workers on several hosts settle the first instances of one study at the same moment. Whoever inserts a key that another
transaction has inserted and not committed waits for it, so all insert kind by kind, and within a kind in one order:
two batches then never wait for each other (PostgreSQL would end one of them as a deadlock).
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records.base import insert_ignoring, utc_now
from models.records.dicom import Series, Study
from models.records.inference import ModelVersion
from models.store.manifest import Manifest
from models.tasks import Task
from worker.source import SourceFacts

VersionKey = tuple[Task, str]
"""Task and version, which name one row."""


def place_studies(session: Session, facts: Iterable[SourceFacts]) -> dict[str, int]:
    """Insert the studies and series that are new; what is known stays as it is.

    Returns:
        The ids of the series, by Series Instance UID.
    """
    placed = list(facts)
    if not placed:
        return {}
    # Of two that tell different things the first is kept.
    studies = {each.study_instance_uid: each for each in reversed(placed)}
    session.execute(insert_ignoring(session, Study).values([_study(studies[uid]) for uid in sorted(studies)]))
    found = select(Study.study_instance_uid, Study.id).where(Study.study_instance_uid.in_(studies))
    study_ids = {uid: study_id for uid, study_id in session.execute(found)}
    series = {each.series_instance_uid: each for each in reversed(placed)}
    rows = [_series(series[uid], study_ids[series[uid].study_instance_uid]) for uid in sorted(series)]
    session.execute(insert_ignoring(session, Series).values(rows))
    placed_series = select(Series.series_instance_uid, Series.id).where(Series.series_instance_uid.in_(series))
    return {uid: series_id for uid, series_id in session.execute(placed_series)}


def place_versions(session: Session, manifests: Iterable[Manifest]) -> dict[VersionKey, int]:
    """Insert the versions that are new, and give the ids of all."""
    answered = {(manifest.task, manifest.version): manifest for manifest in manifests}
    if not answered:
        return {}
    now = utc_now()
    rows = [
        {
            "task": manifest.task,
            "version": manifest.version,
            "network": manifest.network,
            "network_sha256": manifest.files["network.onnx"],
            "first_served_at": now,
        }
        for _, manifest in sorted(answered.items())
    ]
    session.execute(insert_ignoring(session, ModelVersion).values(rows))
    known = session.execute(
        select(ModelVersion.task, ModelVersion.version, ModelVersion.id).where(
            ModelVersion.version.in_({version for _, version in answered})
        )
    )
    return {(task, version): version_id for task, version, version_id in known}


def _study(facts: SourceFacts) -> dict[str, object]:
    return {
        "study_instance_uid": facts.study_instance_uid,
        "accession_number": facts.accession_number,
        "study_date": facts.study_date,
        "study_description": facts.study_description,
        "patient_id": facts.patient_id,
        "patient_id_issuer": facts.patient_id_issuer,
        "patient_name": facts.patient_name,
        "patient_birth_date": facts.patient_birth_date,
        "patient_sex": facts.patient_sex,
    }


def _series(facts: SourceFacts, study_id: int) -> dict[str, object]:
    return {
        "study_id": study_id,
        "series_instance_uid": facts.series_instance_uid,
        "modality": facts.modality,
        "body_part_examined": facts.body_part_examined,
        "series_description": facts.series_description,
        "manufacturer": facts.manufacturer,
        "manufacturer_model_name": facts.manufacturer_model_name,
    }
