"""Every layout and transfer syntax gives the stored values that went in."""

from __future__ import annotations

import io
from collections.abc import Callable
from io import BytesIO
from typing import Any

import jpeg_ls
import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array as encode_jpeg_2000
from PIL import Image
from pydicom import uid
from rle.utils import encode_pixel_data as encode_rle

from models.errors import Reason, Unprocessable
from models.pixels.codestream import read_jpeg_2000
from models.pixels.radiograph import Radiograph
from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES

MakeDicom = Callable[..., BytesIO]


def stored_values(radiograph: Radiograph) -> NDArray[np.int64]:
    return radiograph.stored.astype(np.int64) + radiograph.lowest_stored_value


def ramp(bits: int, signed: bool) -> NDArray[Any]:
    """(33, 47) values from the lowest to the highest that `bits` can hold, both included."""
    low = -(1 << bits - 1) if signed else 0
    values = np.linspace(low, low + (1 << bits) - 1, 33 * 47).round().reshape(33, 47)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_native_values_of_every_depth(make_dicom: MakeDicom, bits: int, signed: bool, syntax: uid.UID) -> None:
    values = ramp(bits, signed)
    radiograph = Radiograph.read(make_dicom(values, syntax=syntax, BitsStored=bits))
    assert np.array_equal(stored_values(radiograph), values)
    assert (radiograph.rows, radiograph.columns, radiograph.halvings) == (33, 47, 0)


def test_samples_may_stand_below_a_high_bit_that_is_not_the_topmost_stored_one(make_dicom: MakeDicom) -> None:
    values = ramp(10, signed=False)
    radiograph = Radiograph.read(make_dicom(values << 6, BitsStored=10, HighBit=15))
    assert np.array_equal(stored_values(radiograph), values)


def test_an_impossible_high_bit_is_ignored(make_dicom: MakeDicom) -> None:
    values = ramp(12, signed=False)
    radiograph = Radiograph.read(make_dicom(values, BitsStored=12, HighBit=7))
    assert np.array_equal(stored_values(radiograph), values)


@pytest.mark.parametrize("signed", [False, True])
def test_overlay_bits_above_the_samples_are_left_out(make_dicom: MakeDicom, signed: bool) -> None:
    values = ramp(12, signed)
    with_overlay = (values.view(np.uint16) & 0x0FFF) | 0x5000
    radiograph = Radiograph.read(make_dicom(with_overlay, BitsStored=12, PixelRepresentation=int(signed)))
    assert np.array_equal(stored_values(radiograph), values)


def test_rows_of_odd_length_have_no_padding(make_dicom: MakeDicom) -> None:
    values = np.arange(15, dtype=np.uint8).reshape(5, 3)
    assert np.array_equal(stored_values(Radiograph.read(make_dicom(values))), values)


def test_bytes_in_big_endian_words_stand_in_swapped_pairs(make_dicom: MakeDicom) -> None:
    values = np.arange(15, dtype=np.uint8).reshape(5, 3)
    swapped = np.append(values.ravel(), np.uint8(0)).view(np.uint16).byteswap().tobytes()
    stream = make_dicom(values, syntax=uid.ExplicitVRBigEndian, pixel_data=swapped)
    assert np.array_equal(stored_values(Radiograph.read(stream)), values)


def test_pixel_data_may_be_longer_than_the_image_and_not_shorter(make_dicom: MakeDicom) -> None:
    values = ramp(12, signed=False)
    longer = make_dicom(values, pixel_data=values.tobytes() + bytes(4096), BitsStored=12)
    assert np.array_equal(stored_values(Radiograph.read(longer)), values)
    shorter = make_dicom(values, pixel_data=values.tobytes()[:-2], BitsStored=12)
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(shorter)
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


def test_a_file_that_ends_inside_the_pixel_data_is_refused(make_dicom: MakeDicom) -> None:
    whole = make_dicom(ramp(12, signed=False), BitsStored=12).getvalue()
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(BytesIO(whole[:-100]))
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


