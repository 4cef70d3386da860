"""The table of engine providers: which code runs the engine of a model version."""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

from models.engines.engine import Engine
from models.errors import ConfigurationError
from models.store.store import ModelVersion


class Loader(Protocol):
    """Loads and warms the engine of one version."""

    def __call__(self, version: ModelVersion, *, threads: int | None, precision: str) -> Engine:
        """Give an engine that is ready to run, or raise `StoreError`."""
        ...


def _load_onnxruntime(version: ModelVersion, *, threads: int | None, precision: str) -> Engine:
    # Imported here, so that a host needs only the library of the provider that it uses.
    from models.engines.onnx_runtime import load_onnxruntime

    return load_onnxruntime(version, threads=threads, precision=precision)


def _load_tensorrt(version: ModelVersion, *, threads: int | None, precision: str, provider: str) -> Engine:
    from models.engines.tensorrt_plans import load_tensorrt

    return load_tensorrt(version, provider, precision=precision)  # threads are of a CPU


PRECISIONS: Final = ("auto", "fp32", "fp16", "int8")
PROVIDERS: Final[dict[str, Loader]] = {
    "onnxruntime": _load_onnxruntime,
    "tensorrt": partial(_load_tensorrt, provider="tensorrt"),
    "tensorrt_rtx": partial(_load_tensorrt, provider="tensorrt_rtx"),
}


def load_engine(
    version: ModelVersion, provider: str = "onnxruntime", *, threads: int | None = None, precision: str = "auto"
) -> Engine:
    """Load and warm the engine of a version.

    Args:
        version: a checked version of the store.
        provider: name in the table.
        threads: of the arithmetic on a CPU; None takes every physical core.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto``: of the engines that were built and proven for this host,
            the one that was chosen by measurement; with onnxruntime FP32 where none was.

    Raises:
        ConfigurationError: no provider or precision has this name.
        StoreError: the version cannot be run by this provider in this precision, or the engine is broken.
    """
    try:
        loader = PROVIDERS[provider]
    except KeyError:
        raise ConfigurationError(f"provider {provider}: unknown; known are {', '.join(sorted(PROVIDERS))}") from None
    if precision not in PRECISIONS:
        raise ConfigurationError(f"precision {precision}: unknown; known are {', '.join(PRECISIONS)}")
    return loader(version, threads=threads, precision=precision)
