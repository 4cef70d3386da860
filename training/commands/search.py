"""``python -m training search``."""

from __future__ import annotations

import argparse
from typing import Final, cast

from models.errors import ConfigurationError
from models.tasks import Task
from training.commands.command import Command
from training.commands.train import add_settings, chosen_settings, given_settings
from training.settings import RunSettings
from training.zone_settings import ZoneTrainSettings

_EPILOG: Final = """example:
  python -m training search --data-dir brixia --output-dir search-1 --trials 30 --epochs 10 --kfold 3 \\
      --init-from runs/pneumonia-1
  python -m training train --task csi --data-dir brixia --from search-1/search.json --init-from runs/pneumonia-1 \\
      --output-dir runs/csi-1

Searches the settings of task csi with Optuna: learning rates of heads and backbone (1e-5 to 1e-2), batch size,
optimiser, weight decay, dropout (0.1 to 0.7) and, with --backbones, the backbone. What else is given is held fixed. A
trial is as good as the quadratic kappa on who is held out, over the folds the mean; on a small set take folds, or the
luckiest trial wins. The same command goes on with an interrupted search; --trials counts all of them.

The best figure of many trials is too good: measure the settings anew, with another --seed."""

_SEARCHED: Final = frozenset({"lr", "backbone_lr", "batch_size", "optimizer", "weight_decay", "dropout", "backbone"})


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=30, metavar="N", help="how many in all; default 30")
    parser.add_argument("--timeout", type=float, metavar="S", help="begin no trial after so many seconds")
    parser.add_argument(
        "--backbones", default="efficientnet_lite0", metavar="NAMES", help="to choose from, separated by commas"
    )
    kinds: tuple[tuple[str, type[RunSettings]], ...] = (
        ("for every task", RunSettings),
        ("for task csi", ZoneTrainSettings),
    )
    add_settings(parser, kinds, without=_SEARCHED)


def _run(arguments: argparse.Namespace) -> None:
    backbones = tuple(name.strip() for name in arguments.backbones.split(",") if name.strip())
    if arguments.trials < 1 or not backbones:
        raise ConfigurationError("--trials: at least 1, and --backbones: at least one")
    settings = cast(ZoneTrainSettings, chosen_settings({"task": Task.CSI, **given_settings(arguments)}))
    from training.search import SearchRequest, search

    print(search(SearchRequest(settings, backbones, arguments.trials, arguments.timeout)))


SEARCH: Final = Command("search", "search the settings of a csi network", _EPILOG, _add_options, _run)
