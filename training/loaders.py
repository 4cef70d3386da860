"""Batches of a run: training images, changed anew in every epoch, and validation images, plain and shifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch.utils.data import DataLoader

from models.pixels.spec import InputSpec
from training.augmentation import Augmentation
from training.datasets.labelled import LabelledImage
from training.datasets.radiographs import Batch, InputCache, Radiographs, in_order, shuffled
from training.shifted import ShiftedView

VALIDATION: Final = "validation"
SHIFTED: Final = "validation_shifted"
VIEWS: Final = (VALIDATION, SHIFTED)
"""How the held-out images are looked at: as they are, and as another hospital might have made them."""

_SHIFTED_STREAM: Final = 2**31  # an epoch number that training never reaches


def training_set(
    images: Sequence[LabelledImage],
    spec: InputSpec,
    *,
    epoch: int,
    seed: int,
    flip: float = 0.0,
    cache: InputCache | None = None,
) -> Radiographs:
    """Give the training images as they are changed in one epoch; that depends on seed and epoch alone."""
    return Radiographs(images, spec, Augmentation(flip=flip), (seed, epoch), cache)


def training_loader(
    dataset: Radiographs, batch_size: int, workers: int, *, epoch: int, seed: int, devices: int = 1
) -> DataLoader[Batch]:
    """Give every training image once, in an order that depends on seed and epoch alone; shared between devices."""
    return shuffled(dataset, batch_size, workers, (seed, epoch), devices)


def validation_loader(
    images: Sequence[LabelledImage],
    spec: InputSpec,
    *,
    shifted: bool,
    seed: int,
    batch_size: int = 32,
    workers: int = 0,
    cache: InputCache | None = None,
) -> DataLoader[Batch]:
    """Give the validation images in order, as they are or as of another hospital; drawn from the seed alone.

    Args:
        images: held out; an image's place among them decides how it is shifted.
        spec: of the input.
        shifted: see `training.shifted`.
        seed: of the run.
        batch_size: images at a time.
        workers: processes that read.
        cache: of the same `spec`.
    """
    changes = ShiftedView() if shifted else None
    return in_order(Radiographs(images, spec, changes, (seed, _SHIFTED_STREAM), cache), batch_size, workers)
