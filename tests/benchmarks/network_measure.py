"""What `tests.benchmarks.networks` tells of one network: its engines are made, timed in turns and compared."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from models.engines.cpu import CPU, cpu_device
from models.engines.onnx_runtime import INPUT_NAME, PROVIDER, session_options
from models.errors import RadstreamError
from tests.benchmarks.network_subjects import Subject, subjects
from training.engine_graph import with_single_weights
from training.engine_precision import cast_to_half
from training.engine_quantise import Quantiser

PYTORCH: Final = "PyTorch"
PARITY_IMAGES: Final = 2

LEAST_RUNS: Final = 3
_LEAST_S: Final = 2.0
_MEGABYTE: Final = 1e6
_CLEAR_PEAK: Final = Path("/proc/self/clear_refs")
"""Linux: writing 5 there resets VmHWM."""

Images = NDArray[np.float32]
Outputs = dict[str, NDArray[np.float32]]
Run = Callable[[Images], Outputs]


@dataclass(frozen=True)
class Cell:
    """How fast one engine is at one batch size.

    Attributes:
        images_per_s: None where it was not timed.
        ratio: times as fast as PyTorch.
        why_not: in a few words.
    """

    batch: int
    images_per_s: float | None = None
    ratio: float | None = None
    runs: int = 0
    why_not: str = ""


@dataclass(frozen=True)
class Row:
    """One network by one provider at one precision.

    Attributes:
        refused: why there is no such engine.
        build_s: quantising or casting, and loading; of a plan parsing and building. Exporting is not in it.
        parity: largest and mean difference by output.
        distance_px: mean and largest distance of landmarks as decoded from the heatmaps' peaks; None of other tasks.
    """

    network: str
    provider: str
    precision: str
    refused: str | None = None
    size_mb: float = 0.0
    build_s: float | None = None
    cells: tuple[Cell, ...] = ()
    parity: dict[str, tuple[float, float]] = field(default_factory=dict)
    distance_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class Limits:
    """What a network may take.

    Attributes:
        cell_s: no further round once so many seconds went into one batch size.
        run_s: a batch of which one run would take longer is not timed.
    """

    threads: int
    batches: tuple[int, ...]
    cell_s: float
    run_s: float


def measure(name: str, limits: Limits, plans: str) -> list[Row]:
    """Give all rows of one network.

    Raises:
        RadstreamError: it cannot be exported.
    """
    torch.manual_seed(0)
    torch.set_num_threads(limits.threads)
    cv2.setNumThreads(1)
    subject = subjects()[name]()
    settle_batch_norm(subject.module, smooth_images(PARITY_IMAGES, subject, seed=2))
    content = subject.exported()
    images = smooth_images(PARITY_IMAGES, subject, seed=1)
    calibration = smooth_images(PARITY_IMAGES, subject, seed=0)

    pytorch, engines = (
        _pytorch_row(name, subject),
        [_onnxruntime_row(name, precision, content, calibration, limits.threads) for precision in ("fp32", "int8")],
    )
    runs: list[Run] = [partial(_in_pytorch, subject), *(run for _, run in engines if run is not None)]
    own, *others = _times(runs, subject, limits)
    timed = iter(others)
    reference = runs[0 if subject.shipped is None else 1](images)
    rows = [replace(pytorch, cells=own)]
    for row, run in engines:
        rows.append(row if run is None else _compared(replace(row, cells=next(timed)), reference, partial(run, images)))
    runs.clear()
    engines.clear()
    if plans != "none":
        rows += _plan_rows(name, plans, content, calibration, images, reference, limits)
    return rows


def smooth_images(count: int, subject: Subject, seed: int) -> Images:
    """Make random images with broad light and dark, as a radiograph has, and a little noise."""
    generator = np.random.default_rng(seed)
    side = (subject.spec.width, subject.spec.height)
    broad = [
        cv2.resize(generator.random((9, 9), np.float32), side, interpolation=cv2.INTER_CUBIC) for _ in range(count)
    ]
    noisy = np.stack(broad) + 0.05 * generator.standard_normal((count, *side[::-1]), np.float32)
    images: Images = np.clip(noisy, 0.0, 1.0)[:, np.newaxis].astype(np.float32)
    return images


def settle_batch_norm(module: nn.Module, images: Images) -> None:
    """Give every batch-norm the mean and variance that it meets on these images."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module(torch.from_numpy(images))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


# Engines


def _pytorch_row(name: str, subject: Subject) -> Row:
    subject.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no such overload
    size = sum(value.numel() * value.element_size() for value in subject.module.state_dict().values())
    return Row(name, PYTORCH, "fp32", size_mb=size / _MEGABYTE)


def _in_pytorch(subject: Subject, images: Images) -> Outputs:
    with torch.inference_mode():
        answers = subject.module(torch.from_numpy(images))
    return {name: answer.numpy() for name, answer in zip(subject.outputs, answers, strict=True)}


def _onnxruntime_row(
    name: str, precision: str, content: bytes, calibration: Images, threads: int
) -> tuple[Row, Run | None]:
    row, began = Row(name, PROVIDER, precision), time.perf_counter()
    try:
        if precision == "int8":
            content = _int8(content, calibration, symmetric=False).SerializeToString()
        run = _session_run(content, threads)
    except RadstreamError as error:
        return replace(row, refused=str(error)), None
    build_s = time.perf_counter() - began
    return replace(row, size_mb=len(content) / _MEGABYTE, build_s=build_s), run


