"""How fast the engines of a model store are, all outputs included, beside the same network in plain PyTorch.

Every version that serves is loaded as a worker loads it and fed random images of its input size; PyTorch runs the
network of that name with softmax and Grad-CAM (weights do not matter for the time), in channels-last memory and
inference mode. Both get the same threads and take turns, and the best round of each counts.

Below the table: what finding the lung fields costs, in a decoding process and on one thread, beside the engine of csi.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from models.engines.providers import load_engine
from models.networks.heatmap_table import heatmap_entry
from models.networks.table import network_entry
from models.networks.zone_network import ZoneFeatures, ZoneNetwork
from models.networks.zone_table import zone_backbone
from models.pixels.lung_fields import SIDE, find_lung_fields
from models.settings import Settings, load
from models.spine.schemas import landmark_schema
from models.store.manifest import Manifest
from models.store.store import ModelStore, open_version
from models.tasks import Task
from training.landmark_served import ServedLandmarks
from training.served import ServedNetwork
from training.zone_served import ServedZoneNetwork

BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Cell:
    """Images per second of one version at one batch size."""

    version: str
    batch: int
    engine: float
    pytorch: float


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
    table = Table(
        "version", "batch", "engine, images/s", "PyTorch, images/s", "ratio", title=f"{options.threads} threads"
    )
    for cell in cells:
        ratio = f"{cell.engine / cell.pytorch:.2f}"
        table.add_row(cell.version, str(cell.batch), f"{cell.engine:.1f}", f"{cell.pytorch:.1f}", ratio)
    console.print(table)
    found_ms = 1e3 * lung_fields_seconds(options.rounds)
    csi = [cell for cell in cells if cell.version.startswith(Task.CSI.value) and cell.batch == BATCHES[0]]
    beside = "".join(f", {found_ms * cell.engine / 1e3:.2f} of the engine of {cell.version}" for cell in csi)
    console.print(f"lung fields: {found_ms:.1f} ms per image on one thread{beside}")
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    return 0


def measure(directory: Path, options: argparse.Namespace) -> list[Cell]:
    """Time one version at every batch size."""
    version = open_version(directory)
    manifest = version.manifest
    engine = load_engine(version, threads=options.threads)
    network = _in_pytorch(manifest).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no such overload
    spec = manifest.input_spec
    cells = []
    for batch in BATCHES:
        image = np.random.default_rng(0).random((batch, 1, spec.height, spec.width), dtype=np.float32)
        tensor = torch.from_numpy(image)
        count = max(1, options.images // batch)
        best = [0.0, 0.0]
        for _ in range(options.rounds):
            for which, run in enumerate((lambda: engine.run(image), lambda: _inferred(network, tensor))):  # noqa: B023
                best[which] = max(best[which], batch * count / _seconds(run, count))
        cells.append(Cell(f"{manifest.task} {manifest.version}", batch, *best))
    engine.close()
    return cells


def _in_pytorch(manifest: Manifest) -> nn.Module:
    """Build what was exported, at random weights."""
    if manifest.task is Task.LANDMARKS:
        return _landmarks_in_pytorch(manifest)
    if manifest.task is not Task.CSI:
        entry = network_entry(manifest.network)
        return ServedNetwork(entry, entry.build(len(manifest.labels), False), 1.0, 1)
    backbone, data = zone_backbone(manifest.network), manifest.training_data
    features = ZoneFeatures(data["zones"])
    members = [ZoneNetwork(backbone.build(False, None), features) for _ in range(data["members"])]
    return ServedZoneNetwork(backbone, members, mirrored=data["mirrored"])


def _landmarks_in_pytorch(manifest: Manifest) -> nn.Module:
    entry, schema = heatmap_entry(manifest.network), landmark_schema(manifest.training_data["schema"])
    return ServedLandmarks(
        entry,
        schema,
        entry.build(schema, False),
        is_logits=entry.loss == "softmax",
        mirrored=manifest.training_data["mirrored"],
        alignment=manifest.training_data["alignment"],
        chained=manifest.training_data.get("chained", False),
    )


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
