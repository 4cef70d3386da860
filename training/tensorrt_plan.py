"""Building a TensorRT plan from ONNX bytes, with whichever of ``tensorrt`` and ``tensorrt_rtx`` is asked for.

Networks are strongly typed: precision is what the ONNX file says, nothing here chooses it. `tensorrt` builds for the
GPU that it runs on; `tensorrt_rtx` needs none and builds for a stated set of them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.engines.tensorrt_binding import device_of
from models.engines.tensorrt_cuda import MessageLog, import_module, message_log, use_gpu
from models.errors import ConfigurationError

RTX: Final = "tensorrt_rtx"
RTX_CAPABILITIES: Final = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
"""Ampere, Ada and Blackwell. Turing (``sm_75``) has no FP32 matrix products there and is built for only when named."""
PROFILE_BATCHES: Final = (1, 8, 32)

_WORKSPACE_BYTES: Final = 16 << 30
"""A limit, not what is taken: a U-Net of 512 pixels would take 17 GB at 32 images, which few GPUs have."""
_MOST_ERRORS: Final = 5
_FUSED_LAYER: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: .*$", re.MULTILINE)
_DATATYPE: Final = re.compile(r"Datatype: (\w+)")


class PlanError(ConfigurationError):
    """The network cannot be built as a plan. The message is one line that names the nodes."""


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """An input or output of a plan; free axes are -1, `dtype` is TensorRT's name (``FLOAT``)."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class PlanLayer:
    """A layer; `dtypes` are the types that it meets: of a parsed layer its outputs', of a fused one all."""

    name: str
    kind: str
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan and what it is.

    Attributes:
        content: the serialised plan.
        provider_version: release of the module that built it; no other loads it.
        device: for the engine's key, see `models.engines.tensorrt_binding.device_of`.
        batches: least, typical and largest batch.
        layers: of the network as it was parsed.
        fused: of the plan, as the builder's log tells them; empty where it does not.
        seconds: parsing and building.
    """

    content: bytes
    provider: str
    provider_version: str
    device: str
    batches: tuple[int, int, int]
    tensors: tuple[PlanTensor, ...]
    layers: tuple[PlanLayer, ...]
    fused: tuple[PlanLayer, ...]
    seconds: float


def build_plan(
    onnx_bytes: bytes,
    *,
    module_name: str,
    profile_batches: tuple[int, int, int] = PROFILE_BATCHES,
    timing_cache: Path | None = None,
    capabilities: tuple[str, ...] = RTX_CAPABILITIES,
    device_index: int = 0,
) -> BuiltPlan:
    """Parse and build.

    Args:
        onnx_bytes: with ``image (N, 1, H, W)`` as its one input, N free.
        module_name: ``tensorrt`` or ``tensorrt_rtx``, which is the provider's name too.
        profile_batches: least, typical and largest batch, of the one profile.
        timing_cache: of `tensorrt`: file that keeps measured kernels for the next build; made when it is not there.
            `tensorrt_rtx` measures nothing while it builds.
        capabilities: of `tensorrt_rtx`: the GPUs to build for.
        device_index: of `tensorrt`: the GPU to build on.

    Raises:
        ConfigurationError: the module, or the GPU that it needs, is not here.
        PlanError: the network cannot be parsed or built.
    """
    began = time.perf_counter()
    module = import_module(module_name)
    device = device_of(capabilities) if module_name == RTX else use_gpu(device_index)
    log = message_log(module, verbose=True)
    title = f"{module_name} {module.__version__}"
    try:
        builder = module.Builder(log)
    except (TypeError, RuntimeError) as error:  # how its binding says that the library made none
        raise ConfigurationError(f"{title}: no builder can be made here{_reasons(log)}") from error
    network = builder.create_network(0)  # strongly typed, as every network of these modules
    _parse(module, network, log, onnx_bytes, title)
    config = builder.create_builder_config()
    _configure(module, config, capabilities if module_name == RTX else ())
    _add_profile(builder, network, config, profile_batches, title)
    cache = _timing_cache(config, timing_cache) if module_name != RTX else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        told = _reasons(log)
        advice = "; take a smaller largest batch" if "OutOfMemory" in told else ""
        raise PlanError(f"{title}: cannot build the network{told}{advice}")
    if cache is not None and timing_cache is not None:
        timing_cache.write_bytes(bytes(cache.serialize()))
    return BuiltPlan(
        content=bytes(plan),
        provider=module_name,
        provider_version=str(module.__version__),
        device=device,
        batches=profile_batches,
        tensors=_tensors(network),
        layers=tuple(_layer(network.get_layer(i)) for i in range(network.num_layers)),
        fused=_fused(log),
        seconds=time.perf_counter() - began,
    )


def _parse(module: Any, network: Any, log: MessageLog, onnx_bytes: bytes, title: str) -> None:
    parser = module.OnnxParser(network, log)
    if onnx_bytes and parser.parse(onnx_bytes):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    told = "; ".join(_parser_error(error) for error in errors[:_MOST_ERRORS])
    more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
    raise PlanError(f"{title}: cannot read the network: {told or 'it is no ONNX file'}{more}")


def _parser_error(error: Any) -> str:
    code = error.code().name.lower().replace("_", " ")
    detail = " ".join(str(error.desc()).split())
    node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{code}: {detail}"


def _configure(module: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # names and types of layers, for inspection
    # What the file says is FP32 is computed in FP32: TF32 keeps three digits, and who wants speed takes FP16.
    config.clear_flag(module.BuilderFlag.TF32)
    if not capabilities:
        return
    # Memory is given by us, so that whatever is built can be recorded in a CUDA graph; what cannot fails here.
    config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        known = getattr(module.ComputeCapability, name.upper().replace("_", ""), None)
        if known is None or not config.set_compute_capability(known, index):
            raise ConfigurationError(f"{name}: not a GPU that {RTX} {module.__version__} builds for")


def _add_profile(builder: Any, network: Any, config: Any, batches: tuple[int, int, int], title: str) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][0] != -1 or min(shapes[0][1:]) < 1:
        raise PlanError(f"{title}: the network must have one input (N, 1, H, W) with N free")
    profile = builder.create_optimization_profile()
    profile.set_shape(inputs[0].name, *((batch, *shapes[0][1:]) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(f"{title}: batches of {', '.join(map(str, batches))} are no profile")


def _timing_cache(config: Any, path: Path | None) -> Any:
    """Attach the cache; one of another GPU or release is left aside and replaced."""
    if path is None:
        return None
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _tensors(network: Any) -> tuple[PlanTensor, ...]:
    inputs = [(network.get_input(i), True) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), False) for i in range(network.num_outputs)]
    return tuple(
        PlanTensor(tensor.name, is_input, tuple(int(size) for size in tensor.shape), tensor.dtype.name)
        for tensor, is_input in (*inputs, *outputs)
    )


def _layer(layer: Any) -> PlanLayer:
    dtypes = tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs))
    return PlanLayer(layer.name, layer.type.name, dtypes)


def _fused(log: MessageLog) -> tuple[PlanLayer, ...]:
    # The inspector tells this too, but only of a plan that was loaded, which needs a GPU.
    told = next((text for _, text in reversed(log.messages) if text.startswith("Layers:")), "")
    return tuple(
        PlanLayer(found["name"], found["kind"], tuple(sorted(set(_DATATYPE.findall(found[0])))))
        for found in _FUSED_LAYER.finditer(told)
    )


def _reasons(log: MessageLog) -> str:
    errors = [" ".join(text.split()) for severity, text in log.messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return f": {errors[-1]}" if errors else ""
