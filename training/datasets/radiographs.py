"""The torch data set over labelled images: read as the worker reads, then optionally augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.pixels.image_files import read_image_file
from models.pixels.spec import InputSpec
from training.augmentation import Augmentation
from training.datasets.class_folders import LabelledImage

Batch = tuple[Tensor, Tensor]
"""``image (N, 1, H, W) float32 in [0, 1]`` and ``label (N) int64``."""


class Radiographs(Dataset[Batch]):
    """Images and labels. What is drawn for an image depends on `stream` and its place only, so a run can be repeated.

    Args:
        stream: seed and epoch, say; another stream draws other changes.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        spec: InputSpec,
        augmentation: Augmentation | None = None,
        stream: tuple[int, ...] = (),
    ) -> None:
        self._images = images
        self._spec = spec
        self._augmentation = augmentation
        self._stream = stream

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Give ``(1, H, W) float32 in [0, 1]`` and the label ``() int64``."""
        labelled = self._images[index]
        image = read_image_file(labelled.path).to_input(self._spec)
        if self._augmentation is not None:
            image = self._augmentation.apply(image, np.random.default_rng((*self._stream, index)))
        return torch.from_numpy(np.ascontiguousarray(image))[None], torch.tensor(labelled.label)


def in_order(dataset: Radiographs, batch_size: int, workers: int) -> DataLoader[Batch]:
    """Give every image once, in order."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers)


def shuffled(dataset: Radiographs, batch_size: int, workers: int, stream: tuple[int, ...]) -> DataLoader[Batch]:
    """Give every image once, in an order that depends on `stream`; a last batch of one is left out.

    Batch-norm cannot be trained on one image.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
    drop_last = len(dataset) % batch_size == 1 and len(dataset) > 1
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, generator=generator, drop_last=drop_last
    )
