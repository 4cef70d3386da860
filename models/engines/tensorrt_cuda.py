"""TensorRT and CUDA by their Python modules: the `Binding` that runs on a GPU. It holds no logic of its own.

Both modules have the same API; what one of them lacks is asked for by name. Their log is collected, never printed.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np

from models.engines.tensorrt_binding import MODULES, BindingError, LoadedPlan, Pinned, TensorInfo
from models.errors import ConfigurationError

_KEPT_MESSAGES: Final = 20
_NUMPY_NAMES: Final = {"FLOAT": "float32", "HALF": "float16"}


class MessageLog(Protocol):
    """A logger of TensorRT that collects: pairs of severity (``ERROR``) and text."""

    messages: list[tuple[str, str]]


def import_module(provider: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        ConfigurationError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(provider)
    except (ImportError, OSError) as error:
        extra = MODULES[provider]
        raise ConfigurationError(
            f"provider {provider}: its Python module cannot be loaded; pip install 'radstream[{extra}]'"
        ) from error


def message_log(module: Any, *, verbose: bool = False) -> MessageLog:
    """Make a logger for the objects of a module; it must live as long as they do.

    Args:
        verbose: keep everything; otherwise only the last warnings and errors.
    """
    severities = module.ILogger.Severity
    kept = None if verbose else (severities.INTERNAL_ERROR, severities.ERROR, severities.WARNING)

    class Collector(module.ILogger):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if kept is None or severity in kept:
                self.messages.append((severity.name, message))
                if kept is not None:
                    del self.messages[:-_KEPT_MESSAGES]

    collector: MessageLog = Collector()
    return collector


def use_gpu(device_index: int = 0) -> str:
    """Make a GPU that of the calling thread, and give its compute capability, e.g. ``sm_90``.

    Raises:
        ConfigurationError: there is no such GPU, no driver, or cuda-python is not installed.
    """
    cuda = _cuda_runtime()
    try:
        _checked(cuda, "cudaSetDevice", device_index)
        attributes = cuda.cudaDeviceAttr
        major, minor = (
            _checked(cuda, "cudaDeviceGetAttribute", attribute, device_index)
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
    except BindingError as error:
        raise ConfigurationError(f"GPU {device_index}: cannot be used here ({error})") from error
    return f"sm_{major}{minor}"


def _cuda_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise ConfigurationError("cuda-python cannot be loaded; it comes with radstream[tensorrt]") from error


def _checked(cuda: Any, name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and give what it returns behind its code."""
    try:
        code, *returned = getattr(cuda, name)(*arguments)
    except RuntimeError as error:  # the library of the driver is missing altogether
        raise BindingError(f"{name}: cannot be called") from error
    if code != cuda.cudaError_t.cudaSuccess:
        raise BindingError(f"{name}: {code.name}")
    return returned[0] if returned else None


