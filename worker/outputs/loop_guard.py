"""The loop guard: knows our own outputs when a PACS routes them back to us.

ImageType DERIVED alone is no reason: processed DX is derived, too. Neither is Manufacturer alone, which archives
coerce; an object that still carries our equipment as a contributor and our series description is ours as well.
"""

from __future__ import annotations

from collections.abc import Container

from pydicom.dataset import Dataset

from models.identity import MANUFACTURER, MANUFACTURER_MODEL_NAME
from models.pixels.attributes import read_items, read_text

SERIES_PREFIX = "AI "
"""Every series description of ours starts so."""


def is_own_output(header: Dataset, own_device_uids: Container[str] = ()) -> bool:
    """Tell whether a dataset is an output of radstream, by its equipment (PS3.3 C.7.5.1 and C.12.1.1.5).

    Args:
        header: any dataset, malformed values included.
        own_device_uids: Device UIDs of engines that we run or ran, where known.
    """
    if _made_by_us(header) or (read_text(header, "DeviceUID") or "") in own_device_uids:
        return True
    described = (read_text(header, "SeriesDescription") or "").startswith(SERIES_PREFIX)
    return described and any(_made_by_us(item) for item in read_items(header, "ContributingEquipmentSequence"))


def _made_by_us(dataset: Dataset) -> bool:
    return (
        read_text(dataset, "Manufacturer") == MANUFACTURER
        and read_text(dataset, "ManufacturerModelName") == MANUFACTURER_MODEL_NAME
    )