def encoded(values: NDArray[Any], syntax: uid.UID, bits: int) -> bytes:
    """Encode losslessly, or as finely as the codec can."""
    if syntax == uid.RLELossless:
        return bytes(
            encode_rle(
                values.tobytes(),
                rows=values.shape[0],
                columns=values.shape[1],
                samples_per_pixel=1 if values.ndim == 2 else 3,
                bits_allocated=8 * values.dtype.itemsize,
                number_of_frames=1,
                byteorder="<",
            )
        )
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        return bytes(jpeg_ls.encode_array(values, 2 if syntax == uid.JPEGLSNearLossless else 0))
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        ratios = [2] if syntax == uid.JPEG2000 else None
        return encode_jpeg_2000(values, bits_stored=bits, compression_ratios=ratios)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=100)
    return stream.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.keyword)
def test_lossless_codecs_give_the_values_back(make_dicom: MakeDicom, bits: int, signed: bool, syntax: uid.UID) -> None:
    values = ramp(bits, signed)
    stream = make_dicom(values, syntax=syntax, frame=encoded(values, syntax, bits), BitsStored=bits)
    assert np.array_equal(stored_values(Radiograph.read(stream)), values)


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_jpeg_ls_gives_the_values_back(make_dicom: MakeDicom, bits: int) -> None:
    values = ramp(bits, signed=False)
    frame = encoded(values, uid.JPEGLSLossless, bits)
    stream = make_dicom(values, syntax=uid.JPEGLSLossless, frame=frame, BitsStored=bits)
    assert np.array_equal(stored_values(Radiograph.read(stream)), values)


def test_twos_complement_in_an_unsigned_codestream(make_dicom: MakeDicom) -> None:
    values = ramp(12, signed=True)
    frame = encoded(values.view(np.uint16) & 0x0FFF, uid.JPEGLSLossless, 12)
    stream = make_dicom(values, syntax=uid.JPEGLSLossless, frame=frame, BitsStored=12)
    assert np.array_equal(stored_values(Radiograph.read(stream)), values)


@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [(uid.JPEGBaseline8Bit, 3), (uid.JPEGExtended12Bit, 3), (uid.JPEGLSNearLossless, 2), (uid.JPEG2000, 4)],
    ids=lambda value: getattr(value, "keyword", str(value)),
)
def test_lossy_codecs_stay_near_the_values(make_dicom: MakeDicom, syntax: uid.UID, tolerance: int) -> None:
    values = ramp(8, signed=False)
    radiograph = Radiograph.read(make_dicom(values, syntax=syntax, frame=encoded(values, syntax, 8)))
    assert np.abs(stored_values(radiograph) - values).max() <= tolerance


def test_every_offered_transfer_syntax_is_decoded_by_a_test_here_or_on_real_files() -> None:
    encoded_here = {
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
    }
    # No encoder is installed for these; see test_pixels_real_files and the codestreams below.
    on_files = {uid.JPEGLossless, uid.JPEGLosslessSV1, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}
    assert encoded_here | on_files == set(DECODABLE_TRANSFER_SYNTAXES)


def test_a_transfer_syntax_that_we_do_not_offer_is_refused_by_name(make_dicom: MakeDicom) -> None:
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(make_dicom(ramp(8, signed=False), syntax=uid.MPEG2MPML, frame=b"\x00" * 10))
    assert caught.value.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


# Colour images that hold a grey radiograph


@pytest.mark.parametrize("planar", [0, 1])
def test_an_rgb_image_with_equal_channels_is_a_radiograph(make_dicom: MakeDicom, planar: int) -> None:
    grey = ramp(8, signed=False)
    channels = np.stack([grey] * 3, axis=0 if planar else -1)
    data = channels.tobytes() + b"\x00"
    stream = make_dicom(np.stack([grey] * 3, axis=-1), pixel_data=data, PlanarConfiguration=planar)
    assert np.array_equal(stored_values(Radiograph.read(stream)), grey)


def test_a_ybr_image_with_neutral_colour_is_a_radiograph(make_dicom: MakeDicom) -> None:
    grey = ramp(8, signed=False)
    neutral = np.full_like(grey, 128)
    stream = make_dicom(np.stack([grey, neutral, neutral], axis=-1), PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(stored_values(Radiograph.read(stream)), grey)


@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [(uid.RLELossless, 0), (uid.JPEGBaseline8Bit, 3), (uid.JPEG2000Lossless, 0), (uid.JPEGLSLossless, 0)],
    ids=lambda value: getattr(value, "keyword", str(value)),
)
def test_a_compressed_rgb_image_with_equal_channels_is_a_radiograph(
    make_dicom: MakeDicom, syntax: uid.UID, tolerance: int
) -> None:
    grey = ramp(8, signed=False)
    colour = np.stack([grey] * 3, axis=-1)
    radiograph = Radiograph.read(make_dicom(colour, syntax=syntax, frame=encoded(colour, syntax, 8)))
    assert np.abs(stored_values(radiograph) - grey).max() <= tolerance


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGBaseline8Bit], ids=lambda uid_: uid_.keyword)
def test_a_colour_image_is_refused(make_dicom: MakeDicom, syntax: uid.UID) -> None:
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[8:16, 8:16] = (200, 40, 40)
    frame = None if syntax == uid.ExplicitVRLittleEndian else encoded(colour, syntax, 8)
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(make_dicom(colour, syntax=syntax, frame=frame))
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


