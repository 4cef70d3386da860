"""A radiograph as pixels: read from DICOM or an array, given to a network or drawn for people.

One definition for training and serving. What it refuses: several frames, colour, palettes, floating point; see
`models.pixels.pixel_format`. Grey levels are uint16 between the stages, 0 black and 65535 white, whatever the
photometric interpretation was.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.errors import Reason, Unprocessable
from models.pixels.decode import decode
from models.pixels.header import OpenInstance, open_instance
from models.pixels.limits import DEFAULT_LIMITS, PixelLimits
from models.pixels.lung_fields import SIDE, Frame, LungFields, find_lung_fields
from models.pixels.luts import WHITE, GreyTable, build_table
from models.pixels.pixel_format import PixelFormat, Samples, StoredPixels
from models.pixels.placement import Placement
from models.pixels.resize import centre, crop, fitted_size, halve, halvings_for, pixels_of, resize
from models.pixels.spec import Framing, InputSpec

_DISPLAY_SHARE: Final = 0.75
"""A halved image this near to the wanted display size is shown as it is, which spares a general resize."""


class Radiograph:
    """One greyscale image.

    Attributes:
        header: the dataset before the pixel data, empty for an image file.
        rows, columns: size of the original, pixels.
        stored: ``(h, w) uint8 or uint16``: decoded samples, counted from the lowest that the format can hold.
        lowest_stored_value: stored value that 0 in `stored` stands for; negative for signed samples.
        halvings: how often `stored` was halved while decoding; 0 means ``(h, w)`` is ``(rows, columns)``.
    """

    def __init__(self, header: Dataset, rows: int, columns: int, pixels: StoredPixels, table: GreyTable) -> None:
        self.header = header
        self.rows = rows
        self.columns = columns
        self.stored: Samples = pixels.values
        self.lowest_stored_value = pixels.lowest
        self.halvings = pixels.halvings
        self._table = table
        # Means are taken before the table where it is a straight line: then only the shrunk pixels are looked up.
        self._levels: list[NDArray[Any]] = [pixels.values if table.commutes else table.apply(pixels.values)]

    @classmethod
    def read(
        cls, source: Path | BinaryIO, limits: PixelLimits = DEFAULT_LIMITS, *, smallest_side: int | None = None
    ) -> Radiograph:
        """Read a DICOM Part 10 file or a seekable stream of one.

        Args:
            source: path or stream.
            limits: checked on what the header claims, before anything is decoded.
            smallest_side: pixels. Codecs that can (JPEG 2000) leave out detail finer than an image with this
                shorter side, which is several times quicker; greys then differ from those of a full decode by well
                under 1 % on average, more at the sharpest edges. Ask for twice the input's or the display's size.

        Raises:
            Unprocessable: the instance is malformed, too large, or not of a kind that we read.
            OSError: the source cannot be read.
        """
        with open_instance(source, limits) as instance:
            return cls.from_instance(instance, limits, smallest_side=smallest_side)

    @classmethod
    def from_instance(
        cls, instance: OpenInstance, limits: PixelLimits = DEFAULT_LIMITS, *, smallest_side: int | None = None
    ) -> Radiograph:
        """Read an open instance whose header was looked at first; else as `read`."""
        if instance.pixel_element is None:
            raise Unprocessable(Reason.NO_PIXEL_DATA)
        form = PixelFormat.from_header(instance.header, limits)
        pixels = decode(instance, form, smallest_side)
        return cls(instance.header, form.rows, form.columns, pixels, build_table(instance.header, pixels))

    @classmethod
    def from_grayscale(cls, array: NDArray[np.uint8] | NDArray[np.uint16]) -> Radiograph:
        """Take an image whose black is 0.

        Args:
            array: ``(h, w)``. uint8: white is 255. uint16: white is 65535; an image that stays below half of that is
                taken for raw detector values and windowed like a DICOM instance without a window.

        Raises:
            Unprocessable: another shape or type, or no pixel.
        """
        if array.ndim != 2 or array.dtype not in (np.uint8, np.uint16) or not array.size:
            raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "not a greyscale array of 8 or 16 bits")
        pixels = StoredPixels(np.ascontiguousarray(array), 8 * array.dtype.itemsize)
        if array.dtype == np.uint16 and array.max() <= WHITE // 2:
            table = build_table(Dataset(), pixels)
        else:
            table = GreyTable(np.linspace(0, WHITE, 1 << pixels.bits).astype(np.uint16), array.dtype == np.uint16)
        return cls(Dataset(), array.shape[0], array.shape[1], pixels, table)

    @property
    def _size(self) -> tuple[int, int]:
        return self.rows, self.columns

    @cached_property
    def lung_fields(self) -> LungFields:
        """Where the lungs are, should this be a frontal chest radiograph."""
        return find_lung_fields(self.to_input(InputSpec(height=SIDE, width=SIDE)))

    def to_input(self, spec: InputSpec) -> NDArray[np.float32]:
        """Give ``(height, width) float32 in [0, 1]``, 0 black: one image of an engine's input."""
        if spec.framing is Framing.LUNGS:
            return self.to_framed(self.lung_fields.frame, spec.height, spec.width)
        rows, columns = fitted_size(self.stored.shape, spec)
        greys = self._greys(resize(self._level_for(rows, columns), rows, columns))
        return centre(_as_parts(greys), spec.height, spec.width)

    def placement(self, spec: InputSpec) -> Placement:
        """Say where the original lies in `to_input` of a spec that takes the whole image.

        Halving leaves out an odd last row or column, so the scale is that of what is left.

        Raises:
            ValueError: the spec takes a part of the image.
        """
        if spec.framing is not Framing.WHOLE:
            raise ValueError("only an input that shows the whole image has a placement")
        rows, columns = fitted_size(self.stored.shape, spec)
        halvings = halvings_for(self.stored.shape, rows, columns)
        # Of the stored pixels, those that the halved image still shows; of the original, those that were stored.
        shown = [size >> halvings << halvings for size in self.stored.shape]
        stored_per_original = [size / whole for size, whole in zip(self.stored.shape, self._size, strict=True)]
        scale_y, scale_x = (
            fitted / part * ratio
            for fitted, part, ratio in zip((rows, columns), shown, stored_per_original, strict=True)
        )
        return Placement(scale_x, scale_y, (spec.width - columns) // 2, (spec.height - rows) // 2)

    def to_framed(self, frame: Frame, rows: int, columns: int) -> NDArray[np.float32]:
        """Give a part of the image, stretched to ``(rows, columns) float32 in [0, 1]``; black beyond the image."""
        level = self._level_for(round(rows / frame.height), round(columns / frame.width))
        part, inside = crop(level, frame)
        vertical, horizontal = pixels_of(inside, rows, columns)
        greys = self._greys(resize(part, vertical.stop - vertical.start, horizontal.stop - horizontal.start))
        image = np.zeros((rows, columns), np.float32)
        image[vertical, horizontal] = _as_parts(greys)
        return image

    def to_display(self, max_side: int) -> NDArray[np.uint8]:
        """Give ``(h, w) uint8`` in the shape of the original, its longer side at most `max_side`, never enlarged."""
        level, image = 0, self._levels[0]
        while max(image.shape) // 2 >= _DISPLAY_SHARE * max_side:
            level += 1
            image = self._level(level)
        longer = max(image.shape)
        if longer > max_side:
            rows, columns = (max(1, round(side * max_side / longer)) for side in image.shape)
            image = resize(image, rows, columns)
        return cast(NDArray[np.uint8], cv2.convertScaleAbs(self._greys(image), alpha=255 / WHITE))

    def _level_for(self, rows: int, columns: int) -> NDArray[Any]:
        return self._level(halvings_for(self.stored.shape, rows, columns))

    def _level(self, halvings: int) -> NDArray[Any]:
        while len(self._levels) <= halvings:
            self._levels.append(halve(self._levels[-1]))
        return self._levels[halvings]

    def _greys(self, image: NDArray[Any]) -> NDArray[np.uint16]:
        return self._table.apply(image) if self._table.commutes else image


def _as_parts(greys: NDArray[np.uint16]) -> NDArray[np.float32]:
    image = greys.astype(np.float32)
    image /= WHITE
    return image
