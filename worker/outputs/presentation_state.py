"""Grayscale Softcopy Presentation State (PS3.3 A.33.1): the source as it wants to be shown, a finding drawn over it.

Nothing is burned in: each kind of graphics is a layer that a viewer can take away. A presentation state replaces what
an image says of its own greys (PS3.4 N.2), so modality, VOI and polarity of the source are said again.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import format_number_as_ds

from models.pixels.attributes import read_integer, read_items, read_number, read_text, read_value
from models.pixels.luts import is_inverted, lut_entries
from models.pixels.spacing import read_spacing
from models.records.outputs import OutputKind
from worker.outputs import common_modules as common
from worker.outputs import uids
from worker.outputs.annotations import annotate
from worker.outputs.common_modules import OutputOrder
from worker.outputs.files import WrittenOutput, write_output
from worker.outputs.graphic_layers import add_layers

KIND: Final = OutputKind.PRESENTATION_STATE

_MODALITY_LUT_TYPES: Final = frozenset({"OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})
"""Defined terms of PS3.3 C.11.1.1.2."""


def build_presentation_state(order: OutputOrder, now: datetime | None = None) -> Dataset:
    """Make the dataset, with file meta information, for explicit VR little endian.

    Args:
        order: source and finding.
        now: aware time of creation; default the time now.

    Raises:
        Unprocessable: the header of the source does not say its size.
    """
    shape = common.source_size(order)
    layers = annotate(order.finding, order.manifest, shape)
    dataset, source, now = common.start_dataset(order, common.SERIES_ATTRIBUTES, now)
    common.add_series(dataset, order, KIND, "PR", f"{order.task} graphics {order.version}")
    common.copy_side(dataset, source)
    common.describe_device(dataset, order)
    _add_identification(dataset, order, now)
    _add_relationship(dataset, order)
    _add_displayed_area(dataset, order, shape)
    add_layers(dataset, order, layers)
    _add_greys(dataset, order.header)
    common.add_sop_common(dataset, order, KIND, GrayscaleSoftcopyPresentationStateStorage, now)
    return dataset


def write_presentation_state(order: OutputOrder, directory: Path) -> WrittenOutput:
    """Make a presentation state and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
        Unprocessable: the header of the source does not say its size.
    """
    return write_output(build_presentation_state(order), directory)


def _add_identification(dataset: Dataset, order: OutputOrder, now: datetime) -> None:
    """Presentation State Identification Module, PS3.3 C.11.10."""
    dataset.InstanceNumber = common.instance_number(order)
    dataset.ContentLabel = common.plain(f"AI_{order.task.upper()}", 16)
    dataset.ContentDescription = common.plain(f"AI {order.task} {order.version}, research use only", 64)
    dataset.ContentCreatorName = None  # no person
    dataset.PresentationCreationDate, dataset.PresentationCreationTime = common.date_and_time(now)


def _add_relationship(dataset: Dataset, order: OutputOrder) -> None:
    """Presentation State Relationship Module, PS3.3 C.11.11."""
    series = Dataset()
    series.SeriesInstanceUID = common.source_series_uid(order) or uids.source_series_uid(order.source_sop_instance_uid)
    series.ReferencedImageSequence = [common.image_reference(order)]
    dataset.ReferencedSeriesSequence = [series]


def _add_displayed_area(dataset: Dataset, order: OutputOrder, shape: tuple[int, int]) -> None:
    """Displayed Area Module, PS3.3 C.10.4: the whole image."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [shape[1], shape[0]]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = read_spacing(order.header)
    if spacing is not None:
        area.PresentationPixelSpacing = [format_number_as_ds(mm) for mm in (spacing.row_mm, spacing.column_mm)]
    else:
        area.PresentationPixelAspectRatio = _aspect_ratio(order.header)
    dataset.DisplayedAreaSelectionSequence = [area]


