"""The providers `tensorrt` and `tensorrt_rtx`: run a plan that was built for this GPU, without torch.

A batch is padded to its bucket (1, 2, 4, ... images) and goes by one copy in and one copy out. What a bucket queues is
recorded in a CUDA graph after its first use, and launched as a whole from then on.

A plan that was built by another release of TensorRT or for another GPU is refused before it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import prod
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.engines.answers import check_first_answer, check_landmarks
from models.engines.built import FOLDER, EngineKey
from models.engines.engine import EngineInfo, Outputs
from models.engines.tensorrt_binding import Binding, BindingError, LoadedPlan, TensorInfo, is_for
from models.errors import Reason, Transient
from models.store.manifest import Manifest
from models.store.store import ModelVersion, StoreError

INPUT_NAME: Final = "image"

_ALIGNMENT: Final = 256
"""Bytes, of every tensor in device memory."""
_ITEM: Final = np.dtype(np.float32).itemsize

_Resource = TypeVar("_Resource")


@dataclass(frozen=True, slots=True)
class _Output:
    """An output of one bucket: its first byte, counted from the beginning of all of them, and its axes."""

    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the outputs of one bucket lie, one behind the other, and their bytes together."""

    outputs: dict[str, _Output]
    nbytes: int


class TensorRTEngine:
    """One model version as a TensorRT plan on one GPU. Not thread-safe: one caller at a time, in any thread.

    Args:
        version: a checked version of the store.
        key: of the plan.
        plan: what was built.
        binding: a new one; the engine closes it.

    Raises:
        StoreError: the plan cannot be loaded here, or is not what the manifest says.
    """

    def __init__(self, version: ModelVersion, key: EngineKey, plan: bytes, binding: Binding) -> None:
        self._manifest = version.manifest
        self._path = version.directory / FOLDER / key.file_name
        self._binding = binding
        self._info = EngineInfo(
            provider=key.provider,
            provider_version=key.provider_version,
            device=binding.device,
            precision=key.precision,
            file_sha256=hashlib.sha256(plan).hexdigest(),
        )
        self._graphs: dict[int, int | None] = {}
        self._resources: ExitStack | None = ExitStack()
        self._resources.callback(binding.close)
        try:
            self._check_key(key)
            loaded = self._loaded(plan)
            self._check_interface(loaded)
            axes = {tensor.name: tensor.shape[1:] for tensor in loaded.tensors if not tensor.is_input}
            self._layouts = {bucket: _layout(axes, bucket) for bucket in _buckets(loaded.batches[0][2])}
            self._allocate(loaded.workspace_bytes)
            self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """The model version that this engine runs."""
        return self._manifest

    @property
    def info(self) -> EngineInfo:
        """Identity of the engine."""
        return self._info

    @property
    def recorded(self) -> tuple[int, ...]:
        """The buckets that run as a CUDA graph: all of them, unless the plan cannot be recorded."""
        return tuple(bucket for bucket, graph in self._graphs.items() if graph is not None)

    def run(self, image: NDArray[np.float32]) -> Outputs:
        """Infer one batch, see `models.engines.engine.Engine.run`.

        Raises:
            ValueError: `image` has another shape or type than the manifest says; a fault of the caller.
            Transient: CUDA or TensorRT failed, or the engine is closed.
        """
        expected = self._image_shape
        if image.dtype != np.float32 or image.ndim != 4 or image.shape[1:] != expected or not len(image):
            raise ValueError(f"image must be (N, {', '.join(map(str, expected))}) float32 with N at least 1")
        if self._resources is None:
            raise Transient(Reason.ENGINE_UNAVAILABLE, "the engine is closed")
        largest = max(self._layouts)
        try:
            self._binding.activate()
            parts = [self._run_bucket(image[first : first + largest]) for first in range(0, len(image), largest)]
        except BindingError as error:
            raise Transient(Reason.ENGINE_UNAVAILABLE, f"TensorRT failed on {len(image)} images: {error}") from error
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Give back memory, of host and GPU; closing twice is no error."""
        resources, self._resources = self._resources, None
        if resources is None:
            return
        # What cannot be given back, after the GPU failed, must not keep the rest.
        with suppress(BindingError):
            self._binding.activate()
            self._binding.synchronize()
        with suppress(BindingError):
            resources.close()

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        spec = self._manifest.input_spec
        return 1, spec.height, spec.width

    def _check_key(self, key: EngineKey) -> None:
        binding = self._binding
        if key.provider_version != binding.provider_version or not is_for(key.device, binding.capability):
            raise StoreError(
                f"{self._path}: built by {key.provider} {key.provider_version} for {key.device}; here are "
                f"{binding.provider_version} and {binding.capability}"
            )

    def _loaded(self, plan: bytes) -> LoadedPlan:
        try:
            self._binding.activate()
            return self._binding.load(plan)
        except BindingError as error:
            raise StoreError(f"{self._path}: cannot be loaded: {error}") from error

    def _check_interface(self, loaded: LoadedPlan) -> None:
        """See that the plan has the image as its input, the outputs of the manifest, and one profile."""
        path, shape = self._path, ", ".join(map(str, self._image_shape))
        if [tensor for tensor in loaded.tensors if tensor.is_input] != [
            TensorInfo(INPUT_NAME, True, "float32", (-1, *self._image_shape))
        ]:
            raise StoreError(f"{path}: its one input must be {INPUT_NAME} (N, {shape}) float32")
        outputs = [tensor for tensor in loaded.tensors if not tensor.is_input]
        missing = set(self._manifest.output_names) - {tensor.name for tensor in outputs if tensor.dtype == "float32"}
        if missing:
            raise StoreError(f"{path}: no float32 output {', '.join(sorted(missing))}")
        unclear = [
            tensor.name for tensor in outputs if tensor.dtype != "float32" or min(tensor.shape[1:], default=1) < 1
        ]
        if unclear:
            raise StoreError(f"{path}: not float32 of known axes: output {', '.join(unclear)}")
        if len(loaded.batches) != 1 or loaded.batches[0][0] != 1:
            raise StoreError(f"{path}: must have one profile, from a batch of one image")
        check_landmarks(self._manifest, path)

    def _allocate(self, workspace_bytes: int) -> None:
        """Get the memory of the largest bucket; smaller ones use the beginning of it."""
        largest, binding = max(self._layouts), self._binding
        output_bytes = self._layouts[largest].nbytes
        image_bytes = largest * prod(self._image_shape) * _ITEM
        try:
            self._images = self._owned(binding.malloc_pinned(image_bytes), binding.free_pinned)
            self._answers = self._owned(binding.malloc_pinned(output_bytes), binding.free_pinned)
            self._image_memory = self._owned(binding.malloc_device(image_bytes), binding.free_device)
            self._output_memory = self._owned(binding.malloc_device(output_bytes), binding.free_device)
            if workspace_bytes:
                binding.use_workspace(self._owned(binding.malloc_device(workspace_bytes), binding.free_device))
        except BindingError as error:
            raise StoreError(f"{self._path}: no memory for batches of {largest} images: {error}") from error

    def _owned(self, resource: _Resource, free: Callable[[_Resource], None]) -> _Resource:
        if self._resources is not None:
            self._resources.callback(free, resource)
        return resource

    def _warm_up(self) -> None:
        """Use every bucket once, so that no batch pays for kernels and graphs, and see that the answers fit."""
        for bucket in self._layouts:
            try:
                outputs = self.run(np.zeros((bucket, *self._image_shape), np.float32))
            except Transient as error:
                raise StoreError(f"{self._path}: loads, but does not run: {error.detail}") from error
            check_first_answer(self._manifest, self._path, {name: array[:1] for name, array in outputs.items()})

    def _run_bucket(self, image: NDArray[np.float32]) -> Outputs:
        """Run at most the largest bucket of images, and cut the padding off the answers."""
        count, binding = len(image), self._binding
        bucket = next(bucket for bucket in self._layouts if bucket >= count)
        images = self._images.array.view(np.float32).reshape(-1, *self._image_shape)
        images[:count] = image
        images[count:bucket] = 0.0
        graph = self._graphs.get(bucket)
        if graph is not None:
            binding.launch(graph)
        else:
            self._bind(bucket)
            self._queue(bucket)
        binding.synchronize()
        outputs = self._read(count, bucket)
        if bucket not in self._graphs:
            self._graphs[bucket] = self._record(bucket)
        return outputs

    def _bind(self, bucket: int) -> None:
        places = {name: self._output_memory + output.offset for name, output in self._layouts[bucket].outputs.items()}
        self._binding.bind((bucket, *self._image_shape), {INPUT_NAME: self._image_memory, **places})

    def _queue(self, bucket: int) -> None:
        binding = self._binding
        binding.copy_in(self._image_memory, self._images, bucket * prod(self._image_shape) * _ITEM)
        binding.enqueue()
        binding.copy_out(self._answers, self._output_memory, self._layouts[bucket].nbytes)

    def _record(self, bucket: int) -> int | None:
        """Record what a bucket queues, which is bound and has run; None where that cannot be done."""
        binding = self._binding
        if not binding.can_capture():
            return None
        try:
            binding.begin_capture()
            try:
                self._queue(bucket)
            finally:
                graph = binding.end_capture()
        except BindingError:
            return None  # the bucket works without, only slower
        return self._owned(graph, binding.free_graph)

    def _read(self, count: int, bucket: int) -> Outputs:
        """Copy the answers out of the pinned memory, which the next batch overwrites."""
        outputs = {}
        for name, output in self._layouts[bucket].outputs.items():
            if name in self._manifest.output_names:
                size = prod(output.shape) * _ITEM
                whole = self._answers.array[output.offset : output.offset + size].view(np.float32)
                outputs[name] = whole.reshape(output.shape)[:count].copy()
        return outputs


def _layout(axes: dict[str, tuple[int, ...]], bucket: int) -> _Layout:
    end, outputs = 0, {}
    for name, its in axes.items():
        outputs[name] = _Output(end, (bucket, *its))
        end += -(-bucket * prod(its) * _ITEM // _ALIGNMENT) * _ALIGNMENT
    return _Layout(outputs, end)


def _buckets(largest: int) -> Iterator[int]:
    """Give powers of two below the largest batch, and that."""
    bucket = 1
    while bucket < largest:
        yield bucket
        bucket *= 2
    yield largest
