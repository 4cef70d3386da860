"""Images with zone scores and what was answered to them, beside what one or two readers said.

The first reader is the one to be measured against. A mean CSI, and a mean error of an image, is over the zones that
this reader graded, for otherwise two means would be of different zones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.pixels.spec import Framing, InputSpec
from models.zones import ZONES, Congestion, GradedZones, grade_zones
from training.datasets.reading import read_radiograph
from training.datasets.zone_images import ZoneImage
from training.evaluation import Floats
from training.progress import track
from training.zone_evaluation import Grades, ZoneAnswers, zone_metrics
from training.zone_subjects import ZoneSubject


@dataclass(frozen=True, slots=True)
class GradedImages:
    """Images with what was answered.

    Attributes:
        images: ``N`` of them.
        zones: of the network, each array ``(N, 6)``.
        lungs_found: ``(N)``, whether the input was the lung fields; True where the input is the whole image anyway.
    """

    images: tuple[ZoneImage, ...]
    zones: GradedZones
    lungs_found: NDArray[np.bool_]

    @property
    def truth(self) -> Grades:
        """``(N, 6)`` of the first reader."""
        return grades_of(self.images, 0)

    @property
    def answers(self) -> ZoneAnswers:
        """What is measured."""
        return ZoneAnswers(self.zones.called, self.zones.graded)

    @property
    def persons(self) -> list[str]:
        """``(N)``."""
        return [image.person for image in self.images]

    def chosen(self, places: Sequence[int]) -> GradedImages:
        """Give some of the images."""
        rows = np.asarray(places, np.int64)
        zones = self.zones
        chosen = GradedZones(zones.called[rows], zones.graded[rows], zones.expected[rows], zones.certainty[rows])
        return GradedImages(tuple(self.images[place] for place in places), chosen, self.lungs_found[rows])


class _Inputs(Dataset[tuple[Tensor, bool]]):
    """Each image as the worker would feed it, ``(1, H, W) float32 in [0, 1]``, and whether its lungs were found."""

    def __init__(self, images: Sequence[ZoneImage], spec: InputSpec) -> None:
        self._images = images
        self._spec = spec

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, bool]:
        radiograph = read_radiograph(self._images[index].path, smallest_side=self._spec.needed_side)
        found = self._spec.framing is not Framing.LUNGS or radiograph.lung_fields.found
        return torch.from_numpy(radiograph.to_input(self._spec))[None], found


def grade_all(subject: ZoneSubject, images: tuple[ZoneImage, ...], batch_size: int, workers: int) -> GradedImages:
    """Answer every image, in order.

    Args:
        subject: answers.
        images: to answer.
        batch_size: images per run of the network.
        workers: processes that read images; 0 reads in this one.

    Raises:
        Unprocessable, OSError: a file cannot be read any more.
        Transient: the engine failed.
    """
    loader = DataLoader(_Inputs(images, subject.input_spec), batch_size=batch_size, num_workers=workers)
    probabilities, found = [], []
    for inputs, lungs_found in track(loader, len(loader), "answering images"):
        probabilities.append(subject.answer(inputs.numpy()).probability)
        found.append(lungs_found.numpy())
    return GradedImages(images, grade_zones(np.concatenate(probabilities)), np.concatenate(found))


def grades_of(images: Sequence[ZoneImage], reader: int) -> Grades:
    """Give the grades of one reader, ``(N, 6)``."""
    return np.array([image.readers[reader] for image in images], np.int64).reshape(len(images), len(ZONES))


def mean_scores(grades: NDArray[Any], truth: Grades) -> Floats:
    """Average ``(N, 6)`` grades over the zones that the reader graded: ``(N)``, NaN where there is none."""
    known = truth != Congestion.UNGRADABLE
    count = known.sum(axis=1)
    total = np.where(known, grades, 0).sum(axis=1)
    means: Floats = np.divide(total, count, out=np.full(len(truth), np.nan), where=count > 0)
    return means


def zone_errors(graded: GradedImages) -> Floats:
    """Give the mean absolute error of each image's zones, ``(N)`` grades; NaN where the reader graded none."""
    return mean_scores(np.abs(graded.zones.graded - graded.truth), graded.truth)


@dataclass(frozen=True, slots=True)
class SecondReader:
    """A second reader against the first, and the network on the same images, those that both have read.

    Attributes:
        reader: see `training.zone_evaluation.zone_metrics`.
        network: the same of the network.
    """

    reader: dict[str, Any]
    network: dict[str, Any]


def measure_second_reader(graded: GradedImages, metrics: dict[str, Any], bootstrap: int) -> SecondReader | None:
    """Measure the second reader; None where no image has one. `metrics` are those of the network on all images."""
    both = [place for place, image in enumerate(graded.images) if len(image.readers) > 1]
    if not both:
        return None
    there = graded.chosen(both)
    second = ZoneAnswers.of_reader(grades_of(there.images, 1))
    reader = zone_metrics(there.truth, second, groups=there.persons, bootstrap=bootstrap)
    if len(both) < len(graded.images):
        metrics = zone_metrics(there.truth, there.answers, groups=there.persons, bootstrap=bootstrap)
    return SecondReader(reader, metrics)
