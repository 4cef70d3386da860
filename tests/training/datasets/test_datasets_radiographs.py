"""The torch data set: the worker's pixels, from file or memory, changed only as its stream says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec, Resize
from training.augmentation import Augmentation
from training.datasets.labelled import LabelledImage, read_labelled
from training.datasets.radiographs import InputCache, Radiographs, in_order, read_input, shuffled

SPEC = InputSpec(height=32, width=40)
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "dicom" / "pydicom-data" / "RG1_J2KR.dcm"


@pytest.fixture(scope="module")
def images(class_folders: Path) -> tuple[LabelledImage, ...]:
    return read_labelled(class_folders, ("NORMAL", "PNEUMONIA")).images


def test_dicom_is_read_as_the_worker_reads_it(
    tmp_path: Path, write_dicom: Callable[..., Path], noise: Callable[[int], NDArray[np.uint16]]
) -> None:
    bright = write_dicom(tmp_path / "2.dcm", noise(1), "1.2.1")
    dark = write_dicom(tmp_path / "1.dcm", noise(1), "1.2.2", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_input(bright, SPEC), Radiograph.read(bright).to_input(SPEC))
    np.testing.assert_allclose(read_input(dark, SPEC), 1 - read_input(bright, SPEC), atol=1e-3)


@pytest.mark.skipif(not REAL.is_file(), reason="the shared DICOM files are not here")
def test_a_real_radiograph_in_jpeg_2000_is_read_at_the_detail_the_worker_reads() -> None:
    spec = InputSpec(height=224, width=224)
    expected = Radiograph.read(REAL, smallest_side=448).to_input(spec)
    np.testing.assert_array_equal(read_input(REAL, spec), expected)


@pytest.mark.parametrize("source", ["8 bit as stored", "8 bit resized", "16 bit", "letterboxed"])
def test_memory_gives_bit_for_bit_what_the_file_gives(tmp_path: Path, source: str) -> None:
    top = 65536 if source == "16 bit" else 256
    shape = (SPEC.height, SPEC.width) if source in ("8 bit as stored", "16 bit") else (90, 60)
    grey = np.random.default_rng(0).integers(0, top, shape)
    pixels = grey.astype(np.uint16) if top > 256 else grey.astype(np.uint8)
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), pixels)
    spec = SPEC.model_copy(update={"resize": Resize.LETTERBOX}) if source == "letterboxed" else SPEC
    cache = InputCache([LabelledImage(path, 0, "p", "", "image.png")], spec)
    first = cache.read(path)
    path.unlink()
    second = cache.read(path)
    second += 1  # what a caller does to its copy
    np.testing.assert_array_equal(cache.read(path), first)
    assert first.dtype == second.dtype == np.float32


def test_memory_is_bounded(images: tuple[LabelledImage, ...]) -> None:
    cache = InputCache(images, SPEC, max_bytes=5 * (2 * SPEC.height * SPEC.width + 1))
    for image in images:
        np.testing.assert_array_equal(cache.read(image.path), read_input(image.path, SPEC))
    assert len(cache) == 5


def test_reading_processes_fill_the_memory_of_the_training_process(images: tuple[LabelledImage, ...]) -> None:
    cache = InputCache(images, SPEC)
    dataset = Radiographs(images, SPEC, cache=cache)
    batches = list(in_order(dataset, 8, workers=2))
    assert len(cache) == len(images)
    again = torch.cat([image for image, _ in in_order(dataset, 8, workers=0)])
    assert torch.equal(torch.cat([image for image, _ in batches]), again)


def test_a_cache_sent_to_another_process_begins_empty_and_works(images: tuple[LabelledImage, ...]) -> None:
    cache = InputCache(images, SPEC)
    expected = cache.read(images[0].path)
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy) == 0
    np.testing.assert_array_equal(copy.read(images[0].path), expected)


def test_items_are_input_and_label(images: tuple[LabelledImage, ...]) -> None:
    image, label = Radiographs(images, SPEC)[20]
    assert (image.shape, image.dtype) == ((1, 32, 40), torch.float32)
    assert (label.item(), label.dtype) == (1, torch.int64)
    np.testing.assert_array_equal(image[0].numpy(), read_input(images[20].path, SPEC))


def test_what_is_drawn_depends_on_stream_and_place_alone(images: tuple[LabelledImage, ...]) -> None:
    def draw(stream: tuple[int, ...], cache: InputCache | None = None) -> torch.Tensor:
        return Radiographs(images, SPEC, Augmentation(), stream, cache)[3][0]

    cache = InputCache(images, SPEC)
    assert torch.equal(draw((1, 2)), draw((1, 2), cache))
    assert torch.equal(draw((1, 2)), draw((1, 2), cache))
    assert not torch.equal(draw((1, 2)), draw((1, 3)))


def test_shuffling_gives_every_image_once_in_an_order_of_the_stream(images: tuple[LabelledImage, ...]) -> None:
    dataset = Radiographs(images, SPEC)

    def order(stream: tuple[int, ...]) -> list[float]:
        return [float(each.mean()) for batch, _ in shuffled(dataset, 8, 0, stream) for each in batch]

    assert sorted(order((0, 1))) == sorted(float(image.mean()) for image, _ in (dataset[i] for i in range(24)))
    assert order((0, 1)) == order((0, 1)) != order((0, 2))


def test_a_last_batch_of_one_is_left_out_of_training(images: tuple[LabelledImage, ...]) -> None:
    sizes = [len(label) for _, label in shuffled(Radiographs(images[:9], SPEC), 4, 0, (0,))]
    assert sizes == [4, 4]
