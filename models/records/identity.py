"""What is stored of a patient's identity, by `RADSTREAM_PHI`: how a value becomes what the records keep.

The worker's records and the audit messages of every process have it from here, so that one patient has one identifier
in both.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models.errors import ConfigurationError
from models.records.patient_identity import BY_COLUMN, Kept
from models.settings import PatientIdentity, Settings


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


def value_of(header: Dataset, keyword: str) -> Any:
    """Give an attribute; None where it is absent or malformed: its parser then raises whatever it does."""
    try:
        return header.get(keyword)
    except Exception:
        return None


def whole_text(header: Dataset, keyword: str) -> str | None:
    """Give the text of an attribute as it can be stored and shown; None where there is none."""
    value = value_of(header, keyword)
    if value is None:
        return None
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    # PostgreSQL refuses NUL, terminals obey other control characters, and surrogates cannot be encoded.
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cc")
    return text.encode("utf-8", "replace").decode().strip() or None


def fitting(identifier: str | None, length: int) -> str | None:
    """Give an identifier, or None where it is too long: shortened, it may be that of another patient."""
    return identifier if identifier is not None and len(identifier) <= length else None


def stored_patient_id(header: Dataset, policy: IdentityPolicy) -> str | None:
    """Give the patient identifier of a dataset as it is stored; None where there is none, or none may be told."""
    identifier = policy.patient_identifier(whole_text(header, "PatientID"), whole_text(header, "IssuerOfPatientID"))
    return fitting(identifier, 64)
