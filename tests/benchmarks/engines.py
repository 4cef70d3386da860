"""How fast the engines of a model store are, all outputs included, beside the same network in plain PyTorch.

Every version that serves is loaded as a worker loads it, in FP32 and, where `python -m training build` has made an INT8
engine of it for this machine, in INT8 too; a star marks the one that workers take. It is fed random images of its input
size. PyTorch runs the network of that name with softmax and Grad-CAM (weights do not matter for the time), in
channels-last memory and inference mode. All get the same threads and take turns, and the best round of each counts, so
that the ratios hold on a machine at work as well. Aims: twice PyTorch in FP32, four times in INT8.

Below the table: what finding the lung fields costs, in a decoding process and on one thread, beside the engine of csi.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from models.engines.built import FP32, chosen_engine, find_engine, rivals_of
from models.engines.engine import Engine
from models.engines.onnx_runtime import engine_key
from models.engines.providers import load_engine
from models.pixels.lung_fields import SIDE, find_lung_fields
from models.settings import Settings, load
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion, open_version
from models.tasks import Task
from tests.benchmarks.network_subjects import in_pytorch

BATCHES = (1, 8, 32)
INT8 = "int8"
AIMS = {FP32: 2.0, INT8: 4.0}
"""Times as fast as PyTorch, by precision."""


@dataclass(frozen=True)
class Cell:
    """Images per second of one engine of a version at one batch size; `chosen` where workers take it."""

    version: str
    precision: str
    chosen: bool
    batch: int
    engine: float
    pytorch: float

    @property
    def ratio(self) -> float:
        """Times as fast as PyTorch."""
        return self.engine / self.pytorch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 when no version serves."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default the shipped one")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the arithmetic (default all cores)")
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many rounds counts (default 5)")
    parser.add_argument("--images", type=int, default=64, help="images per round (default 64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here too")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    store = ModelStore(options.store or load(Settings).model_store)
    serving = [store.root / task / name for task in Task if (name := store.active(task)) is not None]
    cells = [cell for directory in serving for cell in measure(directory, options)]
    console = Console()
    if not cells:
        console.print(f"{store.root}: no version serves")
        return 1
    console.print(_table(cells, f"{options.threads} threads"))
    found_ms = 1e3 * lung_fields_seconds(options.rounds)
    csi = [cell for cell in cells if cell.version.startswith(Task.CSI.value) and cell.batch == BATCHES[0]]
    beside = "".join(
        f", {found_ms * cell.engine / 1e3:.2f} of the engine of {cell.version} in {cell.precision}" for cell in csi
    )
    console.print(f"lung fields: {found_ms:.1f} ms per image on one thread{beside}")
    if options.json:
        options.json.write_text(json.dumps([{**asdict(cell), "ratio": cell.ratio} for cell in cells], indent=1))
    return 0


def _table(cells: Sequence[Cell], title: str) -> Table:
    columns = ("version", "engine", "batch", "engine, images/s", "PyTorch, images/s", "ratio", "aim")
    table = Table(*columns, title=title)
    for cell in cells:
        name = f"{cell.precision}{'*' if cell.chosen else ''}"
        speeds = (f"{cell.engine:.1f}", f"{cell.pytorch:.1f}", f"{cell.ratio:.2f}")
        aim = AIMS[cell.precision]
        missed = "" if cell.ratio >= aim else ", missed"
        table.add_row(cell.version, name, str(cell.batch), *speeds, f"{aim:g}{missed}")
    return table


def measure(directory: Path, options: argparse.Namespace) -> list[Cell]:
    """Time the engines of one version at every batch size."""
    version = open_version(directory)
    manifest = version.manifest
    engines = _engines(version, options.threads)
    network = in_pytorch(manifest).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no such overload
    chosen = chosen_engine(rivals_of(version, engine_key(version, FP32)))
    taken = FP32 if chosen is None else chosen.precision
    cells = []
    for batch in BATCHES:
        pytorch, *speeds = _fastest(manifest, network, list(engines.values()), batch, options)
        cells += [
            Cell(f"{manifest.task} {manifest.version}", precision, precision == taken, batch, speed, pytorch)
            for precision, speed in zip(engines, speeds, strict=True)
        ]
    for engine in engines.values():
        engine.close()
    return sorted(cells, key=lambda cell: cell.precision)  # stable: batches stay in order


def _engines(version: ModelVersion, threads: int) -> dict[str, Engine]:
    """Load ``network.onnx``, and the INT8 engine that was built here, if any, by precision."""
    built = find_engine(version, engine_key(version, INT8)) is not None
    return {each: load_engine(version, threads=threads, precision=each) for each in ([FP32, INT8] if built else [FP32])}


def _fastest(
    manifest: Manifest, network: nn.Module, engines: Sequence[Engine], batch: int, options: argparse.Namespace
) -> list[float]:
    """Give images per second of PyTorch and of each engine: the best of rounds in which they take turns."""
    spec = manifest.input_spec
    image = np.random.default_rng(0).random((batch, 1, spec.height, spec.width), dtype=np.float32)
    tensor = torch.from_numpy(image)
    runs: list[Callable[[], object]] = [lambda: _inferred(network, tensor)]
    runs += [partial(engine.run, image) for engine in engines]
    count = max(1, options.images // batch)
    best = [0.0] * len(runs)
    for _ in range(options.rounds):
        for which, run in enumerate(runs):
            best[which] = max(best[which], batch * count / _seconds(run, count))
    return best


def _inferred(network: nn.Module, image: torch.Tensor) -> object:
    with torch.inference_mode():
        return network(image)


def lung_fields_seconds(rounds: int) -> float:
    """Give the seconds of one search where no start succeeds early, which is the longest."""
    image = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    cv2.setNumThreads(1)  # as in a decoding process
    return min(_seconds(lambda: find_lung_fields(image), 5) / 5 for _ in range(rounds))


def _seconds(run: Callable[[], object], count: int) -> float:
    run()
    began = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
