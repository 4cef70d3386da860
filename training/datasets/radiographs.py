"""The torch data set over labelled images: read as the worker reads, kept in memory, then optionally augmented."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.pixels.spec import InputSpec
from training.augmentation import Donor
from training.datasets.labelled import LabelledImage
from training.datasets.reading import read_radiograph

Batch = tuple[Tensor, Tensor]
"""``image (N, 1, H, W) float32 in [0, 1]`` and ``label (N) int64``, or targets ``(N, 6, 5) float32`` of zones."""

T = TypeVar("T")

DEFAULT_CACHE_BYTES: Final = 2 * 1024**3

_EMPTY, _BYTES, _WORDS = 0, 1, 2  # what a slot of the cache holds
_WHITE: Final = 65535


def read_input(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    """Give ``(height, width) float32 in [0, 1]``: what the worker would feed to the engine.

    Raises:
        Unprocessable, OSError: the file cannot be read.
    """
    # As in the worker: codecs that can leave out detail that resizing would drop.
    return read_radiograph(path, smallest_side=spec.needed_side).to_input(spec)


class Changes(Protocol):
    """What changes an image at random: `training.augmentation.Augmentation`, `training.shifted.ShiftedView`."""

    def apply(
        self, image: NDArray[np.float32], random: np.random.Generator, donor: Donor | None = None
    ) -> NDArray[np.float32]:
        """Give a changed copy of ``(H, W) float32 in [0, 1]``; the same generator state gives the same copy.

        Args:
            image: to change.
            random: decides how.
            donor: gives another image of the set, whose class is drawn evenly.
        """
        ...


class HasPath(Protocol):
    """An image of any set."""

    @property
    def path(self) -> Path:
        """Of the file."""
        ...


Reader = Callable[[Path, InputSpec], NDArray[np.float32]]
"""Gives ``(height, width) float32 in [0, 1]`` of the spec, of greys that 16 bits hold."""


class InputCache:
    """Inputs that were read before, in memory that the loader's forked processes share with the training process.

    An input is one of 65536 greys, so 16 bits hold it exactly, and 8 where the file had no more and was not resized:
    what comes out is bit for bit what `read_input` gives. Memory is taken as images come. In processes that were
    not forked the cache begins empty; nothing but time is lost.

    Args:
        images: that may be kept, the first ones where not all fit.
        spec: of the input.
        max_bytes: upper bound of the memory, at 2 bytes per pixel.
        reader: a function of a module, which other processes can import.
    """

    def __init__(
        self,
        images: Iterable[HasPath],
        spec: InputSpec,
        max_bytes: int = DEFAULT_CACHE_BYTES,
        reader: Reader = read_input,
    ) -> None:
        self._spec = spec
        self._reader = reader
        self._pixels = spec.height * spec.width
        paths = list(dict.fromkeys(image.path for image in images))
        self._slots = {path: slot for slot, path in enumerate(paths[: max_bytes // (2 * self._pixels + 1)])}
        self._allocate()

    def _allocate(self) -> None:
        count = max(1, len(self._slots))
        self._states = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        self._memory = np.frombuffer(mmap.mmap(-1, count * 2 * self._pixels), np.uint8).reshape(count, -1)

    def __len__(self) -> int:
        """Number of inputs held now."""
        return int(np.count_nonzero(self._states))

    def read(self, path: Path) -> NDArray[np.float32]:
        """Give ``(height, width) float32 in [0, 1]`` from memory, or from the file; the caller may change it.

        Raises:
            Unprocessable, OSError: the file cannot be read.
        """
        slot = self._slots.get(path)
        if slot is None:
            return self._reader(path, self._spec)
        if self._states[slot] == _EMPTY:
            image = self._reader(path, self._spec)
            self._keep(slot, image)
            return image
        return self._recall(slot)

    def _keep(self, slot: int, image: NDArray[np.float32]) -> None:
        words = np.rint(image * _WHITE).astype(np.uint16).reshape(-1)
        narrow = (words // 257).astype(np.uint8)
        if np.array_equal(narrow * np.uint16(257), words):
            self._memory[slot, : self._pixels] = narrow
            self._states[slot] = _BYTES
        else:
            self._memory[slot] = words.view(np.uint8)
            self._states[slot] = _WORDS  # last, for another process may look at any moment

    def _recall(self, slot: int) -> NDArray[np.float32]:
        if self._states[slot] == _BYTES:
            image = self._memory[slot, : self._pixels].astype(np.float32) * np.float32(257)
        else:
            image = self._memory[slot].view(np.uint16).astype(np.float32)
        image /= _WHITE
        return image.reshape(self._spec.height, self._spec.width)

    def __getstate__(self) -> dict[str, Any]:
        return {"_spec": self._spec, "_reader": self._reader, "_pixels": self._pixels, "_slots": self._slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()


class Radiographs(Dataset[Batch]):
    """Images and labels. What is drawn for an image depends on `stream` and its place only, so a run can be repeated.

    Args:
        images: of any format.
        spec: of the input.
        augmentation: changes each image; None gives them as the worker would.
        stream: seed and epoch, say; another stream draws other changes.
        cache: of the same `spec`; shared by the data sets of all epochs.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        spec: InputSpec,
        augmentation: Changes | None = None,
        stream: tuple[int, ...] = (),
        cache: InputCache | None = None,
    ) -> None:
        self._images = images
        self._spec = spec
        self._augmentation = augmentation
        self._stream = stream
        self._cache = cache
        labels = np.array([image.label for image in images])
        self._by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Give ``(1, H, W) float32 in [0, 1]`` and the label ``() int64``.

        Raises:
            Unprocessable, OSError: the file cannot be read any more.
        """
        image = self._read(index)
        if self._augmentation is not None:
            random = np.random.default_rng((*self._stream, index))
            image = self._augmentation.apply(image, random, lambda: self._donor(random))
        return torch.from_numpy(np.ascontiguousarray(image))[None], torch.tensor(self._images[index].label)

    def _read(self, index: int) -> NDArray[np.float32]:
        path = self._images[index].path
        return self._cache.read(path) if self._cache is not None else read_input(path, self._spec)

    def _donor(self, random: np.random.Generator) -> NDArray[np.float32]:
        of_one_class = self._by_label[random.integers(len(self._by_label))]
        return self._read(int(of_one_class[random.integers(len(of_one_class))]))


def in_order(dataset: Dataset[T], batch_size: int, workers: int) -> DataLoader[T]:
    """Give every image once, in order."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers)


def shuffled(
    dataset: Dataset[T], batch_size: int, workers: int, stream: tuple[int, ...], devices: int = 1
) -> DataLoader[T]:
    """Give every image once, in an order that depends on `stream`; a last batch of one is left out.

    Batch-norm cannot be trained on one image. Lightning shares the images out evenly between `devices`.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset has no length in its type
    share = -(-size // devices)
    drop_last = share % batch_size == 1 and share > 1
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, generator=generator, drop_last=drop_last
    )
