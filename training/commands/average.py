"""``python -m training average``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from training.commands.command import Command

_EPILOG: Final = """example:
  python -m training train --data-dir chest_xray --output-dir runs/a --seed 1
  python -m training train --data-dir chest_xray --output-dir runs/b --seed 1 --init-from runs/a --flip 0.5
  python -m training average --run runs/a --run runs/b --output-dir runs/mean

Averages the weights of runs of one network which started from the same weights and held out the same persons, and
measures the result on those persons. What is written is a run directory: `evaluate --checkpoint`, `compare` and
`export` take it like any other. One network is served, at the cost of one."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        dest="runs",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="run directory, or one of its .ckpt files; give each",
    )
    parser.add_argument(
        "--share", dest="shares", type=float, action="append", metavar="X", help="of each run, in their order; equal"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="the run directory to make")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the square input; default the first run's"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the images lie now, if moved")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the arithmetic; default all cores")


def _run(arguments: argparse.Namespace) -> None:
    from training.average import AverageRequest, average

    shares = tuple(arguments.shares) if arguments.shares else None
    request = AverageRequest(
        tuple(arguments.runs),
        shares,
        arguments.output_dir,
        arguments.image_size,
        arguments.data_dir,
        arguments.threads,
    )
    print(average(request).path)


AVERAGE: Final = Command("average", "average the weights of several runs", _EPILOG, _add_options, _run)
