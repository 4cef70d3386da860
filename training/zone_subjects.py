"""What can be evaluated on zone scores: the engine of a version of task `csi`, as it serves.

The checkpoint of a run is in `training.zone_checkpoint`. Both take what the worker would feed and give, per zone, the
probability of every class and a map, so that everything after them is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from models.zones import CLASS_NAMES, ZONES
from training.subjects import ACTIVE, Images, describe_version


class ZoneOutputs(NamedTuple):
    """Of one batch.

    Attributes:
        probability: ``(N, 6, 5) float32``, zones and classes in their fixed order; sums to 1 over the classes.
        cam: ``(N, 6, h, w) float32 in [0, 1]``, a map per zone over the whole input, zero outside its zone.
    """

    probability: NDArray[np.float32]
    cam: NDArray[np.float32]


class ZoneSubject(Protocol):
    """Something that grades the zones of radiographs."""

    @property
    def name(self) -> str:
        """Heads pictures and tables, e.g. ``csi 1.0.0``."""
        ...

    @property
    def input_spec(self) -> InputSpec:
        """What it is fed."""
        ...

    def describe(self) -> dict[str, Any]:
        """Say which network it is and how it came about: a JSON object without paths and times."""
        ...

    def answer(self, images: Images) -> ZoneOutputs:
        """Answer one batch."""
        ...


class EngineZoneSubject:
    """A version of the store, run by the engine that serves it.

    Args:
        version: checked, of task `csi`.
        threads: of the arithmetic; None takes every physical core.

    Raises:
        ConfigurationError: the version is of another task, grades otherwise, or cannot be run.
    """

    def __init__(self, version: ModelVersion, *, threads: int | None = None) -> None:
        manifest = version.manifest
        if manifest.task is not Task.CSI:
            raise ConfigurationError(f"{version.directory}: is of task {manifest.task}; zones are graded by task csi")
        if manifest.labels != CLASS_NAMES:
            raise ConfigurationError(f"{version.directory}: has not the labels {', '.join(CLASS_NAMES)}")
        self._version = version
        self._engine = load_engine(version, threads=threads)
        self.name = f"{manifest.task} {manifest.version}"
        self.input_spec = manifest.input_spec
        self._check_outputs()

    @classmethod
    def open(cls, store: Path, version: str, *, threads: int | None = None) -> EngineZoneSubject:
        """Open a version by its name, or the active one.

        Raises:
            ConfigurationError: there is none, or it cannot be run.
        """
        return cls(ModelStore(store).open(Task.CSI, None if version == ACTIVE else version), threads=threads)

    def _check_outputs(self) -> None:
        black = np.zeros((1, 1, self.input_spec.height, self.input_spec.width), np.float32)
        outputs = self._engine.run(black)
        probability, cam = outputs.get("probability"), outputs.get("cam")
        grades = probability is not None and probability.shape == (1, len(ZONES), len(CLASS_NAMES))
        explains = cam is not None and cam.ndim == 4 and cam.shape[:2] == (1, len(ZONES))
        if not (grades and explains):
            shapes = f"probability (N, {len(ZONES)}, {len(CLASS_NAMES)}) and cam (N, {len(ZONES)}, h, w)"
            raise ConfigurationError(f"{self._version.directory}: has not the outputs {shapes}")

    def describe(self) -> dict[str, Any]:
        """Give version, network, engine and training facts of the manifest and the report."""
        return describe_version(self._version, self._engine.info)

    def answer(self, images: Images) -> ZoneOutputs:
        """Run the engine.

        Raises:
            Transient: the provider failed.
        """
        outputs = self._engine.run(images)
        return ZoneOutputs(outputs["probability"], outputs["cam"])
