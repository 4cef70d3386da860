"""What the worker needs of any engine, whichever provider runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.store.manifest import Manifest

Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Identity of a loaded engine, for records, metrics and DICOM outputs.

    Attributes:
        provider: ``onnxruntime``, ``tensorrt`` or ``tensorrt_rtx``.
        device: where it runs, e.g. ``cpu``.
        file_sha256: hash of the file that runs, 64 hex digits.
    """

    provider: str
    provider_version: str
    device: str
    precision: str
    file_sha256: str


class Engine(Protocol):
    """A loaded network of one model version. Not thread-safe: one caller at a time."""

    @property
    def manifest(self) -> Manifest:
        """The model version that this engine runs."""
        ...

    @property
    def info(self) -> EngineInfo:
        """Identity of the engine."""
        ...

    def run(self, image: NDArray[np.float32]) -> Outputs:
        """Infer one batch.

        Args:
            image: ``(N, 1, H, W) float32 in [0, 1]``, H and W as in ``manifest.input_spec``; N at least 1.

        Returns:
            Arrays by output name, first axis N, as the manifest describes them.

        Raises:
            Transient: the provider failed (out of memory, device lost).
        """
        ...

    def close(self) -> None:
        """Give back memory; the engine cannot run afterwards."""
        ...
