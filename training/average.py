"""`python -m training average`: one network whose weights are the weighted mean of those of several runs.

Runs that started from the same weights end in one basin of the loss, and their mean is often more robust to another
hospital's images than each of them, at the cost of one (Wortsman et al., Model soups, ICML 2022). Whether it is so is
measured here, on the persons that all of them held out. Running statistics of batch normalisation are averaged too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from models.errors import ConfigurationError
from models.networks.table import network_entry
from training.classes import classes_of
from training.fitted import Model, Weights
from training.measure import calibrate_and_measure
from training.progress import CONSOLE
from training.run import AVERAGE_OF, RunDirectory, load_weights
from training.settings import TrainSettings, plan_of


@dataclass(frozen=True, slots=True)
class AverageRequest:
    """What is asked for.

    Attributes:
        runs: run directories of one network, or checkpoints in them, whose data was split alike.
        shares: of each run, positive; None means equal ones. They are scaled to a sum of 1.
        output_dir: the run directory to make.
        image_size: side of the input, pixels; None means the first run's.
        data_dir: where the validation images lie now; None means where the first run read them.
        threads: of the arithmetic; None means all cores.
    """

    runs: tuple[Path, ...]
    shares: tuple[float, ...] | None
    output_dir: Path
    image_size: int | None = None
    data_dir: Path | None = None
    threads: int | None = None


def average(request: AverageRequest) -> RunDirectory:
    """Average the weights, calibrate and measure the result, and write it as a run directory.

    Raises:
        ConfigurationError: the runs do not fit together, or their images are not there.
    """
    members = [RunDirectory(path) for path in request.runs]
    shares = _shares(request)
    settings = _common_settings(members, request)
    entry, labels = network_entry(settings.network), classes_of(settings.task)
    images = members[0].read_images("validation", settings.data_dir)
    network = entry.build(len(labels), False)
    weights = mean_of_weights([member.read_weights() for member in members], shares, request.runs)
    load_weights(network, weights, members[0].path)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    run = RunDirectory.create(request.output_dir)
    made_of = [
        {"run": str(member.path.absolute()), "checkpoint": _checkpoint(path), "weight": share}
        for path, member, share in zip(request.runs, members, shares, strict=True)
    ]
    run.write_settings(settings, **{AVERAGE_OF: made_of})
    run.write_json("data.json", members[0].read_json("data.json"))
    run.write_weights(weights)
    calibrate_and_measure(run, settings, plan_of(settings, entry), Model(entry, network), images, None)
    CONSOLE.print(f"run directory: {run.path}")
    return run


def mean_of_weights(weights: Sequence[Weights], shares: Sequence[float], origins: Sequence[Path]) -> Weights:
    """Give the weighted mean of state dicts; whole numbers, which only count, are the first one's.

    Raises:
        ConfigurationError: they are not of one network.
    """
    first = {name: tensor.shape for name, tensor in weights[0].items()}
    for other, origin in zip(weights, origins, strict=True):
        if {name: tensor.shape for name, tensor in other.items()} != first:
            raise ConfigurationError(f"{origin}: has the weights of another network than {origins[0]}")
    mean = dict(weights[0])
    for name, tensor in weights[0].items():
        if tensor.is_floating_point():
            mean[name] = torch.stack([share * each[name] for share, each in zip(shares, weights, strict=True)]).sum(0)
    return mean


def _checkpoint(path: Path) -> str | None:
    """Name the checkpoint that is averaged; None is the run's best epoch."""
    return path.name if path.suffix == ".ckpt" else None


def _shares(request: AverageRequest) -> list[float]:
    if len(request.runs) < 2:
        raise ConfigurationError("an average takes two runs or more; give --run for each")
    shares = request.shares or (1.0,) * len(request.runs)
    if len(shares) != len(request.runs):
        raise ConfigurationError(f"{len(request.runs)} runs, but {len(shares)} shares")
    if not all(math.isfinite(share) and share > 0 for share in shares):
        raise ConfigurationError("shares must be above 0")
    return [share / sum(shares) for share in shares]


def _common_settings(members: Sequence[RunDirectory], request: AverageRequest) -> TrainSettings:
    """Give the first run's settings, as those of the average.

    Raises:
        ConfigurationError: another run is of another task or network, its images were split otherwise, or the size of
            the input or the number of threads is none.
    """
    first, data = members[0].read_settings(), members[0].read_json("data.json")
    for member in members[1:]:
        settings = member.read_settings()
        for name in ("task", "network"):
            if getattr(settings, name) != getattr(first, name):
                raise ConfigurationError(f"{member.path}: is of another {name} than {members[0].path}")
        if member.read_json("data.json")["images"] != data["images"]:
            raise ConfigurationError(
                f"{member.path}: held out other images than {members[0].path}; no one is left to measure the average on"
            )
    changed = {
        "output_dir": request.output_dir,
        "data_dir": request.data_dir or first.data_dir,
        "image_size": first.image_size if request.image_size is None else request.image_size,
        "threads": request.threads,
    }
    try:
        return TrainSettings(**{**first.model_dump(), **changed})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
