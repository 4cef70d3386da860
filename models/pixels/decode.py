"""From encoded pixel data to stored values.

One codec per transfer syntax, the quickest of those installed that gives the exact values:

============  ===========================================  ==========================================
JPEG 8 bit    Pillow (libjpeg-turbo)                       five times quicker than libjpeg
other JPEG    pylibjpeg-libjpeg                            lossless and 12 bit
JPEG-LS       pyjpegls (CharLS)                            four times quicker than libjpeg
JPEG 2000     Pillow (OpenJPEG)                            can leave out the finest resolution levels
RLE           pylibjpeg-rle
============  ===========================================  ==========================================

All of them hold the GIL, so decoding in parallel needs processes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, cast

import cv2
import jpeg_ls
import numpy as np
from libjpeg.utils import decode as decode_libjpeg
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin, JpegImagePlugin
from pydicom import uid
from rle.utils import decode_pixel_data as decode_rle

from models.errors import Reason, Unprocessable
from models.pixels.codestream import Codestream, read_jpeg, read_jpeg_2000
from models.pixels.header import OpenInstance
from models.pixels.pixel_format import PixelFormat, Samples, StoredPixels
from models.pixels.resize import shift
from models.pixels.syntaxes import (
    JPEG_2000_TRANSFER_SYNTAXES,
    JPEG_LS_TRANSFER_SYNTAXES,
    JPEG_TRANSFER_SYNTAXES,
    LOSSY_TRANSFER_SYNTAXES,
    NATIVE_TRANSFER_SYNTAXES,
)

CHANNEL_TOLERANCE: Final = 4
"""Largest difference between the channels of a grey colour image, of 255: lossy codecs round each on its own."""


def decode(instance: OpenInstance, form: PixelFormat, smallest_side: int | None = None) -> StoredPixels:
    """Decode the pixel data.

    Args:
        instance: the open file.
        form: its pixel format, checked against the limits.
        smallest_side: pixels; where the codec can, it may give an image reduced by a power of two whose shorter
            side is still at least this long. None: full resolution.

    Raises:
        Unprocessable: the transfer syntax is none of ours, the data is broken, cut off or no greyscale image.
    """
    syntax = instance.transfer_syntax
    if syntax in NATIVE_TRANSFER_SYNTAXES:
        return _decode_native(instance, form)
    if syntax == uid.RLELossless:
        return _decode_rle(instance.read_frame(), form)
    if syntax in JPEG_TRANSFER_SYNTAXES:
        return _decode_jpeg(instance.read_frame(), form, syntax in LOSSY_TRANSFER_SYNTAXES)
    if syntax in JPEG_LS_TRANSFER_SYNTAXES:
        return _decode_jpeg_ls(instance.read_frame(), form, syntax in LOSSY_TRANSFER_SYNTAXES)
    if syntax in JPEG_2000_TRANSFER_SYNTAXES:
        return _decode_jpeg_2000(instance.read_frame(), form, syntax in LOSSY_TRANSFER_SYNTAXES, smallest_side)
    raise Unprocessable(Reason.UNSUPPORTED_TRANSFER_SYNTAX)


def _decode_native(instance: OpenInstance, form: PixelFormat) -> StoredPixels:
    if form.photometric == "YBR_FULL_422":
        raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "native pixels with subsampled colour")
    big_endian = instance.transfer_syntax == uid.ExplicitVRBigEndian
    element = instance.pixel_element
    if form.bits_allocated == 8:
        # PS3.5 8.1.2: 8-bit samples in big-endian OW stand in swapped pairs.
        swapped = big_endian and element is not None and element.vr == "OW"
        data = np.frombuffer(instance.read_native(form.samples + form.samples % 2 * swapped), np.uint8)
        data = data.view(np.uint16).byteswap().view(np.uint8)[: form.samples] if swapped else data
        return _stored(_grey(_arrange(data, form, form.planar)), form)
    words = np.frombuffer(instance.read_native(2 * form.samples), ">u2" if big_endian else "<u2")
    if big_endian:
        words = words.astype(np.uint16)
    return _stored(_grey(_arrange(words, form, form.planar)), form)


def _decode_rle(frame: bytes, form: PixelFormat) -> StoredPixels:
    if len(frame) < 64:  # PS3.5 G.5: a header of 16 longs
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "RLE header is cut off")
    data = _call(
        lambda: decode_rle(frame, version=2, rows=form.rows, columns=form.columns, bits_allocated=form.bits_allocated)
    )
    samples = _view(data, form, form.bits_allocated)
    return _stored(_grey(_arrange(samples, form, planar=True)), form)


def _decode_jpeg(frame: bytes, form: PixelFormat, lossy: bool) -> StoredPixels:
    codestream, frame = read_jpeg(frame)
    _compare(codestream, form)
    if codestream.is_dct and codestream.precision == 8:
        samples = _call(lambda: _pillow_jpeg(frame, codestream.components))
    else:
        samples = _view(_call(lambda: decode_libjpeg(frame, 0, reshape=False)), form, codestream.precision)
        samples = _arrange(samples, form, planar=False)
    return _stored(_grey(_shaped(samples, form)), form, codestream, lossy)


def _pillow_jpeg(frame: bytes, components: int) -> NDArray[Any]:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(frame))
    if components == 3 and "adobe_transform" not in image.info:
        # The channels as they are stored; whether they are grey is judged in either colour space.
        image.draft("YCbCr", image.size)
    return np.asarray(image)


def _decode_jpeg_ls(frame: bytes, form: PixelFormat, lossy: bool) -> StoredPixels:
    codestream, frame = read_jpeg(frame)
    _compare(codestream, form)
    data, told = _call(lambda: jpeg_ls.decode_pixel_data(frame))
    samples = _view(data, form, codestream.precision)
    return _stored(_grey(_arrange(samples, form, told["interleave_mode"] == 0)), form, codestream, lossy)


def _decode_jpeg_2000(frame: bytes, form: PixelFormat, lossy: bool, smallest_side: int | None) -> StoredPixels:
    codestream, frame = read_jpeg_2000(frame)
    _compare(codestream, form)
    halvings = 0
    if smallest_side:
        while halvings < codestream.halvings and min(form.rows, form.columns) >> halvings + 1 >= smallest_side:
            halvings += 1
    samples = _call(lambda: _pillow_jpeg_2000(frame, halvings))
    # Pillow scales samples up to 8 or 16 bits, and gives signed ones with an offset.
    samples = samples >> (8 * samples.dtype.itemsize - codestream.precision)
    if codestream.signed:
        samples ^= 1 << codestream.precision - 1
    stored = _stored(_grey(samples), form, codestream, lossy)
    if not halvings:
        _shaped(stored.values, form)
        return stored
    return StoredPixels(_align(stored.values, form, halvings), stored.bits, stored.lowest, halvings)


def _pillow_jpeg_2000(frame: bytes, halvings: int) -> NDArray[Any]:
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(frame))
    if halvings:
        # Not by `image.reduce`: Pillow rounds the reduced size to the nearest, T.800 B-15 rounds it up.
        columns, rows = (-(-side >> halvings) for side in image.size)
        name, _, *rest = cast(tuple[Any, ...], image.tile[0].args)
        image._size = (columns, rows)
        image.tile = [image.tile[0]._replace(extents=(0, 0, columns, rows), args=(name, halvings, *rest))]
    return np.asarray(image)


def _align(values: Samples, form: PixelFormat, halvings: int) -> Samples:
    """Give what halving rows and columns by 2 x 2 means gives: the same grid, odd last lines left out.

    A sample of a coarser wavelet level sits on the first of the ``2 ** halvings`` pixels that it stands for (T.800
    annex F), a mean in their middle.
    """
    rows, columns = form.rows >> halvings, form.columns >> halvings
    moved = shift(values, 0.5 - 0.5 / (1 << halvings))
    if moved.shape[0] < rows or moved.shape[1] < columns:
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "reduced image has another size")
    return moved[:rows, :columns]


def _compare(codestream: Codestream, form: PixelFormat) -> None:
    if (codestream.rows, codestream.columns) != (form.rows, form.columns):
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "codestream and header differ in rows or columns")
    if codestream.components != form.samples_per_pixel:
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "codestream and header differ in samples per pixel")
    if not 2 <= codestream.precision <= 16 or (form.samples_per_pixel == 3 and codestream.precision != 8):
        raise Unprocessable(Reason.UNSUPPORTED_PIXELS, f"codestream of {codestream.precision} bits")


def _call(codec: Callable[[], Any]) -> Any:
    try:
        return codec()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Foreign code on foreign bytes: there is no list of what it raises. A panic of the RLE codec, which is
        # written in Rust, comes as pyo3's PanicException, and that is no Exception.
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "codec refused the frame") from error


def _view(data: Any, form: PixelFormat, bits: int) -> NDArray[Any]:
    samples = np.frombuffer(data, np.uint8 if bits <= 8 else np.dtype("<u2"))
    if samples.size != form.samples:
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "codec gave another number of samples")
    return samples


def _arrange(samples: NDArray[Any], form: PixelFormat, planar: bool) -> NDArray[Any]:
    if form.samples_per_pixel == 1:
        return samples.reshape(form.rows, form.columns)
    if planar:
        return np.moveaxis(samples.reshape(3, form.rows, form.columns), 0, -1)
    return samples.reshape(form.rows, form.columns, 3)


def _shaped(samples: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    if samples.shape[:2] != (form.rows, form.columns):
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "codec gave an image of another size")
    return samples


def _grey(samples: NDArray[Any]) -> Samples:
    """Give the one channel; of three, the first when they say grey, as RGB or as luminance and neutral colour.

    Many senders wrap radiographs in RGB Secondary Captures. The Photometric Interpretation of such files is often
    wrong, so the channels themselves are asked.
    """
    if samples.ndim == 2:
        return samples
    first, second, third = (np.ascontiguousarray(samples[..., channel]) for channel in range(3))
    for expected in (first, np.full_like(first, 128)):
        apart = max(cv2.norm(expected, channel, cv2.NORM_INF) for channel in (second, third))
        if apart <= CHANNEL_TOLERANCE:
            return first
    raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "colour image")


def _stored(
    samples: Samples, form: PixelFormat, codestream: Codestream | None = None, lossy: bool = False
) -> StoredPixels:
    """Cut each sample down to its stored bits, and move signed ones up so that the lowest is 0."""
    bits = form.bits_stored if codestream is None else min(form.bits_stored, codestream.precision)
    unused = 0 if codestream is not None else form.high_bit + 1 - form.bits_stored
    mask = (1 << bits) - 1
    if unused:
        samples = samples >> unused
    if form.signed:
        return StoredPixels((samples & mask) ^ (1 << bits - 1), bits, -(1 << bits - 1))
    if not samples.flags.c_contiguous:
        samples = np.ascontiguousarray(samples)
    if bits < 8 * samples.dtype.itemsize and cv2.minMaxLoc(samples)[1] > mask:
        if lossy and codestream is not None:
            # Lossy codecs overshoot, and bits above Bits Stored cannot hold overlays here: keep the values.
            return StoredPixels(samples, codestream.precision)
        samples = samples & mask  # PS3.5 8.1.1: unused bits may hold anything, formerly overlays
    return StoredPixels(samples, bits)
