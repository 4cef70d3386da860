"""What the records keep of a source instance: its place in the study, and of the patient what is allowed."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA

from models.errors import ConfigurationError, Reason, Unprocessable
from models.settings import PatientIdentity, Settings
from models.spool import is_valid_uid


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """What of patient identity is stored, and the key of the hash when pseudonymised."""

    mode: PatientIdentity
    key: bytes = b""

    @classmethod
    def of(cls, settings: Settings) -> IdentityPolicy:
        """Read the policy from the settings.

        Raises:
            ConfigurationError: pseudonymised without a key.
        """
        key = settings.phi_key.get_secret_value().encode() if settings.phi_key else b""
        if settings.phi is PatientIdentity.PSEUDONYMISED and len(key) < 16:
            raise ConfigurationError("RADSTREAM_PHI_KEY: pseudonymised records need a secret key of 16 characters")
        return cls(settings.phi, key)

    def identifier(self, text: str | None) -> str | None:
        """Give an identifier as it may be stored: itself, its keyed hash (32 hex digits), or nothing."""
        if text is None or self.mode is PatientIdentity.NONE:
            return None
        if self.mode is PatientIdentity.FULL:
            return text
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Attributes of study, series and instance, cut to what the records take; None where absent or not allowed."""

    study_instance_uid: str
    series_instance_uid: str
    accession_number: str | None
    study_date: date | None
    study_description: str | None
    patient_id: str | None
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
    identified = policy.mode is PatientIdentity.FULL
    return SourceFacts(
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        accession_number=policy.identifier(_text(header, "AccessionNumber", 64)),
        study_date=_date(header, "StudyDate") if policy.mode is not PatientIdentity.NONE else None,
        study_description=_text(header, "StudyDescription", 64),
        patient_id=policy.identifier(_text(header, "PatientID", 64)),
        patient_name=_text(header, "PatientName", 324) if identified else None,
        patient_birth_date=_date(header, "PatientBirthDate") if identified else None,
        patient_sex=_text(header, "PatientSex", 16) if policy.mode is not PatientIdentity.NONE else None,
        modality=_text(header, "Modality", 16),
        body_part_examined=_text(header, "BodyPartExamined", 16),
        series_description=_text(header, "SeriesDescription", 64),
        manufacturer=_text(header, "Manufacturer", 64),
        manufacturer_model_name=_text(header, "ManufacturerModelName", 64),
        instance_number=_integer(header, "InstanceNumber"),
        view_position=_text(header, "ViewPosition", 16),
        laterality=_text(header, "ImageLaterality", 16) or _text(header, "Laterality", 16),
    )


def _value(header: Dataset, keyword: str) -> Any:
    # A malformed value raises whatever its parser raises; for the records it is absent.
    try:
        return header.get(keyword)
    except Exception:
        return None


def _uid(header: Dataset, keyword: str) -> str:
    uid = str(_value(header, keyword) or "")
    if not uid or not is_valid_uid(uid):
        raise Unprocessable(Reason.MALFORMED_DATASET, f"{keyword} is missing or invalid")
    return uid


def _text(header: Dataset, keyword: str, length: int) -> str | None:
    value = _value(header, keyword)
    if value is None:
        return None
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    # PostgreSQL refuses NUL, terminals obey other control characters, and surrogates cannot be encoded.
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cc")
    return text.encode("utf-8", "replace").decode().strip()[:length] or None


def _date(header: Dataset, keyword: str) -> date | None:
    try:
        parsed = DA(str(_value(header, keyword) or ""))
    except Exception:
        return None
    return date(parsed.year, parsed.month, parsed.day) if parsed else None


def _integer(header: Dataset, keyword: str) -> int | None:
    try:
        number = int(str(_value(header, keyword)))
    except (TypeError, ValueError):
        return None
    return number if -(2**31) <= number < 2**31 else None  # the column is 32 bits wide
