"""What a TensorRT engine needs of CUDA and of TensorRT: one narrow interface, and names of what plans are built for.

`models.engines.tensorrt_cuda` is the real one, for both modules. Everything above it is control flow, which the tests
try with a stand-in, because it needs no GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import RadstreamError

MODULES: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""The Python modules by provider name, and the extra of radstream that installs each."""

_JOINT: Final = "+"


class BindingError(RadstreamError):
    """CUDA or TensorRT failed. The message names the call and the code, and holds nothing that was computed."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a plan.

    Attributes:
        dtype: as numpy calls it, e.g. ``float32``.
        shape: -1 where an axis is free.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """What a deserialised plan tells of itself.

    Attributes:
        batches: least, typical and largest number of images by profile.
        workspace_bytes: of device memory for what is computed in between, at the largest batch.
    """

    tensors: tuple[TensorInfo, ...]
    batches: tuple[tuple[int, int, int], ...]
    workspace_bytes: int


@dataclass(frozen=True, slots=True)
class Pinned:
    """Host memory that the GPU copies from and to by itself: its address, and the same bytes as ``(n,) uint8``."""

    address: int
    array: NDArray[np.uint8]


class Binding(Protocol):
    """One plan on one GPU with one stream. Every method may raise `BindingError`; work is queued until `synchronize`.

    Attributes:
        provider_version: release of the module.
        capability: of the GPU, e.g. ``sm_90``.
        device: for people, e.g. ``cuda:0 sm_90``.
    """

    provider_version: str
    capability: str
    device: str

    def activate(self) -> None:
        """Make the GPU that of the calling thread; needed first in every thread."""
        ...

    def load(self, plan: bytes) -> LoadedPlan:
        """Deserialise the plan."""
        ...

    def use_workspace(self, address: int) -> None:
        """Give the loaded plan its ``workspace_bytes`` of device memory."""
        ...

    def bind(self, shape: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        """Say the shape of the input, and where in device memory each tensor lies, for `enqueue`."""
        ...

    def enqueue(self) -> None:
        """Queue one inference."""
        ...

    def can_capture(self) -> bool:
        """Whether what is bound can be recorded in a CUDA graph."""
        ...

    def begin_capture(self) -> None:
        """From now on record what this thread queues, instead of running it."""
        ...

    def end_capture(self) -> int:
        """Stop recording; gives a graph."""
        ...

    def launch(self, graph: int) -> None:
        """Queue everything that the graph recorded."""
        ...

    def copy_in(self, device: int, host: Pinned, nbytes: int) -> None:
        """Queue a copy from the beginning of host memory to device memory."""
        ...

    def copy_out(self, host: Pinned, device: int, nbytes: int) -> None:
        """Queue a copy from device memory to the beginning of host memory."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was queued has run."""
        ...

    def malloc_device(self, nbytes: int) -> int:
        """Give the address of new device memory, aligned to 256 bytes."""
        ...

    def malloc_pinned(self, nbytes: int) -> Pinned:
        """Give new pinned host memory."""
        ...

    def free_device(self, address: int) -> None:
        """Give back device memory."""
        ...

    def free_pinned(self, host: Pinned) -> None:
        """Give back pinned memory; its array must not be touched again."""
        ...

    def free_graph(self, graph: int) -> None:
        """Give back a graph."""
        ...

    def close(self) -> None:
        """Give back plan and stream."""
        ...


def device_of(capabilities: Iterable[str]) -> str:
    """Name the GPUs that a plan is for, as an engine's key has it: ``sm_80+sm_86``, in ascending order."""
    return _JOINT.join(sorted(capabilities, key=lambda name: (len(name), name)))


def is_for(device: str, capability: str) -> bool:
    """Whether a plan for `device` (of an engine's key) runs on a GPU of this compute capability."""
    return capability in device.split(_JOINT)
