"""Images with landmarks and what was answered to them, brought back into pixels of each original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.pixels.placement import Placement
from models.pixels.spacing import read_spacing
from models.pixels.spec import InputSpec
from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_faults import LandmarkFault, LandmarkRepair
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_rows import Points
from training.datasets.reading import read_radiograph
from training.evaluation import Floats
from training.landmark_evaluation import LandmarkAnswers, landmark_metrics, measured_angles
from training.landmark_subjects import LandmarkSubject
from training.progress import track


@dataclass(frozen=True, eq=False)
class LocatedImages:
    """Images with what was answered.

    Attributes:
        images: ``N`` of them.
        schema: of the landmarks.
        answers: of the network.
        spread: ``(N, K)``, standard deviation of each landmark's place in pixels of the original.
        spacings: ``(N, 2)``, mm between rows and between columns, NaN where the file says nothing of it.
        tilt_scatter: degrees, with which Cobb angles are read; None measures them on the landmarks as they lie.
    """

    images: tuple[LandmarkImage, ...]
    schema: LandmarkSchema
    answers: LandmarkAnswers
    spread: Floats
    spacings: Floats
    tilt_scatter: float | None = None

    @property
    def points(self) -> Points:
        """``(N, K, 2)``, what was answered, in pixels of each original."""
        return self.answers.points

    def measured(self, bootstrap: int) -> dict[str, Any]:
        """Give the measures, see `training.landmark_evaluation.landmark_metrics`."""
        return landmark_metrics(
            self.images,
            self.points,
            self.schema,
            spacings=self.spacings,
            tilt_scatter=self.tilt_scatter,
            bootstrap=bootstrap,
        )

    @cached_property
    def angles(self) -> Floats:
        """``(N, 3)``, Cobb angles in degrees, see `training.landmark_evaluation.measured_angles`."""
        return measured_angles(self.images, self.points, self.schema, self.tilt_scatter)

    def chosen(self, places: Sequence[int]) -> LocatedImages:
        """Give some of the images."""
        rows = np.asarray(places, np.int64)
        answers = LandmarkAnswers(self.answers.points[rows], self.answers.confidence[rows])
        images = tuple(self.images[place] for place in places)
        return replace(self, images=images, answers=answers, spread=self.spread[rows], spacings=self.spacings[rows])


def is_sound(image: LandmarkImage) -> bool:
    """Say whether the truth of an image can be believed: each landmark is of its vertebra, and the angles are theirs.

    Where vertebrae had to be sorted, the angles that came with them were measured on the wrong order.
    """
    doubtful = LandmarkRepair.VERTEBRAE_SORTED in image.repairs or LandmarkFault.ANGLES_DIFFER in image.faults
    return image.usable and not doubtful


class _Inputs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Each image as the worker would feed it, ``(1, H, W) float32 in [0, 1]``, its placement, and its spacing."""

    def __init__(self, images: Sequence[LandmarkImage], spec: InputSpec) -> None:
        self._images = images
        self._spec = spec

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        radiograph = read_radiograph(self._images[index].path, smallest_side=self._spec.needed_side)
        placement = radiograph.placement(self._spec)
        placed = (placement.scale_x, placement.scale_y, placement.left, placement.top)
        spacing = read_spacing(radiograph.header)
        per_pixel = (math.nan, math.nan) if spacing is None else (spacing.row_mm, spacing.column_mm)
        image = torch.from_numpy(radiograph.to_input(self._spec))[None]
        return image, torch.tensor(placed, dtype=torch.float64), torch.tensor(per_pixel, dtype=torch.float64)


def locate_all(
    subject: LandmarkSubject, images: tuple[LandmarkImage, ...], batch_size: int, workers: int
) -> LocatedImages:
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
    points: list[Points] = []
    confidences, spreads, spacings = [], [], []
    for inputs, placed, per_pixel in track(loader, len(loader), "answering images"):
        outputs = subject.answer(inputs.numpy())
        for landmarks, spread, place in zip(outputs.landmarks, outputs.spread, placed.tolist(), strict=True):
            placement = Placement(*place)
            points.append(placement.to_original(landmarks.astype(np.float64)))
            spreads.append(spread / math.sqrt(placement.scale_x * placement.scale_y))
        confidences.append(outputs.confidence.astype(np.float64))
        spacings.append(per_pixel.numpy())
    answers = LandmarkAnswers(np.stack(points), np.concatenate(confidences))
    return LocatedImages(
        images, subject.schema, answers, _stacked(spreads), np.concatenate(spacings), subject.tilt_scatter
    )


def _stacked(rows: Sequence[NDArray[Any]]) -> Floats:
    return np.stack(rows).astype(np.float64)
