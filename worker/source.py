"""What the records keep of a source instance: its place in the study, and of the patient what is allowed."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA

from models.errors import ConfigurationError, Reason, Unprocessable
from models.records.patient_identity import BY_COLUMN, Kept
from models.settings import PatientIdentity, Settings
from models.spool import is_valid_uid
from worker.known_terms import known_term


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """What of patient identity is stored, and the key of the hashes when pseudonymised.

    The hashes of one key are the same on every day and every host, so that studies of one patient stay together, and
    mean nothing without the key. Another key makes other hashes: from the change on a patient has another pseudonym,
    and rows written before keep theirs.
    """

    mode: PatientIdentity
    key: bytes = field(default=b"", repr=False)

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

    def kept(self, column: str) -> Kept:
        """What is stored in a column of the records."""
        return BY_COLUMN[column].kept(self.mode)

    def identifier(self, text: str | None) -> str | None:
        """Give an accession number as it is stored: itself, its keyed hash (32 hex digits), or nothing.

        What somebody types is looked up by the same.
        """
        return self._identifier("accession_number", text, text)

    def patient_identifier(self, patient_id: str | None, issuer: str | None) -> str | None:
        """Give a patient identifier likewise; its hash is that of identifier and issuer: two issuers may give out one.

        Texts hold no NUL (`read_facts` takes control characters out), so that no other identifier, and no accession
        number, has the same hash.
        """
        return self._identifier("patient_id", patient_id, f"{issuer or ''}\x00{patient_id}")

    def _identifier(self, column: str, text: str | None, hashed: str | None) -> str | None:
        if text is None or hashed is None or self.kept(column) is Kept.NOTHING:
            return None
        if self.kept(column) is Kept.AS_SENT:
            return text
        return hmac.new(self.key, hashed.encode(), hashlib.sha256).hexdigest()[:32]


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
    patient_id, issuer = _whole(header, "PatientID"), _whole(header, "IssuerOfPatientID")
    return SourceFacts(
        study_instance_uid=_uid(header, "StudyInstanceUID"),
        series_instance_uid=_uid(header, "SeriesInstanceUID"),
        accession_number=_fitting(policy.identifier(_whole(header, "AccessionNumber")), 64),
        study_date=_date(header, policy, "study_date", "StudyDate"),
        study_description=text("study_description", "StudyDescription", 64),
        patient_id=_fitting(policy.patient_identifier(patient_id, issuer), 64),
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


def _text(header: Dataset, policy: IdentityPolicy, column: str, keyword: str, length: int) -> str | None:
    kept = policy.kept(column)
    text = _whole(header, keyword)
    if text is None or kept is Kept.NOTHING:
        return None
    return known_term(column, text) if kept is Kept.KNOWN_TERM else text[:length]


def _whole(header: Dataset, keyword: str) -> str | None:
    value = _value(header, keyword)
    if value is None:
        return None
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    # PostgreSQL refuses NUL, terminals obey other control characters, and surrogates cannot be encoded.
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cc")
    return text.encode("utf-8", "replace").decode().strip() or None


def _fitting(identifier: str | None, length: int) -> str | None:
    # A shortened identifier may be that of another patient; it is better to have none.
    return identifier if identifier is not None and len(identifier) <= length else None


def _date(header: Dataset, policy: IdentityPolicy, column: str, keyword: str) -> date | None:
    if policy.kept(column) is not Kept.AS_SENT:
        return None
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
