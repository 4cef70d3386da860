"""What can be evaluated on landmarks: the engine of a version of task `landmarks`, as it serves.

The checkpoint of a run is in `training.landmark_checkpoint`. Both take what the worker would feed and give every
landmark of their schema in pixels of the input, so that everything after them is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from models.spine.schemas import LandmarkSchema, schema_of_labels
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from training.subjects import ACTIVE, Images, describe_version


class LandmarkOutputs(NamedTuple):
    """Of one batch.

    Attributes:
        landmarks: ``(N, K, 2) float32``, x and y in pixels of the input.
        confidence: ``(N, K) float32 in [0, 1]``.
        spread: ``(N, K) float32``, standard deviation of a landmark's place in pixels of the input.
    """

    landmarks: NDArray[np.float32]
    confidence: NDArray[np.float32]
    spread: NDArray[np.float32]


class LandmarkSubject(Protocol):
    """Something that finds the landmarks of radiographs."""

    @property
    def name(self) -> str:
        """Heads pictures and tables, e.g. ``landmarks 1.0.0``."""
        ...

    @property
    def schema(self) -> LandmarkSchema:
        """Of its landmarks."""
        ...

    @property
    def input_spec(self) -> InputSpec:
        """What it is fed."""
        ...

    @property
    def tilt_scatter(self) -> float | None:
        """Degrees, with which Cobb angles are read; None measures them on the landmarks as they lie."""
        ...

    def describe(self) -> dict[str, Any]:
        """Say which network it is and how it came about: a JSON object without paths and times."""
        ...

    def answer(self, images: Images) -> LandmarkOutputs:
        """Answer one batch."""
        ...


class EngineLandmarkSubject:
    """A version of the store, run by the engine that serves it.

    Args:
        version: checked, of task `landmarks`.
        threads: of the arithmetic; None takes every physical core.

    Raises:
        ConfigurationError: the version is of another task, its labels are no schema, it answers otherwise, or it
            cannot be run.
    """

    def __init__(self, version: ModelVersion, *, threads: int | None = None) -> None:
        manifest = version.manifest
        if manifest.task is not Task.LANDMARKS:
            task = manifest.task
            raise ConfigurationError(f"{version.directory}: is of task {task}; landmarks are found by task landmarks")
        schema = schema_of_labels(manifest.labels)
        if schema is None:
            raise ConfigurationError(f"{version.directory}: its labels are no schema of landmarks")
        self._version = version
        self._engine = load_engine(version, threads=threads)
        self.name = f"{manifest.task} {manifest.version}"
        self.schema = schema
        self.input_spec = manifest.input_spec
        self.tilt_scatter = manifest.tilt_scatter

    @classmethod
    def open(cls, store: Path, version: str, *, threads: int | None = None) -> EngineLandmarkSubject:
        """Open a version by its name, or the active one.

        Raises:
            ConfigurationError: there is none, or it cannot be run.
        """
        return cls(ModelStore(store).open(Task.LANDMARKS, None if version == ACTIVE else version), threads=threads)

    def describe(self) -> dict[str, Any]:
        """Give version, network, engine, schema, scatter and training facts of the manifest and the report."""
        return {
            **describe_version(self._version, self._engine.info),
            "schema": self.schema.name,
            "tilt_scatter": self.tilt_scatter,
        }

    def answer(self, images: Images) -> LandmarkOutputs:
        """Run the engine.

        Raises:
            Transient: the provider failed.
        """
        outputs = self._engine.run(images)
        return LandmarkOutputs(outputs["landmarks"], outputs["confidence"], outputs["spread"])