# What the header claims


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": None}, Reason.MALFORMED_DATASET),
        ({"Columns": 0}, Reason.MALFORMED_DATASET),
        ({"BitsAllocated": None, "BitsStored": None}, Reason.MALFORMED_DATASET),
        ({"BitsAllocated": 32, "BitsStored": 32}, Reason.UNSUPPORTED_PIXELS),
        ({"BitsAllocated": 1, "BitsStored": 1}, Reason.UNSUPPORTED_PIXELS),
        ({"NumberOfFrames": 2}, Reason.UNSUPPORTED_PIXELS),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED_PIXELS),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED_PIXELS),
        ({"SamplesPerPixel": 4}, Reason.UNSUPPORTED_PIXELS),
    ],
    ids=str,
)
def test_what_is_no_single_greyscale_frame_is_refused(
    make_dicom: MakeDicom, attributes: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(make_dicom(ramp(12, signed=False), **attributes))
    assert caught.value.reason is reason


def test_missing_tags_have_the_values_that_senders_mean(make_dicom: MakeDicom) -> None:
    values = ramp(16, signed=False)
    stream = make_dicom(
        values, SamplesPerPixel=None, PhotometricInterpretation=None, BitsStored=None, PixelRepresentation=None
    )
    assert np.array_equal(stored_values(Radiograph.read(stream)), values)


def test_one_frame_is_said_to_be_one_frame(make_dicom: MakeDicom) -> None:
    values = ramp(12, signed=False)
    assert np.array_equal(stored_values(Radiograph.read(make_dicom(values, NumberOfFrames=1))), values)


def test_the_codestream_and_the_header_must_agree_on_the_size(make_dicom: MakeDicom) -> None:
    frame = encoded(ramp(8, signed=False), uid.JPEG2000Lossless, 8)
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(make_dicom(np.zeros((33, 48), np.uint8), syntax=uid.JPEG2000Lossless, frame=frame))
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


# JPEG 2000 at reduced resolution


@pytest.mark.parametrize("shape", [(512, 640), (513, 641), (514, 642), (515, 643)], ids=str)
def test_reduced_decoding_gives_what_halving_the_whole_image_gives(
    make_dicom: MakeDicom, shape: tuple[int, int]
) -> None:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    values = (2000 + 1500 * np.sin(rows / 29) * np.cos(columns / 37)).astype(np.uint16)
    frame = encode_jpeg_2000(values, bits_stored=12)
    assert read_jpeg_2000(frame)[0].halvings == 5
    stream = make_dicom(values, syntax=uid.JPEG2000Lossless, frame=frame, BitsStored=12)
    radiograph = Radiograph.read(stream, smallest_side=128)
    height, width = shape[0] // 4, shape[1] // 4
    means = values[: 4 * height, : 4 * width].reshape(height, 4, width, 4).mean(axis=(1, 3))
    assert radiograph.halvings == 2
    assert (radiograph.rows, radiograph.columns) == shape
    # 3000 stored values between black and white: within 0.3 %, and at the last row and column, behind which there
    # is nothing to interpolate with, within 1.5 %.
    apart = np.abs(stored_values(radiograph) - means)
    assert apart[:-1, :-1].max() < 10
    assert apart.max() < 45


def test_reduced_decoding_stops_at_the_smallest_side_asked_for(make_dicom: MakeDicom) -> None:
    values = ramp(12, signed=False)
    stream = make_dicom(values, syntax=uid.JPEG2000Lossless, frame=encode_jpeg_2000(values, bits_stored=12))
    assert Radiograph.read(stream, smallest_side=17).stored.shape == (33, 47)
    assert Radiograph.read(stream, smallest_side=16).stored.shape == (16, 23)
