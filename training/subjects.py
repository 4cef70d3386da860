"""What can be evaluated: the engine of a version in the store, as it serves, or the checkpoint of a run.

Both take what the worker would feed and give a probability and a map per image, so that everything after them is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import EngineInfo
from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from training.classes import POSITIVE, classes_of
from training.results import epochs_of

ACTIVE: Final = "active"
"""In place of a version's name: the one that serves."""

Images = NDArray[np.float32]
"""``(N, 1, H, W) float32 in [0, 1]``, 0 is black."""


class Answers(NamedTuple):
    """Of one batch: `probability` ``(N) float32`` of the positive class, `cam` ``(N, h, w) float32 in [0, 1]``."""

    probability: NDArray[np.float32]
    cam: NDArray[np.float32]


class Subject(Protocol):
    """Something that answers radiographs."""

    @property
    def name(self) -> str:
        """Heads pictures and tables, e.g. ``pneumonia 1.0.0``."""
        ...

    @property
    def task(self) -> Task:
        """What it answers."""
        ...

    @property
    def labels(self) -> tuple[str, str]:
        """Class names, the positive one second."""
        ...

    @property
    def threshold(self) -> float:
        """Positive is ``probability >= threshold``."""
        ...

    @property
    def input_spec(self) -> InputSpec:
        """What it is fed."""
        ...

    @property
    def method(self) -> str:
        """By which `explain` finds its maps, in words."""
        ...

    def describe(self) -> dict[str, Any]:
        """Say which network it is and how it came about: a JSON object without paths and times."""
        ...

    def answer(self, images: Images) -> Answers:
        """Answer one batch."""
        ...

    def explain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the map ``(h, w) float32 in [0, 1]`` of one image ``(H, W) float32 in [0, 1]``."""
        ...

    def check_map(self, image: NDArray[np.float32]) -> float | None:
        """Give the correlation of the exported map with the grad-cam package's on one image ``(H, W)``.

        None where nothing can be compared: an engine has no gradients, and a map without evidence has no correlation.
        """
        ...


class EngineSubject:
    """A version of the store, run by the engine that serves it.

    Args:
        version: checked, of a classification task.
        threads: of the arithmetic; None takes every physical core.

    Raises:
        ConfigurationError: the version is not of a classification task, or cannot be run.
    """

    def __init__(self, version: ModelVersion, *, threads: int | None = None) -> None:
        manifest = version.manifest
        expected = classes_of(manifest.task)
        if manifest.labels != expected or expected[POSITIVE] not in manifest.thresholds:
            raise ConfigurationError(f"{version.directory}: has not the labels {', '.join(expected)} and a threshold")
        self._version = version
        self._engine = load_engine(version, threads=threads)
        self.task = manifest.task
        self.name = f"{manifest.task} {manifest.version}"
        self.labels = expected
        self.threshold = manifest.thresholds[expected[POSITIVE]]
        self.input_spec = manifest.input_spec
        self.method = "Grad-CAM (in the graph)"

    @classmethod
    def open(cls, store: Path, task: Task, version: str, *, threads: int | None = None) -> EngineSubject:
        """Open a version by its name, or the active one.

        Raises:
            ConfigurationError: there is none, or it cannot be run.
        """
        classes_of(task)
        return cls(ModelStore(store).open(task, None if version == ACTIVE else version), threads=threads)

    def describe(self) -> dict[str, Any]:
        """Give version, network, engine and training facts of the manifest and the report."""
        return describe_version(self._version, self._engine.info)

    def answer(self, images: Images) -> Answers:
        """Run the engine.

        Raises:
            Transient: the provider failed.
        """
        outputs = self._engine.run(images)
        return Answers(outputs["probability"][:, POSITIVE], outputs["cam"])

    def explain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the engine's own map."""
        cam: NDArray[np.float32] = self.answer(image[None, None]).cam[0]
        return cam

    def check_map(self, image: NDArray[np.float32]) -> float | None:
        """Give None: an engine has no gradients to compare with."""
        return None


def describe_version(version: ModelVersion, engine: EngineInfo) -> dict[str, Any]:
    """Say which version it is and what runs it: a JSON object without paths and times."""
    manifest = version.manifest
    return {
        "subject": f"{manifest.task} {manifest.version}",
        "kind": "engine",
        "task": str(manifest.task),
        "version": manifest.version,
        "network": manifest.network,
        "pretrained": bool(manifest.training_data.get("pretrained")),
        "epochs": epochs_of(version.directory / "report"),
        "engine": {"provider": engine.provider, "precision": engine.precision, "file_sha256": engine.file_sha256},
        "training_data_digest": manifest.training_data.get("digest"),
    }
