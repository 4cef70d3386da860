"""Reads radiographs from PNG and JPEG files, as training sets have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import Reason, Unprocessable
from models.pixels.limits import DEFAULT_LIMITS, PixelLimits
from models.pixels.radiograph import Radiograph

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image_file(path: Path, limits: PixelLimits = DEFAULT_LIMITS) -> Radiograph:
    """Read a PNG of 8 or 16 bits or a JPEG; colour becomes grey by luma (ITU-R BT.601), transparency is dropped.

    Raises:
        Unprocessable: not such a file, broken, or over the limits.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own size warning; our limits hold
                with Image.open(file, formats=("PNG", "JPEG")) as image:
                    if image.width * image.height > limits.max_rows_columns:
                        raise Unprocessable(Reason.TOO_LARGE, f"{image.height} x {image.width} pixels")
                    array = _grey_array(image)
        except Unprocessable:
            raise
        except Image.DecompressionBombError as error:
            raise Unprocessable(Reason.TOO_LARGE, "more pixels than any radiograph has") from error
        except Exception as error:  # foreign code on foreign bytes: there is no list of what it raises
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "not a readable PNG or JPEG") from error
    return Radiograph.from_grayscale(array)


def _grey_array(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if image.mode.startswith("I"):  # 16-bit PNG; "I" holds it in 32 bits
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)
