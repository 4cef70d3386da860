"""Whether every landmark network can learn: a handful of films by heart, from random weights, on this machine.

    python -m tests.benchmarks.overfit --data-dir aasce --networks maht_net,unet

Prints loss and mean radial error (pixels of a letterbox of 512) as steps go by, then how both fell from the first step.
A network that is wired wrongly (a skip at another level, a query that sees no image, a target that is shifted) does not
get below two pixels. That says nothing of films it has not seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import default_collate

from models.networks.heatmap_decoding import DECODERS, spatial_softmax
from models.networks.heatmap_table import HEATMAP_NETWORKS, LandmarkLossKind, heatmap_entry
from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_images import LandmarkImages, read_landmark_images
from training.datasets.landmark_radiographs import LandmarkBatch, LandmarkRadiographs, placement_of
from training.landmark_fitted import LandmarkModel
from training.landmark_losses import LandmarkLoss

ENOUGH_PX = 2.0
_LOOK_EVERY = 20
_CLIP = 5.0


@dataclass(frozen=True, slots=True)
class Course:
    """How one network fared; errors in letterbox pixels."""

    network: str
    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    first_mre: float
    last_mre: float


def main(argv: Sequence[str] | None = None) -> int:
    """Fit each network and print its course; 1 where one does not get below `ENOUGH_PX`."""
    options = _parser().parse_args(argv)
    console = Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    images = read_landmark_images(options.data_dir, format=options.format).limited(options.images)
    spec = InputSpec(height=options.height, width=options.width, resize=Resize.LETTERBOX)
    batch = _batch_of(images, spec)
    courses = []
    for name in options.networks.split(","):
        course = learn(
            name, images.schema, batch, steps=options.steps, lr=options.lr, kind=options.loss, console=console
        )
        courses.append(course)
        fall = course.first_loss / course.last_loss
        console.print(
            f"{name}: loss {course.first_loss:.3f} to {course.last_loss:.3f} (1/{fall:.0f}), "
            f"MRE {course.first_mre:.1f} to {course.last_mre:.2f} px in {course.steps} steps, {course.seconds:.0f} s"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(course) for course in courses], indent=1) + "\n")
    return 0 if all(course.last_mre < ENOUGH_PX for course in courses) else 1


def _batch_of(images: LandmarkImages, spec: InputSpec) -> LandmarkBatch:
    placements = [placement_of(image.path, spec) for image in images.images]
    dataset = LandmarkRadiographs(images.images, placements, spec)
    batch: LandmarkBatch = default_collate([dataset[place] for place in range(len(dataset))])
    return batch


def learn(
    name: str,
    schema: LandmarkSchema,
    batch: LandmarkBatch,
    *,
    steps: int,
    lr: float,
    kind: LandmarkLossKind | None,
    console: Console,
) -> Course:
    """Fit one network to one batch until it knows it by heart, or for so many steps."""
    torch.manual_seed(0)
    entry = heatmap_entry(name)
    model = LandmarkModel(entry, schema, entry.build(schema, pretrained=False))
    kind = kind or entry.loss
    loss_of = LandmarkLoss(kind, schema, model.network.stride, sigma_px=4.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    began, first = time.perf_counter(), (0.0, 0.0)
    loss = mre = float("nan")
    for step in range(1, steps + 1):
        model.train()
        warm = min(1.0, step / _LOOK_EVERY)
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * (0.1 if step > 0.8 * steps else 1.0)
        fitted = loss_of(model.heatmaps(batch.image), batch.points)
        optimizer.zero_grad()
        fitted.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        if step == 1 or step % _LOOK_EVERY == 0:
            loss, mre = float(fitted.detach()), mean_radial_error(model, batch, kind)
            first = (loss, mre) if step == 1 else first
            console.print(f"  {name} step {step}: loss {loss:.4f}, MRE {mre:.2f} px")
            if mre < ENOUGH_PX:
                break
    return Course(name, step, time.perf_counter() - began, first[0], loss, first[1], mre)


def mean_radial_error(model: LandmarkModel, batch: LandmarkBatch, kind: LandmarkLossKind) -> float:
    """Measure the network as it would serve, in letterbox pixels, with the batch-norm statistics of this batch."""
    _settle_norms(model, batch)
    model.eval()
    with torch.inference_mode():
        heat = model.heatmaps(batch.image).heatmaps
        heat = spatial_softmax(heat) if kind == "softmax" else heat
        found = DECODERS[model.entry.decoding](heat, model.network.stride)
    away = (found - batch.points).norm(dim=2) * batch.unit[:, None]
    return float(away[torch.isfinite(away)].mean())


def _settle_norms(model: LandmarkModel, batch: LandmarkBatch) -> None:
    """Take batch-norm's statistics from one pass: networks whose running means are slow need thousands of steps."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # without dropout
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.heatmaps(batch.image)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--format", default="auto", help="of the data")
    parser.add_argument("--networks", default=",".join(HEATMAP_NETWORKS), help="names, separated by commas")
    parser.add_argument("--images", type=int, default=4, help="how many films (default 4)")
    parser.add_argument("--steps", type=int, default=400, help="at most (default 400)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default 0.001)")
    parser.add_argument("--loss", choices=get_args(LandmarkLossKind), help="default that of the network's recipe")
    parser.add_argument("--height", type=int, default=192, help="of the input, pixels")
    parser.add_argument("--width", type=int, default=96, help="of the input, pixels")
    parser.add_argument("--threads", type=int, help="of the arithmetic; default all cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
