"""The run directory: what one training run leaves behind, and what resuming, evaluation and export read.

::

    config.json                   the settings of the run with every choice made, and what it ran on
    data.json                     digest and counts of the data, and every image of both sides of the split
    log.jsonl                     one line per epoch; none in an average of runs
    tensorboard/                  the same as curves, with pictures
    checkpoints/best.ckpt         best epoch (averaged weights in ``state_dict``), last.ckpt to resume from
    weights.pt                    state dict of the best epoch's network
    calibration.json              temperature, threshold, best epoch
    metrics_<split>.json          measures of the best epoch, calibrated; of `validation` and `validation_shifted`
    predictions_<split>.csv       file, label, person, calibrated probability

Runs of tasks csi and landmarks differ in the last four: see `training.zone_run` and `training.landmark_run`.
"""

from __future__ import annotations

import csv
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from models.errors import ConfigurationError, Unprocessable
from models.identity import VERSION
from models.tasks import Task
from training.classes import classes_of
from training.datasets.labelled import LabelledImage, LabelledImages
from training.datasets.reading import pixels_sha256
from training.datasets.splits import Split
from training.settings import RunSettings, TrainSettings, plan_of

if TYPE_CHECKING:
    from torch import Tensor

    from training.evaluation import Floats
    from training.fitted import Fitted

BEST_CHECKPOINT: Final = "best.ckpt"
LAST_CHECKPOINT: Final = "last.ckpt"
KFOLD_FILE: Final = "metrics_kfold.json"
"""Of a directory of cross-validation, whose runs are ``fold-0`` and so on below it."""
AVERAGE_OF: Final = "average_of"
"""Key of ``config.json`` in an average: a list of ``{"run": path, "checkpoint": name or null, "weight": share}``."""

_BESIDE_SETTINGS: Final = ("environment", AVERAGE_OF)
"""What else stands in ``config.json``."""

_PACKAGES: Final = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "opencv-python-headless", "pydicom")
_NETWORK_PREFIX: Final = "model.network."  # of its names in a checkpoint
_UNCALIBRATED: Final = (1.0, 0.5)

S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into an answer.

    Attributes:
        temperature: logits are divided by it.
        threshold: positive is ``probability >= threshold``.
        best_epoch: from 1; None of an average of runs.
    """

    temperature: float
    threshold: float
    best_epoch: int | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A calibrated answer to one held-out image; `file` is its name within the data."""

    file: str
    label: str
    person: str
    probability: float


