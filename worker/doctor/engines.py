"""Whether the model store is whole, and each engine that serves loads here and answers; and what runs it."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

import numpy as np

from models.diagnosis.checks import Finding, failure, ok, skipped, warning
from models.engines.engine import Engine
from models.engines.tensorrt_binding import MODULES
from models.errors import RadstreamError
from models.settings import Settings
from models.store.store import ModelStore, StoreError
from models.tasks import Task
from worker.running import engine_loader
from worker.settings import WorkerSettings

RUNS: Final = 3
SLOW_S: Final = 5.0
"""Of one image; a feed of a busy hospital brings one every few seconds."""
NVIDIA_SMI_S: Final = 10.0


def check_engines(settings: Settings, own: WorkerSettings) -> Iterator[Finding]:
    """Open, hash, load and run every version that has a role."""
    load = engine_loader(own)
    store = ModelStore(settings.model_store)
    if not settings.model_store.is_dir():
        yield failure(f"there is no model store {settings.model_store}", "set RADSTREAM_MODEL_STORE, or mount it there")
        return
    active = 0
    for task in Task:
        try:
            activation = store.activation(task)
        except StoreError as error:
            yield failure(str(error), f"python -m training promote --task {task}")
            continue
        active += activation.active is not None
        for version in sorted(activation.named):
            roles = activation.roles_of(version)
            try:
                opened = store.open(task, version)
                engine = load(opened)
            except RadstreamError as error:
                remedy = f"python -m training rollback --task {task}, or copy the version there again"
                if own.engine_provider != "onnxruntime":
                    remedy = (
                        f"python -m training build --task {task} --version {version} on this host, "
                        "or RADSTREAM_WORKER_ENGINE_PROVIDER=onnxruntime"
                    )
                tell = failure if "active" in roles else warning
                yield tell(f"{task} {version} ({', '.join(roles)}) cannot serve: {error}", remedy)
                continue
            try:
                yield _run(engine, task, version, roles)
            finally:
                engine.close()
    if not active:
        yield failure(f"no task has an active version in {settings.model_store}", "python -m training promote")


def _run(engine: Engine, task: Task, version: str, roles: tuple[str, ...]) -> Finding:
    spec = engine.manifest.input_spec
    ramp = np.linspace(0, 1, spec.height * spec.width, dtype=np.float32).reshape(1, 1, spec.height, spec.width)
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        outputs = engine.run(ramp)
        taken.append(time.perf_counter() - started)
    name = f"{task} {version} ({', '.join(roles)})"
    bad = [key for key, values in outputs.items() if not np.isfinite(values).all()]
    if bad:
        return failure(f"{name} answers no numbers in {', '.join(bad)}", f"python -m training rollback --task {task}")
    seconds = statistics.median(taken)
    info = engine.info
    text = f"{name}: {info.provider} {info.precision} on {info.device}, {seconds:.3f} s per image"
    return warning(text, "use a GPU, more cores or a smaller network") if seconds > SLOW_S else ok(text)


def check_gpu(own: WorkerSettings) -> Iterator[Finding]:
    """See whether what the engine provider needs is there: its module, and a GPU that the driver sees."""
    found = _gpus()
    if own.engine_provider == "onnxruntime":
        seen = f"; the GPU ({', '.join(found)}) is not used" if found else ""
        yield skipped(f"onnxruntime needs no GPU{seen}")
        return
    module = MODULES.get(own.engine_provider)
    if module is not None and find_spec(own.engine_provider) is None:
        yield failure(f"the Python module {own.engine_provider} is not installed", f"pip install 'radstream[{module}]'")
    if found is None:
        yield failure(
            "no NVIDIA driver is seen (nvidia-smi is missing or fails)",
            "install the driver; of a container: --gpus all (NVIDIA Container Toolkit); or use "
            "RADSTREAM_WORKER_ENGINE_PROVIDER=onnxruntime",
        )
    elif not found:
        yield failure("the driver sees no GPU", "nvidia-smi -L; of a container: --gpus all")
    else:
        yield ok(f"GPU: {', '.join(found)}")


def _gpus() -> list[str] | None:
    """Give name, driver and free memory of each GPU; None without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = ["--query-gpu=name,driver_version,memory.free", "--format=csv,noheader"]
    try:
        answer = subprocess.run([program, *query], capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.replace(", ", " ") + " free" for line in answer.stdout.splitlines() if line.strip()]