class CudaBinding:
    """See `models.engines.tensorrt_binding.Binding`.

    Args:
        provider: ``tensorrt`` or ``tensorrt_rtx``.
        device_index: which GPU of those that are visible.

    Raises:
        ConfigurationError: module or GPU cannot be used here.
    """

    def __init__(self, provider: str, device_index: int = 0) -> None:
        self._module = import_module(provider)
        self._cuda = _cuda_runtime()
        self._index = device_index
        self._log = message_log(self._module)
        self.provider_version = str(self._module.__version__)
        self.capability = use_gpu(device_index)
        self.device = f"cuda:{device_index} {self.capability}"
        try:
            self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        except BindingError as error:
            raise ConfigurationError(f"GPU {device_index}: cannot be used here ({error})") from error
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None

    def activate(self) -> None:
        """Make the GPU that of the calling thread."""
        self._call("cudaSetDevice", self._index)

    def load(self, plan: bytes) -> LoadedPlan:
        """Deserialise the plan."""
        try:
            self._runtime = self._module.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError) as error:  # how the module says that the library made none
            raise self._failure("no runtime can be made") from error
        if self._engine is None:
            raise self._failure("the plan cannot be deserialised")
        tensors = tuple(self._tensor(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors))
        inputs = [tensor.name for tensor in tensors if tensor.is_input]
        profiles = range(self._engine.num_optimization_profiles)
        batches = [self._engine.get_tensor_profile_shape(name, i) for name in inputs[:1] for i in profiles]
        self._context = self._create_context()
        if self._context is None:
            raise self._failure("no execution context can be made")
        return LoadedPlan(
            tensors,
            tuple((int(least[0]), int(typical[0]), int(most[0])) for least, typical, most in batches),
            int(self._engine.device_memory_size_v2),
        )

    def use_workspace(self, address: int) -> None:
        """Give the loaded plan its device memory."""
        self._context.set_device_memory(address, self._engine.device_memory_size_v2)

    def bind(self, shape: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        """Say the shape of the input and where each tensor lies."""
        for name, address in addresses.items():
            if self._engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT:
                self._demand(self._context.set_input_shape(name, shape), "set_input_shape")
            self._demand(self._context.set_tensor_address(name, address), "set_tensor_address")

    def enqueue(self) -> None:
        """Queue one inference."""
        self._demand(self._context.execute_async_v3(int(self._stream)), "execute_async_v3")

    def can_capture(self) -> bool:
        """Whether what is bound can be recorded; TensorRT that cannot be asked can."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(int(self._stream)))

    def begin_capture(self) -> None:
        """From now on record what this thread queues."""
        # Of this thread alone: another one may be loading an engine, and memory must not be allocated while all record.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> int:
        """Stop recording; gives a graph."""
        recorded = self._call("cudaStreamEndCapture", self._stream)
        try:
            return int(self._call("cudaGraphInstantiate", recorded, 0))
        finally:
            self._call("cudaGraphDestroy", recorded)

    def launch(self, graph: int) -> None:
        """Queue everything that the graph recorded."""
        self._call("cudaGraphLaunch", self._cuda.cudaGraphExec_t(graph), self._stream)

    def copy_in(self, device: int, host: Pinned, nbytes: int) -> None:
        """Queue a copy from host to device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.address, nbytes, kind, self._stream)

    def copy_out(self, host: Pinned, device: int, nbytes: int) -> None:
        """Queue a copy from device to host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.address, device, nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until all that was queued has run."""
        self._call("cudaStreamSynchronize", self._stream)

    def malloc_device(self, nbytes: int) -> int:
        """Give the address of new device memory."""
        return int(self._call("cudaMalloc", nbytes))

    def malloc_pinned(self, nbytes: int) -> Pinned:
        """Give new pinned host memory."""
        address = int(self._call("cudaMallocHost", nbytes))
        return Pinned(address, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)))

    def free_device(self, address: int) -> None:
        """Give back device memory."""
        self._call("cudaFree", address)

    def free_pinned(self, host: Pinned) -> None:
        """Give back pinned memory."""
        self._call("cudaFreeHost", host.address)

    def free_graph(self, graph: int) -> None:
        """Give back a graph."""
        self._call("cudaGraphExecDestroy", self._cuda.cudaGraphExec_t(graph))

    def close(self) -> None:
        """Give back plan and stream."""
        # In this order: a context must not outlive its engine, nor an engine its runtime.
        self._context = None
        self._engine = None
        self._runtime = None
        self._call("cudaStreamDestroy", self._stream)

    def _create_context(self) -> Any:
        module = self._module
        # The workspace is ours: a graph may then be replayed after the context was bound to another shape, and plans
        # of RTX that are made to be recorded demand it.
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        specialization = getattr(module, "DynamicShapesKernelSpecializationStrategy", None)
        if specialization is None:
            return self._engine.create_execution_context(strategy)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # RTX compiles kernels for a shape when it sees it first; to be done before that shape is recorded in a graph,
        # not behind its back.
        config.dynamic_shapes_kernel_specialization_strategy = specialization.EAGER
        return self._engine.create_execution_context(config)

    def _tensor(self, name: str) -> TensorInfo:
        engine = self._engine
        is_input = engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name).name
        return TensorInfo(name, is_input, _NUMPY_NAMES.get(dtype, dtype.lower()), shape)

    def _call(self, name: str, *arguments: Any) -> Any:
        return _checked(self._cuda, name, *arguments)

    def _demand(self, succeeded: object, name: str) -> None:
        if not succeeded:
            raise self._failure(name)

    def _failure(self, what: str) -> BindingError:
        # The text of the log stays out: it is not ours. Its error code is what a reader can look up.
        messages = [message for _, message in self._log.messages if "Error Code" in message]
        code = messages[-1].partition("Error Code ")[2].partition(":")[0] if messages else "none given"
        return BindingError(f"{what} (error code {code})")