def _session_run(content: bytes, threads: int) -> Run:
    session: Any = onnxruntime.InferenceSession(
        content, sess_options=session_options(threads), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))


def _int8(content: bytes, calibration: Images, *, symmetric: bool) -> ModelProto:
    seven_bits = not symmetric and cpu_device() == CPU
    single = with_single_weights(onnx.load_from_string(content))
    quantiser = Quantiser(single, calibration, symmetric=symmetric, seven_bits=seven_bits)
    try:
        return quantiser.quantise(quantiser.choices[0])
    finally:
        quantiser.close()


def _plan_graph(precision: str, content: bytes, calibration: Images) -> bytes:
    """Make the graph from which `training build` would build a plan."""
    if precision == "int8":
        graph = _int8(content, calibration, symmetric=True)
    else:
        single = with_single_weights(onnx.load_from_string(content))
        graph = cast_to_half(single) if precision == "fp16" else single
    made: bytes = graph.SerializeToString()
    return made


def _plan_rows(
    name: str, provider: str, content: bytes, calibration: Images, images: Images, reference: Outputs, limits: Limits
) -> Iterator[Row]:
    for precision in ("fp32", "fp16", "int8"):
        row = Row(name, provider, precision)
        try:
            from training.tensorrt_plan import build_plan

            graph = _plan_graph(precision, content, calibration)
            plan = build_plan(graph, module_name=provider)
        except RadstreamError as error:
            yield replace(row, refused=str(error))
            continue
        cells = tuple(Cell(batch, why_not="needs a GPU") for batch in limits.batches)
        row = replace(row, size_mb=len(plan.content) / _MEGABYTE, build_s=plan.seconds, cells=cells)
        del plan
        yield _compared(row, reference, lambda graph=graph: _session_run(graph, limits.threads)(images))


# Speed


def _times(runs: Sequence[Run], subject: Subject, limits: Limits) -> list[tuple[Cell, ...]]:
    """Give the cells of each engine, batch after batch, from the smallest on."""
    cells: list[list[Cell]] = [[] for _ in runs]
    before, slowest_s, grown = _forget_peak(), 0.0, (0, 0)  # the largest batch so far and the bytes that it took
    for batch in limits.batches:
        needed = grown[1] * batch // max(1, grown[0])
        expected_s = slowest_s * batch
        why_not = ""
        if expected_s > limits.run_s:
            why_not = f"about {expected_s:.0f} s a run"
        elif needed > _free_memory():
            why_not = f"about {needed / 1e9:.0f} GB"
        if why_not:
            found = [Cell(batch, why_not=why_not) for _ in runs]
        else:
            images = np.concatenate([smooth_images(1, subject, seed=100 + index) for index in range(batch)])
            found = take_turns(runs, images, limits.cell_s)
            slowest_s = max(1.0 / cell.images_per_s for cell in found if cell.images_per_s)
            grown = (batch, _most_memory() - before)
        for own, cell in zip(cells, found, strict=True):
            own.append(cell)
    return [tuple(own) for own in cells]


def take_turns(
    runs: Sequence[Run], images: Images, most_s: float, clock: Callable[[], float] = time.perf_counter
) -> list[Cell]:
    """Run each in turn, three times and two seconds or more unless that takes too long; of each the best run counts."""
    best, began, rounds = [float("inf")] * len(runs), clock(), 0
    while True:
        for which, run in enumerate(runs):
            started = clock()
            run(images)
            best[which] = min(best[which], clock() - started)
        rounds += 1
        elapsed = clock() - began
        if elapsed > most_s or (rounds >= LEAST_RUNS and elapsed >= _LEAST_S * len(runs)):
            return [Cell(len(images), len(images) / seconds, best[0] / seconds, rounds) for seconds in best]


def _forget_peak() -> int:
    """Let the count of the most memory begin anew, and give what is in use now; nothing where the system has none."""
    try:
        _CLEAR_PEAK.write_text("5")
        return _told_of_memory("VmRSS")
    except (OSError, KeyError):
        return 0


def _most_memory() -> int:
    """Give the most bytes in use since the count began."""
    try:
        return _told_of_memory("VmHWM")
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _told_of_memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024


def _free_memory() -> int:
    """Give what the host has left, less a quarter for those who share it."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return 8 << 30
    return int(told["MemAvailable"].split()[0]) * 1024 * 3 // 4


# Parity


def _compared(row: Row, reference: Outputs, answer: Callable[[], Outputs]) -> Row:
    try:
        answers = answer()
    except Exception as error:  # whatever ONNX Runtime makes of a graph that is meant for TensorRT
        return replace(row, parity={f"not run: {type(error).__name__}": (float("nan"), float("nan"))})
    parity, distance = {}, None
    for name, expected in reference.items():
        apart = np.abs(answers[name].astype(np.float64) - expected)
        told = name if expected.any() or answers[name].any() else f"{name} (nothing but zeros)"
        parity[told] = (float(apart.max()), float(apart.mean()))
        if name == "landmarks":
            moved = np.hypot(apart[..., 0], apart[..., 1])
            distance = (float(moved.mean()), float(moved.max()))
    return replace(row, parity=parity, distance_px=distance)
