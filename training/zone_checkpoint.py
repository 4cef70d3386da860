"""The checkpoint of a run of task csi as the subject of an evaluation: asked through the module that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ConfigurationError
from training.run import RunDirectory
from training.zone_fitted import load_fitted_zones
from training.zone_run import read_zone_settings
from training.zone_subjects import ZoneOutputs


class CheckpointZoneSubject:
    """The fitted network of a run, on the CPU.

    Args:
        path: run directory, or one of its ``.ckpt`` files.
        threads: of the arithmetic; None takes every core.

    Raises:
        ConfigurationError: there is no such run of task csi, or it has no weights.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        if not path.exists():
            raise ConfigurationError(f"{path}: no such run directory or checkpoint")
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = RunDirectory(path)
        self._settings = read_zone_settings(self._run)
        fitted = load_fitted_zones(path)
        self._served = fitted.served
        self.name = self._run.path.resolve().name + (f" ({path.stem})" if path.suffix == ".ckpt" else "")
        self.input_spec = fitted.input_spec

    def describe(self) -> dict[str, Any]:
        """Give the network and how it was fitted."""
        return {
            "subject": self.name,
            "kind": "checkpoint",
            "task": str(self._settings.task),
            "network": self._settings.backbone,
            "zones": self._settings.zones,
            "pretrained": self._settings.pretrained,
            "epochs": max((int(line["epoch"]) for line in self._run.read_log()), default=None),
            "training_data_digest": self._run.read_json("data.json")["digest"],
        }

    def answer(self, images: NDArray[np.float32]) -> ZoneOutputs:
        """Answer one batch ``(N, 1, H, W)`` as the exported graph will."""
        with torch.inference_mode():
            probability, cam = self._served(torch.from_numpy(np.ascontiguousarray(images)))
        return ZoneOutputs(probability.numpy(), cam.numpy())
