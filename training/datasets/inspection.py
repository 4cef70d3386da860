"""What one look at an image tells beside its diagnosis: size, encoding, brightness of the whole and of the border."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.pixels.attributes import read_integer, read_text
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec
from training.datasets.reading import digest_of, is_dicom, person_of_header, read_radiograph

_THUMBNAIL: Final = InputSpec(height=64, width=64)
_BORDER: Final = 3  # pixels of the thumbnail: a twentieth of its side
_BLACK: Final = 0.03


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of one readable image. Grey levels are in [0, 1], as the network is fed.

    Attributes:
        pixels_sha256, person: see `training.datasets.reading.Identity`.
        rows, columns: pixels.
        encoding: file format, channels and depth, e.g. ``JPEG RGB``, ``DICOM CR MONOCHROME2 12 bit``.
        mean, deviation: of all grey levels; the deviation is the standard deviation.
        border_mean: mean of the frame of a twentieth of the side.
        border_black: part of that frame that is black.
    """

    pixels_sha256: str
    person: str | None
    rows: int
    columns: int
    encoding: str
    mean: float
    deviation: float
    border_mean: float
    border_black: float


def inspect(path: Path) -> ImageFacts:
    """Read one file at full resolution.

    Raises:
        Unprocessable, OSError: it cannot be read.
    """
    radiograph = read_radiograph(path)
    image = radiograph.to_input(_THUMBNAIL)
    border = _frame(image)
    return ImageFacts(
        digest_of(radiograph),
        person_of_header(radiograph.header),
        radiograph.rows,
        radiograph.columns,
        _encoding(path, radiograph),
        float(image.mean()),
        float(image.std()),
        float(border.mean()),
        float((border < _BLACK).mean()),
    )


def _frame(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the pixels of the frame, ``(n)``."""
    inside = np.zeros(image.shape, dtype=bool)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    return image[~inside]


def _encoding(path: Path, radiograph: Radiograph) -> str:
    if is_dicom(path):
        header = radiograph.header
        bits = read_integer(header, "BitsStored")
        words = [read_text(header, keyword) for keyword in ("Modality", "PhotometricInterpretation")]
        return " ".join(["DICOM", *(word for word in words if word), f"{bits} bit"])
    with Image.open(path, formats=("PNG", "JPEG")) as image:  # reads the header alone
        channels = "16 bit" if image.mode.startswith("I") else {"L": "grey"}.get(image.mode, image.mode)
        return f"{image.format} {channels}"
