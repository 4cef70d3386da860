"""What a run of task landmarks writes beside what every run does, see `training.run`.

::

    data.json                     schema, digest and counts of the data, and every image with its landmarks
    checkpoints/best_loss.ckpt, best_mre.ckpt    the epochs of least loss and error on who was held out
    metrics_<split>.json          measures; of `validation`, or of `train` where nobody was held out
    predictions_<split>.csv       per landmark its place in pixels of the original, confidence, spread, and
                                  mm between rows and columns of the image where known, else nan
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import ConfigurationError, Unprocessable
from training.datasets.landmark_images import LandmarkImage, LandmarkImages
from training.datasets.landmark_splits import LandmarkSplit
from training.datasets.reading import pixels_sha256
from training.landmark_evaluation import LandmarkAnswers
from training.landmark_fitted import schema_of_run
from training.landmark_module import SIDES
from training.located_images import LocatedImages
from training.run import RunDirectory

_NAMES: Final = ("file", "person", "landmark")
_FIGURES: Final = ("x", "y", "confidence", "spread", "row_mm", "column_mm")
_DIGITS: Final = 4


def write_landmark_data(run: RunDirectory, images: LandmarkImages, split: LandmarkSplit, how: dict[str, Any]) -> None:
    """Write which data was used, and how it was split."""
    sides = dict(zip(SIDES, (split.train, split.validation), strict=True))
    document = {
        "schema": images.schema.name,
        "format": str(images.format),
        "digest": images.digest,
        "unreadable": [unreadable.path.name for unreadable in images.unreadable],
        "faulty": [image.source for image in images.faulty],
        "excluded": list(images.excluded),
        "split": how,
        "counts": {side: landmark_counts(chosen) for side, chosen in sides.items()},
        "images": {side: [_as_row(image) for image in chosen] for side, chosen in sides.items()},
    }
    run.write_json("data.json", document)


def landmark_counts(images: Sequence[LandmarkImage]) -> dict[str, int]:
    """Count images, persons and landmarks."""
    return {
        "images": len(images),
        "persons": len({image.person for image in images}),
        "landmarks": sum(int(image.visible.sum()) for image in images),
    }


def read_landmark_split(run: RunDirectory, data_dir: Path) -> LandmarkSplit:
    """Find the images of both sides again, as they were when the run read them.

    Raises:
        ConfigurationError: one is missing or has other pixels now.
    """
    return LandmarkSplit(*(read_landmark_side(run, side, data_dir) for side in SIDES))


def read_landmark_side(run: RunDirectory, side: str, data_dir: Path | None) -> tuple[LandmarkImage, ...]:
    """Find the images of one side again; raises as `read_landmark_split`.

    Args:
        run: that read them.
        side: which.
        data_dir: where they lie; None does not look, and gives paths within the data.
    """
    return tuple(_from_row(row, data_dir) for row in run.read_json("data.json")["images"][side])


def write_landmark_predictions(run: RunDirectory, split: str, located: LocatedImages) -> None:
    """Write the answers to one split."""
    with (run.path / f"predictions_{split}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_NAMES, *_FIGURES])
        for place, image in enumerate(located.images):
            for number, label in enumerate(located.schema.labels):
                figures = (
                    *located.points[place, number],
                    located.answers.confidence[place, number],
                    located.spread[place, number],
                    *located.spacings[place],
                )
                writer.writerow([image.source, image.person, label, *(f"{value:.{_DIGITS}f}" for value in figures)])


def read_landmark_predictions(run: RunDirectory, split: str) -> LocatedImages:
    """Read the answers to one split.

    Raises:
        ConfigurationError: there are none.
    """
    path = run.path / f"predictions_{split}.csv"
    images, schema = read_landmark_side(run, split, None), schema_of_run(run)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[float(row[name]) for name in _FIGURES] for row in csv.DictReader(file)]
        values = np.array(rows, np.float64).reshape(len(images), len(schema), len(_FIGURES))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read; is this a finished run of task landmarks?") from error
    answers = LandmarkAnswers(values[..., :2], values[..., 2])
    return LocatedImages(images, schema, answers, values[..., 3], values[:, 0, 4:])


def _as_row(image: LandmarkImage) -> dict[str, Any]:
    return {
        "file": image.source,
        "person": image.person,
        "pixels_sha256": image.pixels_sha256,
        "size": list(image.size),
        "angles": None if image.angles is None else list(image.angles),
        "points": [
            None if np.isnan(point).any() else [round(float(each), _DIGITS) for each in point] for point in image.points
        ],
    }


def _from_row(row: dict[str, Any], data_dir: Path | None) -> LandmarkImage:
    path = Path(row["file"]) if data_dir is None else data_dir / row["file"]
    if data_dir is not None:
        try:
            found = pixels_sha256(path)
        except (Unprocessable, OSError) as error:
            raise ConfigurationError(f"{path}: cannot be read; the run was made with it") from error
        if found != row["pixels_sha256"]:
            raise ConfigurationError(f"{path}: has other pixels than when the run was made")
    rows, columns = row["size"]
    return LandmarkImage(
        path=path,
        source=row["file"],
        person=row["person"],
        pixels_sha256=row["pixels_sha256"],
        size=(rows, columns),
        points=np.array([[np.nan, np.nan] if point is None else point for point in row["points"]], np.float64),
        angles=None if row["angles"] is None else tuple(row["angles"]),
    )
