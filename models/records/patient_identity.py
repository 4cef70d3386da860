"""What each mode of `RADSTREAM_PHI` stores of a source: one table, which the worker obeys and the documents show.

Outside of `full` no text of the sender reaches the database: what is stored is a keyed hash, a date, a number, a UID
or a term of a closed list. Any text may hold a name, a description above all, so it is not a question of the
attribute. PS3.15 table E.1-1 removes descriptions too (action X without the Clean Descriptors option).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from models.settings import PatientIdentity


class Kept(StrEnum):
    """What is stored of one attribute."""

    AS_SENT = "as sent"
    KEYED_HASH = "keyed hash"
    KNOWN_TERM = "if a known term"
    NOTHING = "not stored"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One column that is filled from a source instance.

    Attributes:
        table, column: in the database.
        source: DICOM keyword, or what else it comes from.
    """

    table: str
    column: str
    source: str
    full: Kept
    pseudonymised: Kept
    none: Kept

    def kept(self, mode: PatientIdentity) -> Kept:
        """What a mode stores of it."""
        return {
            PatientIdentity.FULL: self.full,
            PatientIdentity.PSEUDONYMISED: self.pseudonymised,
            PatientIdentity.NONE: self.none,
        }[mode]


_SENT, _HASH, _TERM, _GONE = Kept.AS_SENT, Kept.KEYED_HASH, Kept.KNOWN_TERM, Kept.NOTHING

ATTRIBUTES: Final = (
    Attribute("study", "study_instance_uid", "StudyInstanceUID", _SENT, _SENT, _SENT),
    Attribute("study", "accession_number", "AccessionNumber", _SENT, _HASH, _GONE),
    Attribute("study", "study_date", "StudyDate", _SENT, _SENT, _GONE),
    Attribute("study", "study_description", "StudyDescription", _SENT, _GONE, _GONE),
    Attribute("study", "patient_id", "PatientID", _SENT, _HASH, _GONE),
    Attribute("study", "patient_id_issuer", "IssuerOfPatientID", _SENT, _GONE, _GONE),
    Attribute("study", "patient_name", "PatientName", _SENT, _GONE, _GONE),
    Attribute("study", "patient_birth_date", "PatientBirthDate", _SENT, _GONE, _GONE),
    Attribute("study", "patient_sex", "PatientSex", _SENT, _TERM, _GONE),
    Attribute("series", "series_instance_uid", "SeriesInstanceUID", _SENT, _SENT, _SENT),
    Attribute("series", "modality", "Modality", _SENT, _TERM, _TERM),
    Attribute("series", "body_part_examined", "BodyPartExamined", _SENT, _TERM, _TERM),
    Attribute("series", "series_description", "SeriesDescription", _SENT, _GONE, _GONE),
    Attribute("series", "manufacturer", "Manufacturer", _SENT, _GONE, _GONE),
    Attribute("series", "manufacturer_model_name", "ManufacturerModelName", _SENT, _GONE, _GONE),
    Attribute("instance", "sop_class_uid", "SOPClassUID", _SENT, _SENT, _SENT),
    Attribute("instance", "sop_instance_uid", "SOPInstanceUID", _SENT, _SENT, _SENT),
    Attribute("instance", "transfer_syntax_uid", "TransferSyntaxUID", _SENT, _SENT, _SENT),
    Attribute("instance", "instance_number", "InstanceNumber", _SENT, _SENT, _SENT),
    Attribute("instance", "view_position", "ViewPosition", _SENT, _TERM, _TERM),
    Attribute("instance", "laterality", "ImageLaterality, Laterality", _SENT, _TERM, _TERM),
    Attribute("instance", "calling_ae_title", "the association", _SENT, _SENT, _SENT),
)
"""Every column that a sender fills. All others are made here: states, times, findings, hashes of bytes, our words."""

BY_COLUMN: Final = {attribute.column: attribute for attribute in ATTRIBUTES}
