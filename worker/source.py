"""What the records keep of a source instance: its place in the study, and of the patient what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial

from pydicom.dataset import Dataset
from pydicom.valuerep import DA

from models.errors import Reason, Unprocessable
from models.records.identity import IdentityPolicy as IdentityPolicy  # whoever reads facts needs it
from models.records.identity import fitting, stored_patient_id, value_of, whole_text
from models.records.patient_identity import Kept
from models.spool_places import is_valid_uid
from worker.known_terms import known_term


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Attributes of study, series and instance, cut to what the records take; None where absent or not allowed."""

    study_instance_uid: str
    series_instance_uid: str
    accession_number: str | None
    study_date: date | None
    study_description: str | None
    patient_id: str | None
    patient_id_issuer: str | None
    patient_name: str | None
    patient_birth_date: date | None
    patient_sex: str | None
    modality: str | None
    body_part_examined: str | None
    series_description: str | None
    manufacturer: str | None
    manufacturer_model_name: str | None
    instance_number: int | None
    view_position: str | None
    laterality: str | None


def read_facts(header: Dataset, policy: IdentityPolicy) -> SourceFacts:
    """Take the facts from a dataset.

    Raises:
        Unprocessable: study or series UID are missing or invalid, so the instance belongs nowhere.
    """
    text = partial(_text, header, policy)
    return SourceFacts(
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        accession_number=fitting(policy.identifier(whole_text(header, "AccessionNumber")), 64),
        study_date=_date(header, policy, "study_date", "StudyDate"),
        study_description=text("study_description", "StudyDescription", 64),
        patient_id=stored_patient_id(header, policy),
        patient_id_issuer=text("patient_id_issuer", "IssuerOfPatientID", 64),
        patient_name=text("patient_name", "PatientName", 324),
        patient_birth_date=_date(header, policy, "patient_birth_date", "PatientBirthDate"),
        patient_sex=text("patient_sex", "PatientSex", 16),
        modality=text("modality", "Modality", 16),
        body_part_examined=text("body_part_examined", "BodyPartExamined", 16),
        series_description=text("series_description", "SeriesDescription", 64),
        manufacturer=text("manufacturer", "Manufacturer", 64),
        manufacturer_model_name=text("manufacturer_model_name", "ManufacturerModelName", 64),
        instance_number=_integer(header, "InstanceNumber"),
        view_position=text("view_position", "ViewPosition", 16),
        laterality=text("laterality", "ImageLaterality", 16) or text("laterality", "Laterality", 16),
    )


def _uid(header: Dataset, keyword: str) -> str:
    uid = str(value_of(header, keyword) or "")
    if not uid or not is_valid_uid(uid):
        raise Unprocessable(Reason.MALFORMED_DATASET, f"{keyword} is missing or invalid")
    return uid


def _text(header: Dataset, policy: IdentityPolicy, column: str, keyword: str, length: int) -> str | None:
    kept = policy.kept(column)
    text = whole_text(header, keyword)
    if text is None or kept is Kept.NOTHING:
        return None
    return known_term(column, text) if kept is Kept.KNOWN_TERM else text[:length]


def _date(header: Dataset, policy: IdentityPolicy, column: str, keyword: str) -> date | None:
    if policy.kept(column) is not Kept.AS_SENT:
        return None
    try:
        parsed = DA(str(value_of(header, keyword) or ""))
    except Exception:
        return None
    return date(parsed.year, parsed.month, parsed.day) if parsed else None


def _integer(header: Dataset, keyword: str) -> int | None:
    try:
        number = int(str(value_of(header, keyword)))
    except (TypeError, ValueError):
        return None
    return number if -(2**31) <= number < 2**31 else None  # the column is 32 bits wide
