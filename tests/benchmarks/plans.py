"""Whether TensorRT takes every network: each is exported as a version is, at random weights, and built as a plan.

    python -m tests.benchmarks.plans --networks csi/ landmarks/unet --precision fp32 fp16

Prints a table: what was built, in how long, of what size, with how many layers, and its outputs; or what was refused.
With `tensorrt_rtx` no GPU is needed. It says nothing about speed or answers, which need one. INT8 is calibrated on
random images, which is enough to see that its graph is taken.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import ModelProto
from rich.console import Console
from rich.table import Table

from models.errors import RadstreamError
from tests.benchmarks.network_subjects import Subject, subjects
from training.engine_graph import with_single_weights
from training.engine_precision import cast_to_half
from training.engine_quantise import Quantiser
from training.tensorrt_plan import RTX, BuiltPlan, PlanLayer, build_plan

_TABLE_WIDTH = 150


@dataclass(frozen=True)
class Row:
    """What became of one network at one precision.

    Attributes:
        refused: why there is no plan.
        convolutions: of the plan, by the narrowest type that each meets.
        outputs: axes by name, the first of which is free.
    """

    network: str
    precision: str
    refused: str | None = None
    seconds: float = 0.0
    plan_mb: float = 0.0
    layers: int = 0
    fused: int = 0
    convolutions: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the plans; 1 when one was refused."""
    options = _parser().parse_args(argv)
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)  # of a file, rich believes 80
    rows = []
    for name, make in subjects().items():
        if not any(name.startswith(wanted) for wanted in options.networks):
            continue
        for row in built(name, make, options.precision, options.provider, tuple(options.batches)):
            rows.append(row)
            console.print(f"{name} {row.precision}: {row.refused or f'built in {row.seconds:.1f} s'}")
        gc.collect()
    console.print(_table(rows, options.provider))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(not rows or any(row.refused for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.plans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--networks", nargs="+", default=[""], metavar="NAME", help="beginnings of names: shipped/, pneumonia/, csi/..."
    )
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=PRECISIONS, help="default fp32")
    parser.add_argument("--provider", default=RTX, choices=("tensorrt", RTX), help="who builds (default %(default)s)")
    parser.add_argument("--batches", nargs=3, type=int, default=(1, 8, 32), help="least, typical and largest batch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    return parser


def built(
    name: str, make: Callable[[], Subject], precisions: Sequence[str], provider: str, batches: tuple[int, int, int]
) -> Iterator[Row]:
    """Export a network, and build it at each precision."""
    torch.manual_seed(0)
    try:
        content = make().exported()
    except RadstreamError as error:
        yield from (Row(name, precision, refused=str(error)) for precision in precisions)
        return
    for precision in precisions:
        try:
            graph = PRECISIONS[precision](onnx.load_from_string(content))
            yield _row(
                name, precision, build_plan(graph.SerializeToString(), module_name=provider, profile_batches=batches)
            )
        except RadstreamError as error:
            yield Row(name, precision, refused=str(error))


def _single(proto: ModelProto) -> ModelProto:
    return with_single_weights(proto)


def _half(proto: ModelProto) -> ModelProto:
    return cast_to_half(with_single_weights(proto))


def _int8(proto: ModelProto) -> ModelProto:
    height, width = (axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim[2:])
    images = np.random.default_rng(0).random((2, 1, height, width), dtype=np.float32)
    quantiser = Quantiser(with_single_weights(proto), images, symmetric=True)
    try:
        return quantiser.quantise(quantiser.choices[0])
    finally:
        quantiser.close()


PRECISIONS: Final[dict[str, Callable[[ModelProto], ModelProto]]] = {"fp32": _single, "fp16": _half, "int8": _int8}
"""How `training build` makes the graph of each."""


def _row(name: str, precision: str, plan: BuiltPlan) -> Row:
    return Row(
        name,
        precision,
        seconds=plan.seconds,
        plan_mb=len(plan.content) / 1e6,
        layers=len(plan.layers),
        fused=len(plan.fused),
        convolutions=dict(Counter(_narrowest(layer) for layer in plan.fused if layer.kind == "correlation")),
        outputs={tensor.name: tensor.shape for tensor in plan.tensors if not tensor.is_input},
    )


def _narrowest(layer: PlanLayer) -> str:
    return next((dtype for dtype in ("Int8", "Half") if dtype in layer.dtypes), "Float")


def _table(rows: Sequence[Row], provider: str) -> Table:
    table = Table(
        "network", "precision", "s", "MB", "layers", "fused", "convolutions", "outputs", title=f"plans by {provider}"
    )
    for row in rows:
        outputs = "; ".join(
            f"{name} N{''.join(f' x {size}' for size in axes[1:])}" for name, axes in row.outputs.items()
        )
        table.add_row(
            row.network,
            row.precision,
            f"{row.seconds:.1f}",
            f"{row.plan_mb:.1f}",
            str(row.layers),
            str(row.fused),
            ", ".join(f"{count} {dtype}" for dtype, count in row.convolutions.items()),
            row.refused or outputs,
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
