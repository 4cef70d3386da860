"""The checkpoint of a run as the subject of an evaluation: asked through the very module that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.tasks import Task
from training.classes import POSITIVE, classes_of
from training.explain import Method, correlation, explain
from training.run import RunDirectory
from training.served import ServedNetwork
from training.subjects import Answers, Images


class CheckpointSubject:
    """The fitted network of a run, on the CPU.

    Args:
        path: run directory, or one of its ``.ckpt`` files.
        method: by which samples are explained, see `training.explain.Method`; None takes the map in the graph.
        layer: module to explain; None takes the last convolutional map.
        threads: of the arithmetic; None takes every core.

    Raises:
        ConfigurationError: there is no such run, it has no weights, or the method is unknown.
    """

    def __init__(
        self, path: Path, *, method: str | None = None, layer: str | None = None, threads: int | None = None
    ) -> None:
        if not path.exists():
            raise ConfigurationError(f"{path}: no such run directory or checkpoint")
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = RunDirectory(path)
        self._settings = self._run.read_settings()
        fitted = self._run.load_network()
        self._served = ServedNetwork(fitted.entry, fitted.network, fitted.temperature, POSITIVE).eval()
        self._method, self._layer = _chosen(method, layer), layer
        self.name = self._run.path.resolve().name + (f" ({path.stem})" if path.suffix == ".ckpt" else "")
        self.task: Task = self._settings.task
        self.labels = classes_of(self.task)
        self.threshold = fitted.threshold
        self.input_spec = fitted.input_spec
        self.method = "Grad-CAM (in the graph)" if self._method is None else str(self._method)
        if layer is not None:
            self.method += f" at {layer}"

    def describe(self) -> dict[str, Any]:
        """Give the network and how it was fitted."""
        log = self._run.read_log()
        return {
            "subject": self.name,
            "kind": "checkpoint",
            "task": str(self.task),
            "network": self._settings.network,
            "pretrained": self._settings.pretrained,
            "epochs": max((int(line["epoch"]) for line in log), default=None),
            "training_data_digest": self._run.read_json("data.json")["digest"],
        }

    def answer(self, images: Images) -> Answers:
        """Answer one batch as the exported graph will."""
        with torch.inference_mode():
            probability, cam = self._served(torch.from_numpy(np.ascontiguousarray(images)))
        return Answers(probability[:, POSITIVE].numpy(), cam.numpy())

    def explain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the map in the graph, or that of the chosen method.

        Raises:
            ConfigurationError: method and layer do not fit the network.
        """
        if self._method is not None:
            return explain(self._served, image, self._method, self._layer, POSITIVE)
        cam: NDArray[np.float32] = self.answer(image[None, None]).cam[0]
        return cam

    def check_map(self, image: NDArray[np.float32]) -> float | None:
        """Compare the map in the graph with the grad-cam package's autograd result at the same place."""
        cam = self.answer(image[None, None]).cam[0]
        reference = explain(self._served, image, Method.GRAD_CAM, None, POSITIVE)
        return correlation(cam, reference) if cam.any() or reference.any() else None


def _chosen(method: str | None, layer: str | None) -> Method | None:
    if method is None:
        return Method.GRAD_CAM if layer is not None else None
    try:
        return Method(method)
    except ValueError:
        raise ConfigurationError(f"--cam-method {method}: unknown; known are {', '.join(Method)}") from None
