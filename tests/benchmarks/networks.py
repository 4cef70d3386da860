"""Every network by every provider and precision: size, time to build, images per second beside PyTorch, and parity.

    python -m tests.benchmarks.networks --networks csi/ landmarks/unet --json networks.json > networks.md

Prints one Markdown table. Weights are random, but for what was shipped: sizes and speeds do not mind, and of answers
only the differences between precisions are told. Batch-norm is settled on random images first, so that values keep the
magnitude that they have in a fitted network. INT8 is calibrated on random images too and keeps the first three
convolutions in FP32; what `training build` publishes may keep more.

PyTorch and ONNX Runtime get the same threads and take turns, and the best run of each counts, so that ratios hold on a
machine at work as well; the images per second of two networks were measured at different times. A plan needs a GPU to
run and is only built; its parity is that of the graph that it was built from, run by ONNX Runtime.

Parity is to PyTorch in FP32 with the same weights; of shipped versions, whose weights the module has not, to their
``network.onnx`` in FP32. What is refused or not timed is a row, or a cell, that says why. Each network has a process of
its own: one that dies is a row too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Final

import onnxruntime
import torch

from models.engines.cpu import cpu_device
from models.errors import RadstreamError
from tests.benchmarks.network_measure import LEAST_RUNS, Cell, Limits, Row, measure
from tests.benchmarks.network_subjects import subjects
from training.progress import CONSOLE, progress_bar

BATCHES: Final = (1, 8, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a network is missing in it."""
    options = _parser().parse_args(argv)
    limits = Limits(options.threads, tuple(sorted(options.batches)), options.cell_seconds, options.run_seconds)
    wanted = [name for name in subjects() if any(name.startswith(start) for start in options.networks)]
    rows: list[Row] = []
    print(_head(limits), flush=True)
    with progress_bar() as bar:
        task = bar.add_task("networks", total=len(wanted))
        for name in wanted:
            bar.update(task, description=name)
            began = time.perf_counter()
            found = in_own_process(name, limits, options.plans)
            rows += found
            print("\n".join(_line(row, limits.batches) for row in found), flush=True)
            CONSOLE.print(f"{name}: {time.perf_counter() - began:.0f} s")
            bar.advance(task)
            if options.json:  # after each: a run of an hour may be ended before its end
                options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(not rows or any(row.provider == "" for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", default=[""], metavar="NAME", help="beginnings of names: shipped/, pneumonia/, csi/..."
    )
    parser.add_argument("--threads", type=int, default=2, help="of the arithmetic (default %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="to time (default 1 8 32)")
    parser.add_argument(
        "--cell-seconds", type=float, default=30.0, help="begin no round after so many per batch size (default 30)"
    )
    parser.add_argument(
        "--run-seconds", type=float, default=120.0, help="do not time a batch that takes longer (default 120)"
    )
    parser.add_argument(
        "--plans", default="tensorrt_rtx", choices=("tensorrt", "tensorrt_rtx", "none"), help="who builds plans"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    return parser


def in_own_process(name: str, limits: Limits, plans: str) -> list[Row]:
    """Measure a network where it can take all memory, or crash, without harm to the others."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, name, limits, plans).result()
        except (BrokenProcessPool, RadstreamError, MemoryError) as error:
            told = "its process died" if isinstance(error, BrokenProcessPool) else str(error)
            return [Row(name, "", "", refused=told or type(error).__name__)]


# Markdown


def _head(limits: Limits) -> str:
    columns = ["network", "provider", "precision", "MB", "build s"]
    columns += [f"images/s, batch {batch}" for batch in limits.batches]
    columns += ["x PyTorch", "largest / mean difference", "landmarks px"]
    told = (
        f"Random weights (shipped/ excepted); {limits.threads} threads; ONNX Runtime {onnxruntime.__version__}, "
        f"PyTorch {torch.__version__.partition('+')[0]}; best of turns, "
        f"* of fewer than {LEAST_RUNS}; CPU: {cpu_device()}."
    )
    return f"{told}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def _line(row: Row, batches: Sequence[int]) -> str:
    if row.refused:
        reason = " ".join(row.refused.split()).replace("|", "/")
        return f"| {row.network} | {row.provider} | {row.precision} | refused: {reason} |{' |' * (len(batches) + 4)}"
    build = "" if row.build_s is None else f"{row.build_s:.1f}"
    speeds = [_speed(cell) for cell in row.cells]
    parity = "; ".join(f"{name} {_short(most)} / {_short(mean)}" for name, (most, mean) in row.parity.items())
    distance = "" if row.distance_px is None else f"mean {row.distance_px[0]:.2f}, most {row.distance_px[1]:.1f}"
    ratios = " / ".join("-" if cell.ratio is None else f"{cell.ratio:.2f}" for cell in row.cells)
    ratios = ratios if any(cell.ratio for cell in row.cells) else ""
    cells = [row.network, row.provider, row.precision, f"{row.size_mb:.1f}", build, *speeds, ratios, parity, distance]
    return f"| {' | '.join(cells)} |"


def _speed(cell: Cell) -> str:
    if cell.images_per_s is None:
        return cell.why_not
    return f"{cell.images_per_s:.3g}{'*' if cell.runs < LEAST_RUNS else ''}"


def _short(number: float) -> str:
    return "0" if number == 0 else f"{number:.1e}"


if __name__ == "__main__":
    raise SystemExit(main())
