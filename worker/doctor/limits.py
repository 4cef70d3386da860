"""Whether a worker has the open files, the memory and the cores that its settings take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from models.diagnosis.checks import Finding, ok, warning
from models.diagnosis.host import check_memory, check_open_files, usable_cores
from models.errors import RadstreamError
from models.settings import Settings
from models.store.store import ModelStore
from models.tasks import Task
from worker.settings import WorkerSettings

OPEN_FILES: Final = 512
OWN_BYTES: Final = 350 << 20
"""Of the worker process itself with its libraries, measured; its engines come on top."""
DECODER_BYTES: Final = 170 << 20
"""Of one decoding process with an ordinary radiograph in hand, measured."""
DELIVERY_BYTES: Final = 200 << 20
ENGINE_FACTOR: Final = 10
"""Bytes that an engine takes while it runs for each byte of its file, measured with the shipped ones on a CPU."""


def check_limits(settings: Settings, own: WorkerSettings) -> Iterator[Finding]:
    """Compare what the settings take with what there is."""
    yield from check_open_files(OPEN_FILES)
    yield from check_memory(_needed_bytes(settings, own), "RADSTREAM_WORKER_DECODERS and RADSTREAM_WORKER_PREFETCH")
    yield from check_threads(own)


def _needed_bytes(settings: Settings, own: WorkerSettings) -> int:
    decoders = own.decoders or os.cpu_count() or 1
    delivery = DELIVERY_BYTES if own.destinations else 0
    return OWN_BYTES + decoders * DECODER_BYTES + delivery + ENGINE_FACTOR * _engine_bytes(settings)


def _engine_bytes(settings: Settings) -> int:
    store, total = ModelStore(settings.model_store), 0
    for task in Task:
        try:
            for version in store.activation(task).named:
                total += (settings.model_store / task / version / "network.onnx").stat().st_size
        except (RadstreamError, OSError):
            continue  # the check of the engines says so
    return total


def check_threads(own: WorkerSettings) -> Iterator[Finding]:
    """Compare threads and decoding processes with the cores that we may use."""
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    for setting, value in (("ENGINE_THREADS", own.engine_threads), ("DECODERS", own.decoders)):
        taken = value or all_cores
        if taken > cores:
            yield warning(
                f"{setting.lower()} takes {taken} of {cores} usable cores, and they wait for each other",
                f"set RADSTREAM_WORKER_{setting}={cores}",
            )
        else:
            yield ok(f"{setting.lower()}: {taken} on {cores} usable cores")
