"""Fitting one zone network with Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.networks.zone_table import zone_backbone
from training.callbacks import EpochLog, checkpoints
from training.datasets.zone_splits import ZoneSplit
from training.fit import Best, best_epoch, run_trainer
from training.lightning_api import Callback, EarlyStopping
from training.lightning_module import better
from training.run import LAST_CHECKPOINT, RunDirectory
from training.zone_fitted import ZoneModel, empty_network, starting_zone_network
from training.zone_module import ZoneBatches, ZoneModule, measured_on
from training.zone_settings import LAST_EPOCH, ZonePlan, ZoneTrainSettings


def fit_zones(
    settings: ZoneTrainSettings,
    plan: ZonePlan,
    split: ZoneSplit,
    run: RunDirectory,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
    *,
    draws: int = 0,
) -> Best:
    """Fit a network and give the epoch that is kept. A run that has a last checkpoint goes on from there.

    Args:
        settings: of the run.
        plan: made of settings and recipe.
        split: the images of both sides.
        run: takes log, checkpoints and TensorBoard files.
        after_epoch: is told each line of the log; what it raises ends the fitting.
        draws: another number draws other heads, another order, dropout and augmentation.

    Raises:
        ConfigurationError: there is no such device, or the weights cannot be had.
        FitError: the loss did not stay finite.
    """
    torch.manual_seed(int(np.random.SeedSequence((settings.seed, draws)).generate_state(1)[0]))
    is_resumed = (run.checkpoints / LAST_CHECKPOINT).is_file()
    network = empty_network(settings) if is_resumed else starting_zone_network(settings, plan)
    network.backbone.checkpointing = settings.gradient_checkpointing
    module = ZoneModule(settings, plan, ZoneModel(zone_backbone(settings.backbone), network), measured_on(split), draws)
    monitor = None if settings.monitor == LAST_EPOCH else settings.monitor
    callbacks: list[Callback] = [EpochLog(run, plan.epochs, monitor, after_epoch), *checkpoints(run, monitor)]
    if monitor is not None:
        patience = settings.patience or plan.epochs + 1
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=better(monitor), check_on_train_epoch_end=False)
        )
    run_trainer(settings, plan.epochs, run, module, ZoneBatches(settings, plan, split, draws), callbacks)
    return best_epoch(run, "train_loss" if monitor is None else monitor)
