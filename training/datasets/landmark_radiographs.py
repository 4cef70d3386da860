"""The torch data set over radiographs with landmarks: read as the worker reads, kept in memory, then augmented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.pixels.placement import Placement
from models.pixels.spec import InputSpec
from training.datasets.landmark_images import LandmarkImage
from training.datasets.radiographs import InputCache, read_input
from training.datasets.reading import read_radiograph
from training.landmark_augmentation import LandmarkAugmentation
from training.tones import GrayImage

LETTERBOX_SIDE = 512
"""Pixels of the square in which errors are given."""


class LandmarkBatch(NamedTuple):
    """Images, their landmarks, and what a pixel of the input is in the letterbox of `LETTERBOX_SIDE` pixels.

    Attributes:
        image: ``(N, 1, H, W) float32 in [0, 1]``.
        points: ``(N, K, 2) float32``, x and y in input pixels; NaN where there is none.
        unit: ``(N) float32``, letterbox pixels per input pixel.
    """

    image: Tensor
    points: Tensor
    unit: Tensor


def placement_of(path: Path, spec: InputSpec) -> Placement:
    """Say where an image lies in its input.

    Raises:
        Unprocessable, OSError: the file cannot be read.
    """
    return read_radiograph(path, smallest_side=spec.needed_side).placement(spec)


class LandmarkRadiographs(Dataset[LandmarkBatch]):
    """Images and landmarks. What is drawn for an image depends on `stream` and its place only.

    Args:
        images: of any format.
        placements: of their inputs.
        spec: of the input.
        augmentation: changes each image; None gives them as the worker would.
        stream: seed and epoch, say; another stream draws other changes.
        cache: of the same `spec`.
    """

    def __init__(
        self,
        images: Sequence[LandmarkImage],
        placements: Sequence[Placement],
        spec: InputSpec,
        augmentation: LandmarkAugmentation | None = None,
        stream: tuple[int, ...] = (),
        cache: InputCache | None = None,
    ) -> None:
        self._images = images
        self._placements = placements
        self._spec = spec
        self._augmentation = augmentation
        self._stream = stream
        self._cache = cache

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LandmarkBatch:
        """Give ``(1, H, W)``, ``(K, 2)`` and ``()``.

        Raises:
            Unprocessable, OSError: the file cannot be read any more.
        """
        source, placement = self._images[index], self._placements[index]
        image, points = self._read(index), placement.to_input(source.points)
        if self._augmentation is not None:
            random = np.random.default_rng((*self._stream, index))
            image, points = self._augmentation.apply(
                image, points, random, lambda: self._read(int(random.integers(len(self))))
            )
        return LandmarkBatch(
            torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],
            torch.from_numpy(points.astype(np.float32)),
            torch.tensor(LETTERBOX_SIDE / max(source.size) / placement.scale_y),
        )

    def _read(self, index: int) -> GrayImage:
        path = self._images[index].path
        return self._cache.read(path) if self._cache is not None else read_input(path, self._spec)
