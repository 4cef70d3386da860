"""Lung fields: found where a displaced chest lies, refused where there is no chest, and cut out for networks."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import Unprocessable
from models.pixels import lung_fields
from models.pixels.image_files import read_image_file
from models.pixels.lung_fields import SIDE, WHOLE_IMAGE, Frame, find_lung_fields
from models.pixels.radiograph import Radiograph
from models.pixels.spec import Framing, InputSpec, Resize

MakeDicom = Callable[..., BytesIO]
REAL_CHESTS = Path(__file__).resolve().parents[4] / "shared" / "data" / "brixia_cohen" / "images"
LUNGS = InputSpec(height=60, width=40, framing=Framing.LUNGS)


def chest(width: float, height: float, right: float, down: float, side: int = 384) -> NDArray[np.float32]:
    """The average chest, so large and so placed in an image, ``(side, side) float32 in [0, 1]``, grey around it."""
    average = cv2.imread(str(Path(lung_fields.__file__).with_name("average_chest.png")), cv2.IMREAD_GRAYSCALE)
    scale = side / SIDE
    matrix = np.array(
        [
            [width * scale, 0, ((1 - width) / 2 + right) * side],
            [0, height * scale, ((1 - height) / 2 + down) * side],
        ]
    )
    placed = cv2.warpAffine(average, matrix, (side, side), flags=cv2.INTER_CUBIC, borderValue=(110.0,))
    return placed.astype(np.float32) / 255


def small(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("width", "height", "right", "down"),
    [(1.0, 1.0, 0.0, 0.0), (0.75, 0.75, 0.05, -0.08), (0.9, 0.7, -0.03, 0.06), (1.2, 1.1, 0.0, 0.05)],
)
def test_a_chest_is_found_wherever_it_lies(width: float, height: float, right: float, down: float) -> None:
    found = find_lung_fields(small(chest(width, height, right, down)))
    assert found.found
    assert found.similarity > 0.9
    # On the average chest the lungs reach from 11 to 85 of 96 across, and from 12 to 78 down.
    expected = Frame(
        (11.5 / 96 - 0.5) * width + 0.5 + right,
        (12.5 / 96 - 0.5) * height + 0.5 + down,
        (85.5 / 96 - 0.5) * width + 0.5 + right,
        (78.5 / 96 - 0.5) * height + 0.5 + down,
    )
    for side in ("left", "top", "right", "bottom"):
        assert getattr(found.frame, side) == pytest.approx(getattr(expected.widened(0.05), side), abs=0.02), side


@pytest.mark.parametrize("kind", ["black", "noise", "disc", "upside down", "inverted"])
def test_what_is_no_chest_is_taken_whole(kind: str) -> None:
    image = np.zeros((SIDE, SIDE), np.float32)
    if kind == "noise":
        image = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    elif kind == "disc":
        cv2.circle(image, (48, 48), 30, (1.0,), -1)
    elif kind == "upside down":
        image = small(chest(0.8, 0.8, 0, 0))[::-1].copy()
    elif kind == "inverted":
        image = 1 - small(chest(0.8, 0.8, 0, 0))
    found = find_lung_fields(image)
    assert not found.found
    assert found.frame == WHOLE_IMAGE
    assert found.similarity < lung_fields.LEAST_SIMILARITY


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="96 x 96"):
        find_lung_fields(np.zeros((64, 96), np.float32))


def test_a_dicom_and_the_image_file_made_from_it_give_the_same_lungs(make_dicom: MakeDicom, tmp_path: Path) -> None:
    film = np.rint(chest(0.8, 0.7, 0.05, -0.1) * 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "film.png"), film)
    dicom = Radiograph.read(make_dicom(film, WindowCenter=128, WindowWidth=256))
    png = read_image_file(tmp_path / "film.png")
    assert dicom.lung_fields.found
    assert dicom.to_input(LUNGS) == pytest.approx(png.to_input(LUNGS), abs=2e-3)


def test_the_input_of_lungs_is_what_lies_in_the_frame() -> None:
    film = np.rint(chest(0.8, 0.7, 0.05, -0.1) * 255).astype(np.uint8)
    radiograph = Radiograph.from_grayscale(film)
    frame = radiograph.lung_fields.frame
    rows = slice(round(frame.top * 384), round(frame.bottom * 384))
    columns = slice(round(frame.left * 384), round(frame.right * 384))
    expected = cv2.resize(film[rows, columns].astype(np.float32) / 255, (40, 60), interpolation=cv2.INTER_AREA)
    image = radiograph.to_input(LUNGS)
    assert image.shape == (60, 40)
    assert image.dtype == np.float32
    # The image is halved first and the frame cut at whole pixels of that, so an edge may move by a pixel.
    assert np.abs(image - expected).mean() < 0.01


def test_where_no_lungs_are_found_the_input_is_the_whole_image() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 80)).astype(np.uint8)
    radiograph = Radiograph.from_grayscale(noise)
    whole = LUNGS.model_copy(update={"framing": Framing.WHOLE})
    assert np.array_equal(radiograph.to_input(LUNGS), radiograph.to_input(whole))


def test_beyond_the_image_lies_black_whatever_stands_for_it_in_the_file(make_dicom: MakeDicom) -> None:
    bright = np.full((40, 60), 10, np.uint8)  # nearly white, for 0 is white
    radiograph = Radiograph.read(
        make_dicom(bright, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256)
    )
    image = radiograph.to_framed(Frame(-0.5, 0.25, 0.5, 1.25), 20, 30)
    assert not image[:, :15].any()
    assert not image[15:].any()
    assert image[:15, 15:].min() > 0.9


@pytest.mark.parametrize(
    "frame", [Frame(2.0, 2.0, 3.0, 3.0), Frame(-3.0, 0.2, -2.0, 0.4), Frame(0.5, 0.5, 0.501, 0.501)]
)
def test_frames_beside_the_image_or_of_no_size_give_an_input_all_the_same(frame: Frame) -> None:
    radiograph = Radiograph.from_grayscale(np.full((30, 30), 200, np.uint8))
    image = radiograph.to_framed(frame, 16, 16)
    assert image.shape == (16, 16)
    assert np.isfinite(image).all()


def test_parts_of_images_ask_for_more_detail_and_are_stretched() -> None:
    assert InputSpec(height=100, width=80).needed_side == 200
    assert InputSpec(height=100, width=80, framing=Framing.LUNGS).needed_side == 400
    with pytest.raises(ValueError, match="always stretched"):
        InputSpec(height=100, width=80, framing=Framing.LUNGS, resize=Resize.LETTERBOX)


def test_a_frame_is_widened_on_every_side() -> None:
    assert Frame(0.2, 0.0, 0.6, 1.0).widened(0.25) == Frame(pytest.approx(0.1), -0.25, pytest.approx(0.7), 1.25)


@pytest.mark.skipif(not REAL_CHESTS.is_dir(), reason="the real radiographs are not here")
def test_lungs_are_found_on_every_real_chest_and_lie_on_it() -> None:
    for path in sorted(REAL_CHESTS.iterdir()):
        found = read_image_file(path).lung_fields
        assert found.found, path.name
        assert 0.4 < found.frame.width < 1.2, path.name
        assert 0.3 < found.frame.height < 1.1, path.name
        assert abs((found.frame.left + found.frame.right) / 2 - 0.5) < 0.2, path.name


def test_lungs_are_found_on_real_dicom_chests_and_on_no_other_part(real_dicom: Path) -> None:
    parts = {"CHEST": 0, "HIP": 0, "EXTREMITY": 0}
    for path in sorted(real_dicom.rglob("*")):
        if not path.is_file() or "MONOHR1" in path.name:  # tagged MONOCHROME1 falsely, so it comes inverted
            continue
        try:
            radiograph = Radiograph.read(path, smallest_side=256)
        except Unprocessable:
            continue
        part = str(radiograph.header.get("BodyPartExamined", ""))
        if radiograph.header.get("Modality") == "CR" and part in parts:
            parts[part] += 1
            assert radiograph.lung_fields.found is (part == "CHEST"), path.name
    assert min(parts.values()) > 0
