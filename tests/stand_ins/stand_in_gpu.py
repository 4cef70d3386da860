"""A GPU that is none, for the control flow above `Binding`: which calls are made, in which order, on which memory.

It computes by numpy, and only when the stream is waited for, as a GPU may: who reads before that reads old bytes. It
says nothing about CUDA or TensorRT themselves; those need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from models.engines.tensorrt_binding import BindingError, LoadedPlan, Pinned, TensorInfo

RELEASE = "11.4.0"
CAPABILITY = "sm_86"
PLAN = b"plan"
WORKSPACE_BYTES = 4096

IMAGE = TensorInfo("image", True, "float32", (-1, 1, 8, 8))
PROBABILITY = TensorInfo("probability", False, "float32", (-1, 2))
CAM = TensorInfo("cam", False, "float32", (-1, 2, 2))
LOADED = LoadedPlan((IMAGE, PROBABILITY, CAM), ((1, 2, 6),), WORKSPACE_BYTES)


class StandInGpu:
    """A `Binding` whose plan gives ``probability`` (1 - mean, mean) of an image, and ``cam``, its 4 x 4 means.

    Args:
        loaded: what the plan tells of itself.

    Attributes:
        failing: methods that fail, whenever they are called.
        capturable: what `can_capture` says.
        calls: names of the methods in order, without those that allocate and free.
        shapes: that were bound, in order.
        live: what was allocated and not yet freed.
    """

    provider_version = RELEASE
    capability = CAPABILITY
    device = "cuda:0 sm_86"

    def __init__(self, loaded: LoadedPlan = LOADED) -> None:
        self.loaded = loaded
        self.failing: set[str] = set()
        self.capturable = True
        self.calls: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.live: set[int] = set()
        self.closed = 0
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._next = 0x10000
        self._stream: list[Callable[[], None]] = []
        self._recording: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._bound: tuple[tuple[int, ...], dict[str, int]] = ((), {})
        self._workspace = 0

    def activate(self) -> None:
        self._called("activate")

    def load(self, plan: bytes) -> LoadedPlan:
        self._called("load")
        if plan != PLAN:
            raise BindingError("the plan cannot be deserialised")
        return self.loaded

    def use_workspace(self, address: int) -> None:
        self._called("use_workspace")
        assert len(self._memory[address]) >= self.loaded.workspace_bytes
        self._workspace = address

    def bind(self, shape: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        self._called("bind")
        assert self._recording is None
        assert all(address % 256 == 0 for address in addresses.values())
        self._bound = (shape, dict(addresses))
        self.shapes.append(shape)

    def enqueue(self) -> None:
        self._called("enqueue")
        assert self._workspace in self.live
        shape, addresses = self._bound
        self._queue(lambda: self._infer(shape, addresses))

    def can_capture(self) -> bool:
        return self.capturable

    def begin_capture(self) -> None:
        self._called("begin_capture")
        assert self._recording is None
        assert not self._stream, "what is recorded has run once"
        self._recording = []

    def end_capture(self) -> int:
        recorded, self._recording = self._recording, None
        self._called("end_capture")
        assert recorded is not None
        graph = self._new()
        self._graphs[graph] = recorded
        return graph

    def launch(self, graph: int) -> None:
        self._called("launch")
        assert graph in self.live
        for work in self._graphs[graph]:
            self._queue(work)

    def copy_in(self, device: int, host: Pinned, nbytes: int) -> None:
        self._called("copy_in")
        self._queue(lambda: self._copy(device, host.address, nbytes))

    def copy_out(self, host: Pinned, device: int, nbytes: int) -> None:
        self._called("copy_out")
        self._queue(lambda: self._copy(host.address, device, nbytes))

    def synchronize(self) -> None:
        self._called("synchronize")
        assert self._recording is None
        queued, self._stream = self._stream, []
        for work in queued:
            work()

    def malloc_device(self, nbytes: int) -> int:
        self._failing("malloc_device")
        address = self._new()
        self._memory[address] = np.full(nbytes, 0xFF, np.uint8)  # read as float32, not a number
        self._next += -(-nbytes // 256) * 256
        return address

    def malloc_pinned(self, nbytes: int) -> Pinned:
        address = self.malloc_device(nbytes)
        return Pinned(address, self._memory[address])

    def free_device(self, address: int) -> None:
        self.live.remove(address)  # raises at the second time
        self._failing("free_device")

    def free_pinned(self, host: Pinned) -> None:
        self.live.remove(host.address)

    def free_graph(self, graph: int) -> None:
        self.live.remove(graph)

    def close(self) -> None:
        self.closed += 1

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self._failing(name)

    def _failing(self, name: str) -> None:
        if name in self.failing:
            raise BindingError(f"{name}: cudaErrorOfStandIn")

    def _queue(self, work: Callable[[], None]) -> None:
        (self._stream if self._recording is None else self._recording).append(work)

    def _new(self) -> int:
        self._next += 256
        self.live.add(self._next)
        return self._next

    def _at(self, address: int) -> NDArray[np.uint8]:
        base = max(start for start in self._memory if start <= address)
        assert base in self.live
        return self._memory[base][address - base :]

    def _copy(self, to: int, source: int, nbytes: int) -> None:
        self._at(to)[:nbytes] = self._at(source)[:nbytes]

    def _infer(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        count = shape[0]
        image = self._at(addresses["image"])[: 4 * count * 64].view(np.float32).reshape(shape)
        mean = image.mean(axis=(1, 2, 3))
        answers = {
            "probability": np.stack([1 - mean, mean], axis=1),
            "cam": image.reshape(count, 2, 4, 2, 4).mean(axis=(2, 4)),
        }
        for name, address in addresses.items():
            if name in answers:
                content = answers[name].astype(np.float32).tobytes()
                self._at(address)[: len(content)] = np.frombuffer(content, np.uint8)
