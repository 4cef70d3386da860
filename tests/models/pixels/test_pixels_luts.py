"""The grayscale pipeline: expected greys are worked out by hand from the formulas of PS3.3 C.11."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec

MakeDicom = Callable[..., BytesIO]

TOLERANCE = 2 / 65535
"""Greys have 16 bits between the stages."""


def image_of(values: list[int], dtype: str = "u2") -> NDArray[Any]:
    """(8, 8) image that starts with `values` and goes on with the last of them."""
    return np.array(values + [values[-1]] * (64 - len(values)), dtype).reshape(8, 8)


def greys(stream: BytesIO, count: int) -> list[float]:
    """First `count` greys in [0, 1], pixel for pixel."""
    image = Radiograph.read(stream).to_input(InputSpec(height=8, width=8))
    return [float(grey) for grey in image.ravel()[:count]]


def lut_item(first: int, bits: int, entries: list[int], count: int | None = None, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) if count is None else count, first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return item


def test_linear_window(make_dicom: MakeDicom) -> None:
    # C.11.2.1.2.1 with c 2048, w 4096: black up to 0, white above 4095, else ((x - 2047.5) / 4095 + 0.5).
    stream = make_dicom(image_of([0, 1, 1365, 2730, 4095, 5000]), WindowCenter=2048, WindowWidth=4096)
    assert greys(stream, 6) == pytest.approx([0, 1 / 4095, 1365 / 4095, 2730 / 4095, 1, 1], abs=TOLERANCE)


def test_the_window_examples_of_the_standard(make_dicom: MakeDicom) -> None:
    # C.11.2.1.2.1: c 0, w 100: x <= -50 black, x > 49 white, else ((x + 0.5) / 99 + 0.5).
    stream = make_dicom(image_of([-60, -50, -25, 0, 25, 49, 60], "i2"), WindowCenter=0, WindowWidth=100)
    expected = [0, 0, -24.5 / 99 + 0.5, 0.5 / 99 + 0.5, 25.5 / 99 + 0.5, 1, 1]
    assert greys(stream, 7) == pytest.approx(expected, abs=TOLERANCE)


def test_a_linear_window_of_width_one_is_a_threshold(make_dicom: MakeDicom) -> None:
    # C.11.2.1.2.1: c 2048, w 1: x <= 2047.5 black, else white.
    stream = make_dicom(image_of([0, 2047, 2048, 4095]), WindowCenter=2048, WindowWidth=1)
    assert greys(stream, 4) == [0, 0, 1, 1]


def test_linear_exact_window(make_dicom: MakeDicom) -> None:
    # C.11.2.1.3.2 with c 2048, w 4096: (x - 2048) / 4096 + 0.5.
    stream = make_dicom(image_of([0, 1024, 4095]), WindowCenter=2048, WindowWidth=4096, VOILUTFunction="LINEAR_EXACT")
    assert greys(stream, 3) == pytest.approx([0, 0.25, 4095 / 4096], abs=TOLERANCE)


def test_sigmoid_window(make_dicom: MakeDicom) -> None:
    # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)); a quarter width from the centre is exp(1).
    stream = make_dicom(image_of([0, 1024, 2048, 3072]), WindowCenter=2048, WindowWidth=4096, VOILUTFunction="SIGMOID")
    expected = [1 / (1 + np.exp(2)), 1 / (1 + np.e), 0.5, 1 / (1 + 1 / np.e)]
    assert greys(stream, 4) == pytest.approx(expected, abs=TOLERANCE)


def test_the_first_of_several_windows_counts(make_dicom: MakeDicom) -> None:
    values = image_of([0, 1000, 2000])
    several = make_dicom(values, WindowCenter=[1000, 40], WindowWidth=[2001, 400])
    # c 1000, w 2001: (x - 999.5) / 2000 + 0.5.
    assert greys(several, 3) == pytest.approx([0.5 / 2000, 1000.5 / 2000, 1], abs=TOLERANCE)


def test_rescale_comes_before_the_window(make_dicom: MakeDicom) -> None:
    stream = make_dicom(
        image_of([0, 512, 1024]), RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=2049
    )
    # 2 x - 1024 gives -1024, 0, 1024; c 0, w 2049: (y + 0.5) / 2048 + 0.5.
    assert greys(stream, 3) == pytest.approx([0.5 / 2048, 0.5 / 2048 + 0.5, 1], abs=TOLERANCE)


def test_a_negative_slope_turns_the_scale(make_dicom: MakeDicom) -> None:
    stream = make_dicom(
        image_of([0, 4095]), RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096
    )
    assert greys(stream, 2) == [1, 0]


def test_modality_lut(make_dicom: MakeDicom) -> None:
    # First input 10; below and above, the end entries hold (C.11.1.1.1).
    lut = lut_item(10, 16, [100, 300, 200, 500])
    stream = make_dicom(image_of([0, 10, 11, 12, 13, 99]), ModalityLUTSequence=[lut], WindowCenter=256, WindowWidth=512)
    # c 256, w 512: y / 511.
    expected = [100 / 511, 100 / 511, 300 / 511, 200 / 511, 500 / 511, 500 / 511]
    assert greys(stream, 6) == pytest.approx(expected, abs=TOLERANCE)


def test_voi_lut_is_preferred_to_the_window(make_dicom: MakeDicom) -> None:
    lut = lut_item(1000, 8, [0, 51, 102, 255])
    stream = make_dicom(
        image_of([0, 1000, 1001, 1002, 1003, 4000]), VOILUTSequence=[lut], WindowCenter=1, WindowWidth=2
    )
    assert greys(stream, 6) == pytest.approx([0, 0, 0.2, 0.4, 1, 1], abs=TOLERANCE)


def test_voi_lut_works_on_rescaled_values(make_dicom: MakeDicom) -> None:
    lut = lut_item(-2, 8, [0, 51, 102, 255])
    stream = make_dicom(image_of([8, 9, 10, 11], "i2"), RescaleSlope=1, RescaleIntercept=-10, VOILUTSequence=[lut])
    assert greys(stream, 4) == pytest.approx([0, 0.2, 0.4, 1], abs=TOLERANCE)


def test_a_negative_first_value_written_as_unsigned(make_dicom: MakeDicom) -> None:
    lut = lut_item(65534, 8, [0, 51, 102, 255])
    stream = make_dicom(image_of([-2, -1, 0, 1], "i2"), VOILUTSequence=[lut])
    assert greys(stream, 4) == pytest.approx([0, 0.2, 0.4, 1], abs=TOLERANCE)


def test_voi_lut_whose_descriptor_claims_more_bits_than_its_entries_use(make_dicom: MakeDicom) -> None:
    lut = lut_item(0, 16, [0, 1365, 4095])
    assert greys(make_dicom(image_of([0, 1, 2]), VOILUTSequence=[lut]), 3) == pytest.approx(
        [0, 1 / 3, 1], abs=TOLERANCE
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.keyword)
def test_a_full_lut_has_a_count_of_zero(make_dicom: MakeDicom, syntax: Any) -> None:
    entries = np.arange(65535, -1, -1)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", entries.astype("<u2" if syntax.is_little_endian else ">u2").tobytes())
    stream = make_dicom(image_of([0, 13107, 65535]), syntax=syntax, VOILUTSequence=[item])
    assert greys(stream, 3) == pytest.approx([1, 0.8, 0], abs=TOLERANCE)


def test_packed_8_bit_lut_entries(make_dicom: MakeDicom) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "OW", bytes([0, 51, 102, 255]))
    stream = make_dicom(image_of([0, 1, 2, 3]), VOILUTSequence=[item])
    assert greys(stream, 4) == pytest.approx([0, 0.2, 0.4, 1], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),
        # Contradictions, settled as DCMTK's dcm2pnm settles them.
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", False),
    ],
)
def test_polarity(make_dicom: MakeDicom, photometric: str, shape: str | None, inverted: bool) -> None:
    attributes = {"PresentationLUTShape": shape} if shape else {}
    stream = make_dicom(
        image_of([0, 4095]), PhotometricInterpretation=photometric, WindowCenter=2048, WindowWidth=4096, **attributes
    )
    assert greys(stream, 2) == ([1, 0] if inverted else [0, 1])


def test_eight_bits_without_a_window_are_shown_in_full_range(make_dicom: MakeDicom) -> None:
    stream = make_dicom(image_of([51, 102, 204], "u1"))
    assert greys(stream, 3) == pytest.approx([0.2, 0.4, 0.8], abs=TOLERANCE)


def test_eight_signed_bits_without_a_window(make_dicom: MakeDicom) -> None:
    stream = make_dicom(image_of([-128, 0, 127], "i1"))
    assert greys(stream, 3) == pytest.approx([0, 128 / 255, 1], abs=TOLERANCE)


def test_more_bits_without_a_window_are_windowed_by_percentiles(make_dicom: MakeDicom) -> None:
    # 0 to 999 once each, in an image of 25 x 40: half a percent of 999 steps on either side is clipped.
    values = 3000 + np.arange(1000, dtype=np.uint16).reshape(25, 40)
    image = Radiograph.read(make_dicom(values)).to_input(InputSpec(height=25, width=40))
    low, high = 0.005 * 999, 0.995 * 999
    expected = np.clip((np.arange(1000) - low) / (high - low), 0, 1).reshape(25, 40)
    assert image == pytest.approx(expected, abs=TOLERANCE)


def test_one_hot_pixel_does_not_darken_the_image(make_dicom: MakeDicom) -> None:
    values = (1000 + np.arange(10000) % 100).astype(np.uint16).reshape(100, 100)
    values[50, 50] = 65535
    image = Radiograph.read(make_dicom(values)).to_input(InputSpec(height=100, width=100))
    assert 0.4 < image.mean() < 0.6


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100},
        {"WindowWidth": 100},
        {"WindowCenter": 60000, "WindowWidth": 10},  # far from every pixel: all black
        {"WindowCenter": -60000, "WindowWidth": 10},  # all white
        {"RescaleSlope": 0},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": [lut_item(0, 8, [1, 2], count=500)]},  # fewer entries than it says
    ],
    ids=str,
)
def test_what_would_erase_the_image_is_ignored(make_dicom: MakeDicom, attributes: dict[str, Any]) -> None:
    values = np.arange(1000, 2024, dtype=np.uint16).reshape(32, 32)
    spec = InputSpec(height=32, width=32)
    image = Radiograph.read(make_dicom(values, **attributes)).to_input(spec)
    assert np.array_equal(image, Radiograph.read(make_dicom(values)).to_input(spec))
    assert np.ptp(image) == 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_constant_image_is_black(make_dicom: MakeDicom, photometric: str) -> None:
    stream = make_dicom(image_of([700]), PhotometricInterpretation=photometric)
    assert greys(stream, 64) == [0] * 64


def test_a_constant_image_keeps_the_grey_that_its_window_gives(make_dicom: MakeDicom) -> None:
    stream = make_dicom(image_of([2048]), WindowCenter=2048, WindowWidth=4096)
    assert greys(stream, 1) == pytest.approx([2048 / 4095], abs=TOLERANCE)


# Padding


def test_padding_is_black_and_does_not_count_for_the_window(make_dicom: MakeDicom) -> None:
    values = np.full((40, 40), 60000, np.uint16)
    values[10:30, 10:30] = 1000 + np.arange(400).reshape(20, 20)
    spec = InputSpec(height=40, width=40)
    image = Radiograph.read(make_dicom(values, PixelPaddingValue=60000)).to_input(spec)
    alone = Radiograph.read(make_dicom(values[10:30, 10:30])).to_input(InputSpec(height=20, width=20))
    assert image[10:30, 10:30] == pytest.approx(alone, abs=TOLERANCE)
    image[10:30, 10:30] = 0
    assert not image.any()


def test_padding_of_an_inverted_image_is_black(make_dicom: MakeDicom) -> None:
    stream = make_dicom(
        image_of([0, 2048, 4095]),
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    assert greys(stream, 3) == pytest.approx([0, 2047 / 4095, 0], abs=TOLERANCE)


def test_padding_range(make_dicom: MakeDicom) -> None:
    stream = make_dicom(
        image_of([100, 101, 109, 110, 111, 4095]),
        PixelPaddingValue=110,
        PixelPaddingRangeLimit=101,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    expected = [100 / 4095, 0, 0, 0, 111 / 4095, 1]
    assert greys(stream, 6) == pytest.approx(expected, abs=TOLERANCE)


def test_signed_padding_written_as_unsigned(make_dicom: MakeDicom) -> None:
    values = image_of([-2000, 0, 1000], "i2")
    dataset = make_dicom(values, WindowCenter=0, WindowWidth=4097).getvalue()
    with_padding = make_dicom(values, WindowCenter=0, WindowWidth=4097, PixelPaddingValue=-2000).getvalue()
    # Told as US: 65536 - 2000.
    as_unsigned = with_padding.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
    assert as_unsigned != with_padding
    assert greys(BytesIO(dataset), 1) == pytest.approx([48.5 / 4096], abs=TOLERANCE)
    assert greys(BytesIO(as_unsigned), 3) == pytest.approx([0, 2048.5 / 4096, 3048.5 / 4096], abs=TOLERANCE)


def test_an_image_of_nothing_but_padding_is_black(make_dicom: MakeDicom) -> None:
    assert greys(make_dicom(image_of([7]), PixelPaddingValue=7), 64) == [0] * 64
