"""The run directory: what one training run leaves behind, and what export reads.

::

    config.json               the settings of the run
    data.json                 digest and counts of the data, and names and pixel hashes of the files of both splits
    log.jsonl                 one line per epoch
    weights.pt                state dict of the best epoch
    calibration.json          temperature, threshold, best epoch
    metrics_<split>.json      measures of the best epoch, calibrated
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models.errors import ConfigurationError, Unprocessable
from training.datasets.class_folders import ClassFolders, LabelledImage, Split, person_of, pixels_sha256
from training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into an answer.

    Attributes:
        temperature: logits are divided by it.
        threshold: positive is ``probability >= threshold``.
        best_epoch: from 1.
    """

    temperature: float
    threshold: float
    best_epoch: int


class RunDirectory:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make the directory.

        Raises:
            ConfigurationError: it stands already and is not empty, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ConfigurationError(f"{path}: not empty; give another --output-dir")
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot make the run directory: {error.strerror}") from error
        return cls(path)

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        """Write one JSON file."""
        (self.path / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one JSON file.

        Raises:
            ConfigurationError: there is none; the directory is not that of a finished run.
        """
        try:
            document = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self.path / name}: cannot be read; is this a finished run?") from error
        if not isinstance(document, dict):
            raise ConfigurationError(f"{self.path / name}: not a JSON object")
        return document

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to the log."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_data(self, folders: ClassFolders, split: Split) -> None:
        """Write which data was used, and how it was split."""
        sides = {"train": split.train, "validation": split.validation}
        document = {
            "labels": list(folders.labels),
            "digest": folders.digest,
            "unreadable": [path.name for path in folders.unreadable],
            "counts": {side: _counts(images, folders.labels) for side, images in sides.items()},
            "files": {side: {_name(image): image.pixels_sha256 for image in images} for side, images in sides.items()},
        }
        self.write_json("data.json", document)

    def read_images(self, side: str, data_dir: Path) -> tuple[LabelledImage, ...]:
        """Find the images of one side of the split again, as they were when the run read them.

        Raises:
            ConfigurationError: one is missing or has other pixels now.
        """
        data = self.read_json("data.json")
        images = []
        for name, digest in data["files"][side].items():
            path = data_dir / name
            try:
                found = pixels_sha256(path)
            except (Unprocessable, OSError) as error:
                raise ConfigurationError(f"{path}: cannot be read; the run was validated on it") from error
            if found != digest:
                raise ConfigurationError(f"{path}: has other pixels than when the run was validated on it")
            images.append(LabelledImage(path, data["labels"].index(path.parent.name), person_of(path.name), digest))
        return tuple(images)

    def read_calibration(self) -> Calibration:
        """Read temperature and threshold."""
        return Calibration(**self.read_json("calibration.json"))

    def read_settings(self) -> TrainSettings:
        """Read the settings of the run.

        Raises:
            ConfigurationError: they are not of this version of radstream.
        """
        try:
            return TrainSettings(**self.read_json("config.json"))
        except ValidationError as error:
            raise ConfigurationError(f"{self.path / 'config.json'}: not the settings of this version") from error

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Write a state dict."""
        import torch

        torch.save(weights, self.path / "weights.pt")

    def read_weights(self) -> dict[str, Tensor]:
        """Read the state dict of the best epoch.

        Raises:
            ConfigurationError: there is none; the run did not finish.
        """
        import torch

        path = self.path / "weights.pt"
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file; is this a finished run?")
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights


def _name(image: LabelledImage) -> str:
    return f"{image.path.parent.name}/{image.path.name}"


def _counts(images: tuple[LabelledImage, ...], labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "images": len(images),
        "persons": len({image.person for image in images}),
        **{label: sum(image.label == index for image in images) for index, label in enumerate(labels)},
    }
