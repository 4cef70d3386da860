"""Secondary Capture of an overlay picture (PS3.3 A.8.1), the output that every viewer can show.

It says what a network of which version found, that this is research, and from which instance it comes; it belongs to
the study of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from models.identity import DISCLAIMER
from models.records.outputs import OutputKind
from worker.outputs import common_modules as common
from worker.outputs.common_modules import MAY_BE_EMPTY, OPTIONAL, OutputOrder
from worker.outputs.copied_attributes import Presence, SourceAttributes
from worker.outputs.files import WrittenOutput, write_output

KIND: Final = OutputKind.SECONDARY_CAPTURE

IMAGE_ATTRIBUTES: Final[Mapping[str, Presence]] = {
    # Copied, never inferred: the picture has the orientation of its source, and a guess could change sides.
    "PatientOrientation": MAY_BE_EMPTY,
    "ImageLaterality": OPTIONAL,
}


def build_secondary_capture(order: OutputOrder, rgb: NDArray[np.uint8], now: datetime | None = None) -> Dataset:
    """Make the dataset but for Pixel Data, with file meta information, for explicit VR little endian.

    Pixel Data is `rgb` as it stands: `write_secondary_capture` writes it without a copy.

    Args:
        order: source and finding.
        rgb: ``(H, W, 3) uint8``, the overlay picture with its caption.
        now: aware time of creation; default the time now.

    Raises:
        ValueError: the picture is not ``(H, W, 3) uint8``.
    """
    copied = {**IMAGE_ATTRIBUTES, **common.SERIES_ATTRIBUTES, **common.COMPRESSION_ATTRIBUTES}
    dataset, source, now = common.start_dataset(order, copied, now)
    common.add_series(dataset, order, KIND, "OT", f"{order.task} overlay {order.version}")
    _add_equipment(dataset, order)
    _add_image(dataset, source, order, now)
    _add_derivation(dataset, order)
    _describe_pixels(dataset, rgb)
    common.add_sop_common(dataset, order, KIND, SecondaryCaptureImageStorage, now)
    return dataset


def write_secondary_capture(order: OutputOrder, rgb: NDArray[np.uint8], directory: Path) -> WrittenOutput:
    """Make a Secondary Capture and write it durably to ``<directory>/<SOP Instance UID>.dcm``.

    Raises:
        OSError: the directory cannot be written.
        ValueError: the picture is not ``(H, W, 3) uint8``.
    """
    return write_output(build_secondary_capture(order, rgb), directory, rgb)


def _add_equipment(dataset: Dataset, order: OutputOrder) -> None:
    """General Equipment and SC Equipment Modules, PS3.3 C.7.5.1 and C.8.6.1."""
    common.describe_device(dataset, order)
    dataset.ConversionType = "WSD"


def _add_image(dataset: Dataset, source: SourceAttributes, order: OutputOrder, now: datetime) -> None:
    """General Image and SC Image Modules, PS3.3 C.7.6.1 and C.8.6.2."""
    source.copy(dataset, IMAGE_ATTRIBUTES)
    common.copy_side(dataset, source)
    dataset.InstanceNumber = common.instance_number(order)
    # Value 3 belongs to other IODs and stays empty (C.7.6.1.1.2); value 4 is ours.
    dataset.ImageType = ["DERIVED", "SECONDARY", "", "AI_OVERLAY"]
    dataset.ContentDate, dataset.ContentTime = common.date_and_time(now)
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = common.date_and_time(now)
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = DISCLAIMER
    if common.is_lossy(order.header):
        # Once lossy, always lossy (C.7.6.1.1.5).
        dataset.LossyImageCompression = "01"
        source.copy(dataset, common.COMPRESSION_ATTRIBUTES)


def _add_derivation(dataset: Dataset, order: OutputOrder) -> None:
    """General Reference Module, PS3.3 C.12.4."""
    dataset.DerivationDescription = common.plain(
        f"Overlay of {order.task} {order.version}: {order.words}. {DISCLAIMER}", 1024
    )
    dataset.DerivationCodeSequence = [common.code("113085", "Spatial resampling")]
    dataset.SourceImageSequence = [common.source_reference(order)]


def _describe_pixels(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Image Pixel Module, PS3.3 C.7.6.3: RGB, colour by pixel."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError("an overlay picture is (H, W, 3) uint8")
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
