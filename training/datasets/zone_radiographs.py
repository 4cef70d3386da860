"""The torch data set over radiographs with zone scores: read as the worker reads, kept in memory, then augmented."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.pixels.lung_fields import WHOLE_IMAGE
from models.pixels.spec import Framing, InputSpec
from training.datasets.radiographs import InputCache, read_input
from training.datasets.reading import read_radiograph
from training.datasets.zone_images import ZoneImage
from training.zone_augmentation import WIDENING, ZoneAugmentation, widened_side


def read_wide(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    """Give an input widened by `WIDENING` on every side: ``(height, width) float32 in [0, 1]``, black beyond the image.

    Args:
        path: of the image.
        spec: of the widened input.

    Raises:
        Unprocessable, OSError: the file cannot be read.
    """
    radiograph = read_radiograph(path, smallest_side=spec.needed_side)
    frame = radiograph.lung_fields.frame if spec.framing is Framing.LUNGS else WHOLE_IMAGE
    return radiograph.to_framed(frame.widened(WIDENING), spec.height, spec.width)


def widened_spec(spec: InputSpec) -> InputSpec:
    """Give the spec of the widened input."""
    return spec.model_copy(update={"height": widened_side(spec.height), "width": widened_side(spec.width)})


class ZoneRadiographs(Dataset[tuple[Tensor, Tensor]]):
    """Images as the worker would feed them, and targets.

    Args:
        images: of any format.
        targets: ``(N, 6, 5)`` float32.
        spec: of the input.
        cache: of inputs of `spec`.
    """

    def __init__(
        self, images: Sequence[ZoneImage], targets: Tensor, spec: InputSpec, cache: InputCache | None = None
    ) -> None:
        self._images = images
        self._targets = targets
        self._spec = spec
        self._cache = cache

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Give ``(1, H, W) float32 in [0, 1]`` and targets ``(6, 5)``.

        Raises:
            Unprocessable, OSError: the file cannot be read any more.
        """
        path = self._images[index].path
        image = read_input(path, self._spec) if self._cache is None else self._cache.read(path)
        return torch.from_numpy(np.ascontiguousarray(image))[None], self._targets[index]


class ChangedZoneRadiographs(Dataset[tuple[Tensor, Tensor]]):
    """Images changed at random, and their targets. What is drawn depends on `stream` and an image's place only.

    Args:
        images: of any format.
        targets: ``(N, 6, 5)`` float32.
        spec: of the input.
        augmentation: changes images and targets.
        stream: seed and epoch, say; another stream draws other changes.
        cache: of widened inputs.
    """

    def __init__(
        self,
        images: Sequence[ZoneImage],
        targets: Tensor,
        spec: InputSpec,
        augmentation: ZoneAugmentation,
        stream: tuple[int, ...],
        cache: InputCache | None = None,
    ) -> None:
        self._images = images
        self._targets = targets
        self._spec = widened_spec(spec)
        self._augmentation = augmentation
        self._stream = stream
        self._cache = cache

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Give ``(1, H, W) float32 in [0, 1]`` and targets ``(6, 5)``; raises as `ZoneRadiographs`."""
        random = np.random.default_rng((*self._stream, index))
        image, targets = self._augmentation.apply(
            self._wide(index), self._targets[index], random, lambda: self._wide(int(random.integers(len(self))))
        )
        return torch.from_numpy(np.ascontiguousarray(image, np.float32))[None], targets

    def _wide(self, index: int) -> NDArray[np.float32]:
        path = self._images[index].path
        return read_wide(path, self._spec) if self._cache is None else self._cache.read(path)
