"""Fitting one landmark network with Lightning."""

from __future__ import annotations

import torch

from models.networks.heatmap_table import heatmap_entry
from models.spine.schemas import LandmarkSchema
from training.callbacks import EpochLog, checkpoint, checkpoints
from training.datasets.landmark_splits import LandmarkSplit
from training.fit import Best, best_epoch, run_trainer
from training.landmark_fitted import LandmarkModel, empty_landmark_network, starting_landmark_network
from training.landmark_module import LandmarkBatches, LandmarkModule, measured_on
from training.landmark_refinement import RefinementModule
from training.landmark_settings import LAST_EPOCH, LandmarkPlan, LandmarkTrainSettings
from training.lightning_api import Callback, EarlyStopping
from training.lightning_module import better
from training.run import LAST_CHECKPOINT, RunDirectory

CHECKPOINTS = {"best_loss.ckpt": "validation_loss", "best_mre.ckpt": "validation_mre"}
"""Kept beside the one that the run's weights are taken from, where somebody is held out, by what is least in them."""


def fit_landmarks(
    settings: LandmarkTrainSettings,
    plan: LandmarkPlan,
    split: LandmarkSplit,
    schema: LandmarkSchema,
    run: RunDirectory,
) -> Best:
    """Fit a network and give the epoch that is kept. A run that has a last checkpoint goes on from there.

    Args:
        settings: of the run.
        plan: made of settings and recipe.
        split: the images of both sides.
        schema: of their landmarks.
        run: takes log, checkpoints and TensorBoard files.

    Raises:
        ConfigurationError: there is no such device, the weights cannot be had, or nothing is called as what to freeze.
        FitError: the loss did not stay finite.
    """
    torch.manual_seed(settings.seed)
    entry = heatmap_entry(settings.network)
    is_resumed = (run.checkpoints / LAST_CHECKPOINT).is_file()
    network = (
        empty_landmark_network(settings, schema) if is_resumed else starting_landmark_network(settings, plan, schema)
    )
    model = LandmarkModel(entry, schema, network)
    kind = RefinementModule if settings.refine else LandmarkModule
    module = kind(settings, plan, model, measured_on(split))
    monitor = None if settings.monitor == LAST_EPOCH else settings.monitor
    callbacks: list[Callback] = [EpochLog(run, plan.epochs, monitor), *checkpoints(run, monitor)]
    if split.validation:
        callbacks += [checkpoint(run, name, watched) for name, watched in CHECKPOINTS.items()]
    if monitor is not None:
        patience = settings.patience or plan.epochs + 1
        callbacks.append(
            EarlyStopping(monitor, patience=patience, mode=better(monitor), check_on_train_epoch_end=False)
        )
    run_trainer(settings, plan.epochs, run, module, LandmarkBatches(settings, plan, split, schema), callbacks)
    return best_epoch(run, "train_loss" if monitor is None else monitor)
