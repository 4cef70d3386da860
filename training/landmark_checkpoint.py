"""The checkpoint of a run of task landmarks as the subject of an evaluation, asked through what is exported of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.tasks import Task
from training.landmark_fitted import load_fitted_landmarks
from training.landmark_subjects import LandmarkOutputs
from training.landmark_uncertainty import monte_carlo
from training.run import RunDirectory

_FEWEST_PASSES: Final = 2


class CheckpointLandmarkSubject:
    """The fitted network of a run, on the CPU.

    Args:
        path: run directory, or one of its ``.ckpt`` files.
        threads: of the arithmetic; None takes every core.
        dropout_passes: answer with the mean of so many passes with dropout on, whose scatter is the spread; at least 2.
            None answers as the exported graph will.

    Raises:
        ConfigurationError: there is no such run of task landmarks, or it has no weights.
    """

    def __init__(self, path: Path, *, threads: int | None = None, dropout_passes: int | None = None) -> None:
        if not path.exists():
            raise ConfigurationError(f"{path}: no such run directory or checkpoint")
        if threads is not None:
            torch.set_num_threads(threads)
        if dropout_passes is not None and dropout_passes < _FEWEST_PASSES:
            raise ConfigurationError(
                f"dropout-passes {dropout_passes}: at least {_FEWEST_PASSES} are needed for a scatter"
            )
        self._passes = dropout_passes
        self.tilt_scatter: float | None = None
        self._run = RunDirectory(path)
        fitted = load_fitted_landmarks(path)
        self._served = fitted.served.eval()
        self.schema = fitted.schema
        self.input_spec = fitted.input_spec
        self.name = self._run.path.resolve().name + (f" ({path.stem})" if path.suffix == ".ckpt" else "")

    def describe(self) -> dict[str, Any]:
        """Give the network and how it was fitted."""
        config = self._run.read_json("config.json")
        return {
            "subject": self.name,
            "kind": "checkpoint",
            "task": str(Task.LANDMARKS),
            "network": config.get("network"),
            "schema": self.schema.name,
            "pretrained": config.get("pretrained"),
            "epochs": max((int(line["epoch"]) for line in self._run.read_log()), default=None),
            "dropout_passes": self._passes,
            "training_data_digest": self._run.read_json("data.json").get("digest"),
        }

    def answer(self, images: NDArray[np.float32]) -> LandmarkOutputs:
        """Answer one batch ``(N, 1, H, W)``."""
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        with torch.inference_mode():
            landmarks, confidence, spread = self._served(tensor)
        if self._passes is not None:
            landmarks, deviation = monte_carlo(self._served, tensor, self._passes)
            spread = deviation.square().mean(dim=2).sqrt()
        return LandmarkOutputs(landmarks.numpy(), confidence.numpy(), spread.numpy())
