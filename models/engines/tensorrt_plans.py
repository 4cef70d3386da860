"""Which plan of a version runs here: the one whose key names its network, this release of TensorRT and this GPU.

The key of a plan by `tensorrt_rtx` names every GPU that it was built for, so plans are looked through rather than
looked up.
"""

from __future__ import annotations

from contextlib import suppress

from models.engines.built import AUTO, FOLDER, EngineManifest, best_speed, chosen_engine, engines_of, find_engine
from models.engines.tensorrt import TensorRTEngine
from models.engines.tensorrt_binding import Binding, BindingError, is_for
from models.store.store import ModelVersion, StoreError


def load_tensorrt(
    version: ModelVersion,
    provider: str,
    *,
    precision: str = AUTO,
    binding: Binding | None = None,
    device_index: int = 0,
) -> TensorRTEngine:
    """Load and warm the plan of a version that was built for this GPU and this release of the provider.

    Args:
        version: a checked version of the store.
        provider: ``tensorrt`` or ``tensorrt_rtx``.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the one that was chosen when they were built.
        binding: of the GPU; None makes it. It is closed with the engine, or when there is none.
        device_index: which GPU of those that are visible.

    Raises:
        ConfigurationError: the provider or the GPU cannot be used here.
        StoreError: there is no such plan, or it is broken.
    """
    if binding is None:
        from models.engines.tensorrt_cuda import CudaBinding

        binding = CudaBinding(provider, device_index)
    try:
        manifest = _fitting(version, provider, precision, binding)
        built = find_engine(version, manifest.key)
        if built is None or built.content is None:
            raise StoreError(f"{version.directory / FOLDER}: the engine that was listed is gone")
    except BaseException:
        with suppress(BindingError):
            binding.close()
        raise
    return TensorRTEngine(version, manifest.key, built.content, binding)


def _fitting(version: ModelVersion, provider: str, precision: str, binding: Binding) -> EngineManifest:
    """Give the engine to take, or say what there is and how to build one."""
    built = [engine for engine in engines_of(version) if engine.provider == provider]
    fitting = [
        engine
        for engine in built
        if engine.provider_version == binding.provider_version
        and is_for(engine.device, binding.capability)
        and precision in (AUTO, engine.precision)
    ]
    chosen = (chosen_engine(fitting) if precision == AUTO else None) or max(fitting, key=best_speed, default=None)
    if chosen is None:
        raise StoreError(_no_plan(version, provider, precision, binding, built))
    return chosen


def _no_plan(
    version: ModelVersion, provider: str, precision: str, binding: Binding, built: list[EngineManifest]
) -> str:
    manifest = version.manifest
    wanted = "" if precision == AUTO else f"{precision} "
    others = ", ".join(f"{engine.precision} by {engine.provider_version} for {engine.device}" for engine in built)
    asked = "fp16" if precision == AUTO else precision
    return (
        f"{version.directory}: no {wanted}plan by {provider} {binding.provider_version} for {binding.capability}; "
        f"built are: {others or 'none'}. Build one here: python -m training build --task {manifest.task} "
        f"--version {manifest.version} --provider {provider} --precision {asked} --data-dir DIR"
    )
