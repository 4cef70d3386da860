"""What a run of task csi writes beside what every run does, see `training.run`.

::

    data.json                     digest and counts of the data, and every image of both sides with its readers' grades
    calibration.json              temperature and shift; none where nobody was held out
    metrics_<split>.json          measures against the first reader, calibrated; of `validation`, or of `train` where
                                  nobody was held out
    predictions_<split>.csv       file, person, the first reader's grades, the five probabilities of every zone before
                                  calibration
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError, Unprocessable
from models.zones import CLASS_NAMES, ZONES, Congestion
from training.datasets.reading import pixels_sha256
from training.datasets.zone_images import ZoneImage, ZoneImages
from training.datasets.zone_splits import ZoneSplit
from training.graded_images import grades_of
from training.run import RunDirectory
from training.zone_calibration import UNCALIBRATED, ZoneCalibration
from training.zone_settings import ZoneTrainSettings

VALIDATION: Final = "validation"
TRAIN: Final = "train"
SIDES: Final = (TRAIN, VALIDATION)
CALIBRATION_NAME: Final = "calibration.json"

_PROBABILITIES: Final = tuple(f"{zone}:{name}" for zone in ZONES for name in CLASS_NAMES)
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ZonePredictions:
    """Answers to the images of one split, one row each.

    Attributes:
        files: names within the data.
        persons: of the images.
        truth: ``(N, 6)``, the first reader's grades.
        probability: ``(N, 6, 5)``.
    """

    files: tuple[str, ...]
    persons: tuple[str, ...]
    truth: NDArray[np.int64]
    probability: NDArray[np.float64]


def read_zone_settings(run: RunDirectory) -> ZoneTrainSettings:
    """Read the settings of a run of task csi.

    Raises:
        ConfigurationError: this is no such run.
    """
    return run.read_settings_as(ZoneTrainSettings)


def read_zone_calibration(run: RunDirectory) -> ZoneCalibration:
    """Read the calibration of a run or of a cross-validation; none where there is no file."""
    if not (run.path / CALIBRATION_NAME).is_file():
        return UNCALIBRATED
    return ZoneCalibration(**run.read_json(CALIBRATION_NAME))


def write_zone_data(run: RunDirectory, images: ZoneImages, split: ZoneSplit, how: dict[str, Any]) -> None:
    """Write which data was used, and how it was split."""
    sides = {TRAIN: split.train, VALIDATION: split.validation}
    document = {
        "labels": list(CLASS_NAMES),
        "format": images.format,
        "digest": images.digest,
        "unreadable": [unreadable.path.name for unreadable in images.unreadable],
        "excluded": list(images.excluded),
        "split": how,
        "counts": {side: zone_counts(chosen) for side, chosen in sides.items()},
        "images": {side: [_as_row(image) for image in chosen] for side, chosen in sides.items()},
    }
    run.write_json("data.json", document)


def zone_counts(images: Sequence[ZoneImage]) -> dict[str, int]:
    """Count images, persons, readers of the first image, and zones by the first reader's class."""
    truth = grades_of(images, 0)
    return {
        "images": len(images),
        "persons": len({image.person for image in images}),
        "readers": max((len(image.readers) for image in images), default=0),
        **{f"zones {name}": int((truth == grade).sum()) for name, grade in zip(CLASS_NAMES, Congestion, strict=True)},
    }


def read_split(run: RunDirectory, data_dir: Path) -> ZoneSplit:
    """Find the images of both sides again, as they were when the run read them.

    Raises:
        ConfigurationError: one is missing or has other pixels now.
    """
    return ZoneSplit(*(read_side(run, side, data_dir) for side in SIDES))


def read_side(run: RunDirectory, side: str, data_dir: Path) -> tuple[ZoneImage, ...]:
    """Find the images of one side again; raises as `read_split`."""
    images = []
    for row in run.read_json("data.json")["images"][side]:
        path = data_dir / row["file"]
        try:
            found = pixels_sha256(path)
        except (Unprocessable, OSError) as error:
            raise ConfigurationError(f"{path}: cannot be read; the run was made with it") from error
        if found != row["pixels_sha256"]:
            raise ConfigurationError(f"{path}: has other pixels than when the run was made")
        readers = tuple(tuple(Congestion(grade) for grade in grades) for grades in row["readers"])
        images.append(ZoneImage(path, row["file"], row["person"], found, readers))
    return tuple(images)


def write_zone_predictions(
    run: RunDirectory, split: str, images: Sequence[ZoneImage], probability: NDArray[np.float64]
) -> None:
    """Write the answers ``(N, 6, 5)`` to one split."""
    with (run.path / f"predictions_{split}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "person", *ZONES, *_PROBABILITIES])
        for image, values in zip(images, probability, strict=True):
            figures = [f"{value:.{_DIGITS}f}" for value in values.reshape(-1)]
            writer.writerow([image.source, image.person, *(int(grade) for grade in image.readers[0]), *figures])


def read_zone_predictions(run: RunDirectory, split: str) -> ZonePredictions:
    """Read the answers to one split.

    Raises:
        ConfigurationError: there are none.
    """
    path = run.path / f"predictions_{split}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        truth = [[int(row[zone]) for zone in ZONES] for row in rows]
        values = [[float(row[name]) for name in _PROBABILITIES] for row in rows]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read; is this a finished run of task csi?") from error
    shape = (len(rows), len(ZONES), len(CLASS_NAMES))
    return ZonePredictions(
        tuple(row["file"] for row in rows),
        tuple(row["person"] for row in rows),
        np.array(truth, np.int64).reshape(shape[:2]),
        np.array(values, np.float64).reshape(shape),
    )


def _as_row(image: ZoneImage) -> dict[str, Any]:
    return {
        "file": image.source,
        "person": image.person,
        "pixels_sha256": image.pixels_sha256,
        "readers": [[int(grade) for grade in grades] for grades in image.readers],
    }
