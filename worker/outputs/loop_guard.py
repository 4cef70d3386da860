"""The loop guard: knows our own outputs when a PACS routes them back to us.

ImageType DERIVED alone is no reason: processed DX is derived, too.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from models.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME


def is_own_output(header: Dataset) -> bool:
    """Tell whether a dataset is an output of radstream, by its equipment (PS3.3 C.7.5.1 and C.7.5.2)."""
    if _made_by_us(header):
        return True
    contributors = header.get("ContributingEquipmentSequence") or []
    # An output whose Manufacturer was coerced by an archive still carries its contributing equipment.
    return bool(str(header.get("SeriesDescription", "")).startswith("AI ")) and any(map(_made_by_us, contributors))


def _made_by_us(dataset: Dataset) -> bool:
    return (
        str(dataset.get("Manufacturer", "")).strip() == MANUFACTURER
        and str(dataset.get("ManufacturerModelName", "")).strip() == MANUFACTURER_MODEL_NAME
    )
