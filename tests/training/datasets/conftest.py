"""Makes small sets in the formats that hospitals and public sets have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from training.datasets.labelled import LabelledImage

MakeImage = Callable[..., LabelledImage]
WriteDicom = Callable[..., Path]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """Make an image of number and label; person and pixels are its own unless given."""

    def make(number: int, label: int, person: str = "", pixels: str = "", split: str = "") -> LabelledImage:
        name = f"{number}.png"
        return LabelledImage(Path(name), label, person or f"p{number}", pixels or f"h{number}", name, split)

    return make


@pytest.fixture(scope="session")
def write_dicom() -> WriteDicom:
    """Write 12-bit pixels as a DX instance; further keywords become attributes."""

    def write(path: Path, pixels: NDArray[np.uint16], uid: str, **attributes: Any) -> Path:
        dataset = Dataset()
        dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
        dataset.SOPInstanceUID = uid
        dataset.Modality = "DX"
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def noise() -> Callable[[int], NDArray[np.uint16]]:
    """Give 12-bit noise that depends on the seed."""
    return lambda seed: np.random.default_rng(seed).integers(0, 4096, (60, 50)).astype(np.uint16)
