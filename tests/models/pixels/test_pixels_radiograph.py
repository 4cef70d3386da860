"""From stored values to the input of a network and to a picture for people."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import RLELossless
from rle.utils import encode_pixel_data as encode_rle

from models.errors import Reason, Unprocessable
from models.pixels.image_files import read_image_file
from models.pixels.limits import PixelLimits
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec, Resize

MakeDicom = Callable[..., BytesIO]

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
SMALL = InputSpec(height=32, width=32)


def area_mean(image: NDArray[np.floating], rows: int, columns: int) -> NDArray[np.float64]:
    """Exact area means, by the overlap of each source pixel with each target pixel."""

    def weights(size: int, count: int) -> NDArray[np.float64]:
        edges = np.arange(count + 1) * size / count
        pixels = np.arange(size)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.clip(overlap, 0, 1) * count / size

    return weights(image.shape[0], rows) @ image @ weights(image.shape[1], columns).T


def test_input_has_the_size_type_and_range_of_its_specification(
    make_dicom: MakeDicom, film: NDArray[np.uint16]
) -> None:
    image = Radiograph.read(make_dicom(film, **WINDOW)).to_input(InputSpec(height=48, width=64))
    assert image.shape == (48, 64)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() <= 1


def test_shrinking_takes_area_means(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    image = Radiograph.read(make_dicom(film, **WINDOW)).to_input(InputSpec(height=70, width=60))
    assert image == pytest.approx(area_mean(film / 4095, 70, 60), abs=1e-3)


def test_large_images_are_halved_first_and_stay_area_means(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    large = cv2.resize(film, (970, 1310), interpolation=cv2.INTER_CUBIC).clip(0, 4095)
    image = Radiograph.read(make_dicom(large, **WINDOW)).to_input(InputSpec(height=131, width=97))
    # Halved twice: footprints are made of 4 x 4 blocks, and the two last rows and columns of 1310 x 970 left out.
    assert image == pytest.approx(area_mean(large[:1308, :968] / 4095, 131, 97), abs=0.03)
    assert np.abs(image - area_mean(large / 4095, 131, 97)).mean() < 3e-3


@pytest.mark.parametrize(
    "window", [{"WindowCenter": 2048, "WindowWidth": 4096}, {"WindowCenter": 9000, "WindowWidth": 900}]
)
def test_means_are_taken_of_greys_not_of_clipped_values(make_dicom: MakeDicom, window: dict[str, int]) -> None:
    values = np.where(np.indices((64, 64)).sum(axis=0) % 2, 60000, 0).astype(np.uint16)
    image = Radiograph.read(make_dicom(values, **window)).to_input(SMALL)
    # Every 2 x 2 block holds two pixels that the window makes black and two white ones: the mean is middle grey,
    # while the mean of the values, 30000, would be white.
    assert image == pytest.approx(np.full((32, 32), 0.5), abs=1e-4)


def test_monochrome1_is_inverted_before_resize(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    spec = InputSpec(height=60, width=40)
    plain = Radiograph.read(make_dicom(film, **WINDOW)).to_input(spec)
    inverted = Radiograph.read(make_dicom(film, PhotometricInterpretation="MONOCHROME1", **WINDOW)).to_input(spec)
    assert inverted == pytest.approx(1 - plain, abs=1e-4)


def test_letterbox_keeps_the_shape_and_pads_with_black(make_dicom: MakeDicom) -> None:
    white = np.full((100, 50), 4095, np.uint16)
    spec = InputSpec(height=40, width=60, resize=Resize.LETTERBOX)
    image = Radiograph.read(make_dicom(white, **WINDOW)).to_input(spec)
    # 100 x 50 fits 40 x 60 at scale 0.4: 40 x 20, centred in 60 columns.
    assert np.array_equal(image[:, 20:40], np.ones((40, 20), np.float32))
    assert not image[:, :20].any()
    assert not image[:, 40:].any()


def test_small_images_grow_linearly(make_dicom: MakeDicom) -> None:
    values = np.array([[0, 4095], [0, 4095]], np.uint16)
    image = Radiograph.read(make_dicom(values, **WINDOW)).to_input(InputSpec(height=8, width=8))
    # Pixel centres of 8 in 2: (i + 0.5) / 4 - 0.5, held at the ends.
    expected = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    assert image == pytest.approx(np.tile(expected, (8, 1)), abs=1e-3)


def test_a_strip_shrinks_one_way_and_grows_the_other(make_dicom: MakeDicom) -> None:
    values = np.tile(np.linspace(0, 4095, 1000).round().astype(np.uint16), (4, 1))
    image = Radiograph.read(make_dicom(values, **WINDOW)).to_input(InputSpec(height=16, width=10))
    assert image == pytest.approx(np.tile(np.linspace(0.0495, 0.9505, 10), (16, 1)), abs=2e-3)


def test_display_is_eight_bits_in_the_shape_of_the_film(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    display = Radiograph.read(make_dicom(film, **WINDOW)).to_display(1024)
    assert display.dtype == np.uint8
    assert np.abs(display - film * (255 / 4095)).max() <= 0.51


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1310, 970), (655, 485)), ((1900, 1000), (700, 368)), ((700, 300), (700, 300)), ((2800, 2801), (700, 700))],
    ids=str,
)
def test_display_is_never_longer_than_asked(
    make_dicom: MakeDicom, film: NDArray[np.uint16], size: tuple[int, int], shown: tuple[int, int]
) -> None:
    large = cv2.resize(film, size[::-1], interpolation=cv2.INTER_LINEAR)
    display = Radiograph.read(make_dicom(large, **WINDOW)).to_display(700)
    assert display.shape == shown
    apart = np.abs(display - area_mean(large / 4095, *shown) * 255)
    assert apart.max() < 24
    assert apart.mean() < 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("spec", [SMALL, InputSpec(height=24, width=56, resize=Resize.LETTERBOX)], ids=str)
def test_a_dicom_and_the_png_made_from_it_give_the_same_input(
    make_dicom: MakeDicom, film: NDArray[np.uint16], tmp_path: Path, spec: InputSpec, photometric: str
) -> None:
    radiograph = Radiograph.read(make_dicom(film, PhotometricInterpretation=photometric, **WINDOW))
    whole = radiograph.to_input(InputSpec(height=film.shape[0], width=film.shape[1]))
    for dtype, white, tolerance in ((np.uint8, 255, 0.6 / 255), (np.uint16, 65535, 3 / 65535)):
        path = tmp_path / f"{white}.png"
        Image.fromarray(np.rint(whole * white).astype(dtype)).save(path)
        assert read_image_file(path).to_input(spec) == pytest.approx(radiograph.to_input(spec), abs=tolerance)


def test_a_dicom_and_its_compressed_copy_give_the_same_input(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    frame = encode_rle(
        film.tobytes(), rows=131, columns=97, samples_per_pixel=1, bits_allocated=16, number_of_frames=1, byteorder="<"
    )
    copy = Radiograph.read(make_dicom(film, syntax=RLELossless, frame=bytes(frame), **WINDOW))
    assert np.array_equal(copy.to_input(SMALL), Radiograph.read(make_dicom(film, **WINDOW)).to_input(SMALL))


def test_a_path_and_a_stream_give_the_same(make_dicom: MakeDicom, film: NDArray[np.uint16], tmp_path: Path) -> None:
    stream = make_dicom(film, **WINDOW)
    path = tmp_path / "film.dcm"
    path.write_bytes(stream.getvalue())
    assert np.array_equal(Radiograph.read(path).stored, Radiograph.read(stream).stored)


# Arrays and image files


def test_an_eight_bit_array_is_taken_as_it_is() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = Radiograph.from_grayscale(values).to_input(InputSpec(height=8, width=8))
    assert image == pytest.approx(values / 255, abs=1e-5)


def test_a_sixteen_bit_array_that_reaches_the_upper_half_is_taken_as_it_is() -> None:
    values = np.linspace(0, 40000, 64).round().astype(np.uint16).reshape(8, 8)
    image = Radiograph.from_grayscale(values).to_input(InputSpec(height=8, width=8))
    assert image == pytest.approx(values / 65535, abs=1e-5)


def test_a_sixteen_bit_array_of_detector_values_is_windowed() -> None:
    values = np.linspace(0, 4095, 1024).round().astype(np.uint16).reshape(32, 32)
    image = Radiograph.from_grayscale(values).to_input(SMALL)
    assert image.max() == 1


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_refused(array: NDArray[np.uint8]) -> None:
    with pytest.raises(Unprocessable):
        Radiograph.from_grayscale(array)


def test_colour_files_become_grey_by_luma(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    image = read_image_file(path).to_input(InputSpec(height=8, width=8))
    assert image == pytest.approx(np.full((8, 8), 0.299), abs=0.003)  # ITU-R BT.601


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_png_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "white.png"
    Image.new("L", (8, 8), 255).convert(mode).save(path)
    assert read_image_file(path).to_input(InputSpec(height=8, width=8)) == pytest.approx(np.ones((8, 8)))


def test_jpeg_file(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpeg"
    Image.new("L", (40, 20), 51).save(path)
    radiograph = read_image_file(path)
    assert (radiograph.rows, radiograph.columns) == (20, 40)
    assert radiograph.to_input(SMALL) == pytest.approx(np.full((32, 32), 0.2), abs=0.01)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"not an image" * 50])
def test_broken_image_files_are_unprocessable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(Unprocessable) as caught:
        read_image_file(path)
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


def test_image_files_have_limits(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (100, 100)).save(path)
    with pytest.raises(Unprocessable) as caught:
        read_image_file(path, PixelLimits(max_rows_columns=9999))
    assert caught.value.reason is Reason.TOO_LARGE