def _aspect_ratio(header: Dataset) -> list[int]:
    """Give height and width of a pixel by Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), 1 to 1 where it says none."""
    try:
        height, width = (int(part) for part in read_value(header, "PixelAspectRatio") or ())
    except (TypeError, ValueError):
        return [1, 1]
    return [height, width] if 0 < height < 2**31 and 0 < width < 2**31 else [1, 1]


def _add_greys(dataset: Dataset, header: Dataset) -> None:
    """Modality LUT, Softcopy VOI LUT and Softcopy Presentation LUT Modules, PS3.3 C.11.1, C.11.8 and C.11.6."""
    table = _copied_lut(header, "ModalityLUTSequence")
    slope = read_number(header, "RescaleSlope")
    if table is not None:
        kind = read_text(read_items(header, "ModalityLUTSequence")[0], "ModalityLUTType") or ""
        table.ModalityLUTType = kind if kind in _MODALITY_LUT_TYPES else "US"
        dataset.ModalityLUTSequence = [table]
    elif slope:  # 0 would erase the image
        intercept = read_number(header, "RescaleIntercept") or 0.0
        dataset.RescaleIntercept, dataset.RescaleSlope = format_number_as_ds(intercept), format_number_as_ds(slope)
        kind = read_text(header, "RescaleType") or ""
        dataset.RescaleType = kind if kind in _MODALITY_LUT_TYPES else "US"
    voi = _voi(header)
    if voi is not None:
        dataset.SoftcopyVOILUTSequence = [voi]
    # C.11.6.1.2: a presentation state knows no photometric interpretation, so MONOCHROME1 is what INVERSE says.
    dataset.PresentationLUTShape = "INVERSE" if is_inverted(header) else "IDENTITY"


def _voi(header: Dataset) -> Dataset | None:
    """Give the VOI of the source as `models.pixels.luts` reads it: a table before a window, the first of several."""
    voi = Dataset()
    table = _copied_lut(header, "VOILUTSequence")
    if table is not None:
        voi.VOILUTSequence = [table]
        return voi
    centre, width = read_number(header, "WindowCenter"), read_number(header, "WindowWidth")
    function = read_text(header, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    voi.WindowCenter, voi.WindowWidth = format_number_as_ds(centre), format_number_as_ds(width)
    if function in ("SIGMOID", "LINEAR_EXACT"):
        voi.VOILUTFunction = function
    return voi


def _copied_lut(header: Dataset, sequence: str) -> Dataset | None:
    """Give a copy of the first table of a sequence, its entries as 16-bit words; None when it cannot be used.

    The copy is made value by value: how the bytes are to be read depends on a dataset that they leave.
    """
    items = read_items(header, sequence)
    descriptor: Any = read_value(items[0], "LUTDescriptor") if items else None
    try:
        count, first, bits = (int(part) for part in descriptor or ())
    except (TypeError, ValueError):
        return None
    count = (count & 0xFFFF) or 2**16  # 0 means 65536
    entries = lut_entries(read_value(items[0], "LUTData"), count, bits, items[0])
    if entries is None or not -(2**15) <= first < 2**16:
        return None
    if first >= 2**15 and _has_negative_values(header):
        first -= 2**16  # the descriptor is US or SS after its input, and its writer took US
    # Some senders declare 16 bits and fill 12, which would show everything dark.
    used = int(entries.max()).bit_length()
    bits = min(16, max(8, used)) if sequence == "VOILUTSequence" else (8 if used <= 8 else 16)
    table = Dataset()
    numbers = [count & 0xFFFF, first, bits]
    table.add_new(
        "LUTDescriptor", "SS" if first < 0 else "US", [_signed(numbers[0]), *numbers[1:]] if first < 0 else numbers
    )
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return table


def _has_negative_values(header: Dataset) -> bool:
    return read_integer(header, "PixelRepresentation") == 1 or (read_number(header, "RescaleIntercept") or 0) < 0


def _signed(count: int) -> int:
    return count - 2**16 if count >= 2**15 else count
