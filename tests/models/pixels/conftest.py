from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

MakeDicom = Callable[..., BytesIO]

REAL_DICOM = Path(__file__).parents[3].parent / "shared" / "data" / "dicom"


@pytest.fixture
def real_dicom() -> Path:
    if not REAL_DICOM.is_dir():
        pytest.skip("the shared DICOM files are not here")
    return REAL_DICOM


def _image(array: NDArray[Any], attributes: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.SamplesPerPixel = 1 if array.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if array.ndim == 2 else "RGB"
    if array.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = array.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * array.dtype.itemsize
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if "HighBit" not in attributes and "BitsStored" in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    return dataset


@pytest.fixture
def make_dicom() -> MakeDicom:
    """Give a function that writes an array and attributes (None removes one) as a Part 10 stream."""

    def make(
        array: NDArray[Any],
        *,
        syntax: UID = ExplicitVRLittleEndian,
        frame: bytes | None = None,
        pixel_data: bytes | None = None,
        **attributes: Any,
    ) -> BytesIO:
        dataset = _image(array, attributes)
        if frame is not None:
            dataset.PixelData = encapsulate([frame])
            dataset["PixelData"].is_undefined_length = True
            dataset["PixelData"].VR = "OB"
        elif pixel_data is not None:
            dataset.PixelData = pixel_data
            dataset["PixelData"].VR = "OW"
        else:
            little = not syntax.is_transfer_syntax or syntax.is_little_endian
            data = array.astype(array.dtype.newbyteorder("<" if little else ">")).tobytes()
            dataset.PixelData = data + b"\x00" * (len(data) % 2)
            dataset["PixelData"].VR = "OB" if array.dtype.itemsize == 1 else "OW"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta = meta
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        return stream

    return make


@pytest.fixture
def film() -> NDArray[np.uint16]:
    """A smooth 12-bit image of uneven size with a bright and a dark field: (131, 97) uint16."""
    rows, columns = np.mgrid[0:131, 0:97]
    smooth = 1800 + 900 * np.sin(rows / 17) * np.cos(columns / 23) + 3 * columns
    smooth[10:30, 60:90] = 4095
    smooth[90:120, 5:40] = 0
    return np.rint(np.clip(smooth, 0, 4095)).astype(np.uint16)
