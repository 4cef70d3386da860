"""The table of engine providers: which code runs the engine of a model version."""

from __future__ import annotations

from typing import Final, Protocol

from models.engines.engine import Engine
from models.errors import ConfigurationError
from models.store.store import ModelVersion


class Loader(Protocol):
    """Loads and warms the engine of one version."""

    def __call__(self, version: ModelVersion, *, threads: int | None) -> Engine:
        """Give an engine that is ready to run, or raise `StoreError`."""
        ...


def _load_onnxruntime(version: ModelVersion, *, threads: int | None) -> Engine:
    # Imported here, so that a host needs only the library of the provider that it uses.
    from models.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(version, threads=threads)


PROVIDERS: Final[dict[str, Loader]] = {"onnxruntime": _load_onnxruntime}


def load_engine(version: ModelVersion, provider: str = "onnxruntime", *, threads: int | None = None) -> Engine:
    """Load and warm the engine of a version.

    Args:
        version: a checked version of the store.
        provider: name in the table.
        threads: of the arithmetic on a CPU; None takes every physical core.

    Raises:
        ConfigurationError: no provider has this name.
        StoreError: the version cannot be run by this provider.
    """
    try:
        loader = PROVIDERS[provider]
    except KeyError:
        raise ConfigurationError(f"provider {provider}: unknown; known are {', '.join(sorted(PROVIDERS))}") from None
    return loader(version, threads=threads)
