"""What the outputs of an engine must look like, whichever provider gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from models.engines.engine import Outputs
from models.pixels.spec import Framing
from models.spine.schemas import schema_of_labels
from models.store.manifest import Manifest
from models.store.store import StoreError
from models.tasks import Task
from models.zones import ZONES

_ANSWERS_PER_IMAGE: Final[dict[Task, tuple[int, ...]]] = {Task.CSI: (len(ZONES),)}
"""Axes of ``probability`` between the images and the classes, where a task has any."""
_OF_A_LANDMARK: Final[dict[str, tuple[int, ...]]] = {"landmarks": (2,), "confidence": (), "spread": ()}
"""The outputs of task `landmarks`, and their axes behind those of images and landmarks."""


def shapes_of_answers(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Axes behind that of the images by output, of those whose axes the manifest says."""
    labels = len(manifest.labels)
    if manifest.task is Task.LANDMARKS:
        return {name: (labels, *axes) for name, axes in _OF_A_LANDMARK.items()}
    return {"probability": (*_ANSWERS_PER_IMAGE.get(manifest.task, ()), labels)}


def check_landmarks(manifest: Manifest, path: Path) -> None:
    """See that landmarks can be read: named ones, which lie somewhere in the whole image; other tasks pass.

    Raises:
        StoreError: they cannot; it names `path`.
    """
    if manifest.task is not Task.LANDMARKS:
        return
    if schema_of_labels(manifest.labels) is None:
        raise StoreError(f"{path}: the labels of its manifest are no schema of landmarks")
    if manifest.input_spec.framing is not Framing.WHOLE:
        raise StoreError(f"{path}: landmarks are looked for in the whole image")
    missing = set(_OF_A_LANDMARK) - set(manifest.output_names)
    if missing:
        raise StoreError(f"{path}: its manifest names no output {', '.join(sorted(missing))}")


def check_first_answer(manifest: Manifest, path: Path, outputs: Outputs) -> None:
    """See that the answers to one image have the axes that the manifest says, and are numbers.

    Raises:
        StoreError: they do not; it names `path`.
    """
    for name, expected in shapes_of_answers(manifest).items():
        if name in outputs and outputs[name].shape[1:] != expected:
            shape = ", ".join(map(str, expected))
            raise StoreError(f"{path}: output {name} must be (N, {shape})")
    if any(len(array) != 1 or not np.isfinite(array).all() for array in outputs.values()):
        raise StoreError(f"{path}: does not answer one black image with one finite answer")