class RunDirectory:
    """Reads and writes the files of one run.

    Args:
        path: of the directory, or of a checkpoint in it, whose weights are then the ones that `read_weights` gives.
    """

    def __init__(self, path: Path) -> None:
        self._checkpoint = path if path.suffix == ".ckpt" else None
        self.path = path.absolute().parent.parent if self._checkpoint else path

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make the directory.

        Raises:
            ConfigurationError: it stands already and is not empty, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ConfigurationError(f"{path}: not empty; give another --output-dir, or --resume {path}")
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot make the run directory: {error.strerror}") from error
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Whether the run was measured, which is the last thing that it does."""
        last = ["metrics_validation_shifted.json"]
        if self.task in (Task.CSI, Task.LANDMARKS):
            last = ["metrics_validation.json", "metrics_train.json"]
        return any((self.path / name).is_file() for name in last)

    @property
    def task(self) -> Task:
        """What its network answers.

        Raises:
            ConfigurationError: this is no run directory.
        """
        name = self.read_json("config.json").get("task")
        try:
            return Task(str(name))
        except ValueError as error:
            raise ConfigurationError(f"{self.path / 'config.json'}: task {name} is unknown") from error

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

    def read_log(self) -> list[dict[str, Any]]:
        """Read the log; empty before the first epoch ends."""
        path = self.path / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def shorten_log(self, epochs: int) -> None:
        """Drop what was logged after an epoch: the run goes on from there."""
        lines = [json.dumps(line) + "\n" for line in self.read_log() if line["epoch"] <= epochs]
        (self.path / "log.jsonl").write_text("".join(lines), encoding="utf-8")

    def write_settings(self, settings: RunSettings, **beside: Any) -> None:
        """Write the settings, and on what they are carried out; `beside` are further keys."""
        self.write_json("config.json", {**settings.model_dump(mode="json"), **beside, "environment": environment()})

    def read_settings(self) -> TrainSettings:
        """Read the settings of a run of a two-class task; raises as `read_settings_as`."""
        return self.read_settings_as(TrainSettings)

    def read_settings_as(self, kind: type[S]) -> S:
        """Read the settings of the run.

        Raises:
            ConfigurationError: they are of another kind of task, or not of this version of radstream.
        """
        document = self.read_json("config.json")
        document = {name: value for name, value in document.items() if name not in _BESIDE_SETTINGS}
        try:
            return kind(**document)
        except ValidationError as error:
            raise ConfigurationError(
                f"{self.path / 'config.json'}: not the settings of such a run in this version"
            ) from error

    def write_data(self, images: LabelledImages, split: Split, how: dict[str, Any]) -> None:
        """Write which data was used, and how it was split."""
        sides = {"train": split.train, "validation": split.validation}
        document = {
            "labels": list(images.labels),
            "format": images.format,
            "digest": images.digest,
            "unreadable": [str(unreadable.path.name) for unreadable in images.unreadable],
            "split": how,
            "counts": {side: _counts(chosen, images.labels) for side, chosen in sides.items()},
            "images": {side: [_as_row(image, images.labels) for image in chosen] for side, chosen in sides.items()},
        }
        self.write_json("data.json", document)

    def read_images(self, side: str, data_dir: Path) -> tuple[LabelledImage, ...]:
        """Find the images of one side of the split again, as they were when the run read them.

        Raises:
            ConfigurationError: one is missing or has other pixels now.
        """
        data = self.read_json("data.json")
        images = []
        for row in data["images"][side]:
            path = data_dir / row["file"]
            try:
                found = pixels_sha256(path)
            except (Unprocessable, OSError) as error:
                raise ConfigurationError(f"{path}: cannot be read; the run was made with it") from error
            if found != row["pixels_sha256"]:
                raise ConfigurationError(f"{path}: has other pixels than when the run was made")
            label = data["labels"].index(row["label"])
            images.append(LabelledImage(path, label, row["person"], found, row["file"]))
        return tuple(images)

    def seen_images(self) -> frozenset[str]:
        """Give the pixel hashes of the images that the network was trained on.

        Raises:
            ConfigurationError: this is no run directory.
        """
        return frozenset(row["pixels_sha256"] for row in self.read_json("data.json")["images"]["train"])

    def read_calibration(self) -> Calibration:
        """Read temperature and threshold."""
        return Calibration(**self.read_json("calibration.json"))

    def write_predictions(
        self, name: str, images: Sequence[LabelledImage], labels: tuple[str, str], probability: Floats
    ) -> None:
        """Write the calibrated answers to one split."""
        with (self.path / f"predictions_{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label", "person", "probability"])
            for image, value in zip(images, probability, strict=True):
                writer.writerow([image.source, labels[image.label], image.person, f"{value:.6f}"])

    def read_predictions(self, name: str) -> list[Prediction]:
        """Read the calibrated answers to one split."""
        with (self.path / f"predictions_{name}.csv").open(encoding="utf-8", newline="") as file:
            return [
                Prediction(row["file"], row["label"], row["person"], float(row["probability"]))
                for row in csv.DictReader(file)
            ]

    def write_weights(self, weights: dict[str, Tensor]) -> None:
        """Write the state dict of the network."""
        import torch

        torch.save(weights, self.path / "weights.pt")

    def read_weights(self) -> dict[str, Tensor]:
        """Read the state dict of the network: of the best epoch, or of the checkpoint that was named.

        Raises:
            ConfigurationError: there is none; the run did not finish.
        """
        import torch

        path = self._checkpoint or self.path / "weights.pt"
        if not path.is_file():
            raise ConfigurationError(f"{path}: no such file; is this a finished run?")
        if self._checkpoint:
            return weights_of_checkpoint(read_checkpoint(path))
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights

    def load_network(self) -> Fitted:
        """Build the network of the run, in eval mode on the CPU.

        A checkpoint of an unfinished run comes with temperature 1 and threshold 0.5.

        Raises:
            ConfigurationError: there are no weights, or they are of another network.
        """
        from models.networks.table import network_entry
        from training.fitted import Fitted

        settings = self.read_settings()
        labels = classes_of(settings.task)
        entry = network_entry(settings.network)
        network = entry.build(len(labels), False)
        load_weights(network, self.read_weights(), self.path)
        temperature, threshold = _UNCALIBRATED
        if self._checkpoint is None or (self.path / "calibration.json").is_file():
            calibration = self.read_calibration()
            temperature, threshold = calibration.temperature, calibration.threshold
        plan = plan_of(settings, entry)
        network.eval()
        return Fitted(network, entry, temperature, threshold, labels, plan.input_spec)


def load_weights(network: Any, weights: dict[str, Tensor], origin: Path) -> None:
    """Fill a network with a state dict.

    Raises:
        ConfigurationError: it is of another network.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigurationError(f"{origin}: has the weights of another network") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint; only tensors and plain values are let in, so that no code of its maker runs.

    Raises:
        ConfigurationError: it is none.
    """
    import pickle

    import torch

    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a checkpoint") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ConfigurationError(f"{path}: not a checkpoint of `train`")
    return checkpoint


def weights_of_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Give the network's state dict; with weight averaging a checkpoint's ``state_dict`` is the average."""
    return {
        name.removeprefix(_NETWORK_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(_NETWORK_PREFIX)
    }


def environment() -> dict[str, Any]:
    """Say what a run runs on: versions, and the commit of the source tree where it is one."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"radstream": VERSION, "python": platform.python_version(), "packages": packages, "commit": _commit()}


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None


def _as_row(image: LabelledImage, labels: tuple[str, ...]) -> dict[str, str]:
    return {
        "file": image.source,
        "label": labels[image.label],
        "person": image.person,
        "pixels_sha256": image.pixels_sha256,
    }


def _counts(images: tuple[LabelledImage, ...], labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "images": len(images),
        "persons": len({image.person for image in images}),
        **{label: sum(image.label == index for image in images) for index, label in enumerate(labels)},
    }
