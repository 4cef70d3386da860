"""Fitting one network with Lightning, and giving back the weights of the best epoch, as they were validated."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.errors import ConfigurationError, RadstreamError
from models.networks.table import ClassificationNetwork, NetworkEntry
from training.callbacks import EpochBar, EpochLog, Pictures, RunningAverage, checkpoints
from training.datasets.labelled import LabelledImage
from training.datasets.radiographs import InputCache
from training.datasets.splits import Split
from training.fitted import Model, Weights
from training.lightning_api import (
    Callback,
    EarlyStopping,
    LightningDataModule,
    LightningModule,
    SpawnedDevices,
    TensorBoardLogger,
    Trainer,
)
from training.lightning_module import Batches, ClassificationModule, better
from training.run import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    RunDirectory,
    load_weights,
    read_checkpoint,
    weights_of_checkpoint,
)
from training.settings import Plan, RunSettings, TrainSettings

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_PRECISIONS: dict[str, Precision] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class FitError(RadstreamError):
    """Fitting came to nothing; the message says what to try."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch, from 1, and its weights: averaged where averaging is on."""

    epoch: int
    weights: Weights


def fit(
    settings: TrainSettings,
    plan: Plan,
    entry: NetworkEntry,
    split: Split,
    run: RunDirectory,
    *,
    classes: int,
    cache: InputCache | None = None,
) -> Best:
    """Fit a network and give its best epoch. A run that has a last checkpoint goes on from there.

    Args:
        settings: of the run.
        plan: made of settings and recipe.
        entry: of the network.
        split: the images of both sides.
        run: takes log, checkpoints and TensorBoard files.
        classes: number of logits.
        cache: of the images of both sides.

    Raises:
        ConfigurationError: there is no such device.
        FitError: the loss did not stay finite.
    """
    torch.manual_seed(settings.seed)
    is_resumed = (run.checkpoints / LAST_CHECKPOINT).is_file()
    network = entry.build(classes, False) if is_resumed else starting_network(settings, plan, entry, classes)
    network.backbone.checkpointing = settings.gradient_checkpointing
    weights = class_weights(split.train, classes) if plan.class_weights else None
    module = ClassificationModule(settings, plan, Model(entry, network), weights)
    batches = Batches(settings, plan, split, cache)
    callbacks = [
        EpochLog(run, plan.epochs, settings.monitor),
        Pictures(batches),
        EarlyStopping(
            settings.monitor,
            patience=settings.patience or plan.epochs + 1,  # without patience it still stops at NaN
            mode=better(settings.monitor),
            check_on_train_epoch_end=False,
        ),
        *checkpoints(run, settings.monitor),
    ]
    run_trainer(settings, plan.epochs, run, module, batches, callbacks)
    return best_epoch(run, settings.monitor)


def run_trainer(
    settings: RunSettings,
    epochs: int,
    run: RunDirectory,
    module: LightningModule,
    batches: LightningDataModule,
    callbacks: Sequence[Callback],
) -> None:
    """Run Lightning, from the last checkpoint where there is one.

    Args:
        settings: of the run.
        epochs: how many.
        run: takes log, checkpoints and TensorBoard files.
        module: what is fitted.
        batches: of both sides.
        callbacks: beside the bar and the average of the weights.

    Raises:
        ConfigurationError: there is no such device.
    """
    last = run.checkpoints / LAST_CHECKPOINT
    is_resumed = last.is_file()
    if is_resumed:
        run.shorten_log(int(read_checkpoint(last)["epoch"]) + 1)
    averaging = [RunningAverage(settings.ema)] if settings.ema else []
    interrupt = signal.getsignal(signal.SIGINT)
    with _quiet():
        trainer = Trainer(
            accelerator=choose_accelerator(settings),
            devices=settings.devices,
            strategy=SpawnedDevices() if settings.devices > 1 else "auto",
            precision=_PRECISIONS[settings.precision],
            max_epochs=epochs,
            gradient_clip_val=settings.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,  # what is drawn for an image depends on the epoch
            callbacks=[*averaging, EpochBar(epochs), *callbacks],
            logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=last if is_resumed else None, weights_only=True)
        except SystemExit as error:  # into which Lightning makes a KeyboardInterrupt, and is then deaf to others
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from error


def choose_accelerator(settings: RunSettings) -> str:
    """Say what computes: ``gpu`` or ``cpu``.

    Raises:
        ConfigurationError: it is not there, or not in that number, or cannot compute in that precision.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = settings.accelerator
    if chosen == "auto":
        chosen = "gpu" if gpus else "cpu"
    if chosen == "gpu" and gpus < settings.devices:
        raise ConfigurationError(f"{settings.devices} GPUs are asked for, {gpus} are there; see --accelerator")
    if chosen == "cpu" and settings.precision == "16":
        raise ConfigurationError("precision 16 needs a GPU; on a CPU take 32")
    return chosen


def starting_network(settings: TrainSettings, plan: Plan, entry: NetworkEntry, classes: int) -> ClassificationNetwork:
    """Build the network with the weights that a new run starts from.

    Raises:
        ConfigurationError: they cannot be had, or are of another network.
    """
    if settings.init_from is None:
        return entry.build(classes, plan.pretrained, settings.weights)
    network = entry.build(classes, False)
    load_weights(network, RunDirectory(settings.init_from).read_weights(), settings.init_from)
    return network


def class_weights(images: tuple[LabelledImage, ...], classes: int) -> Tensor:
    """Give inverse-frequency weights ``(classes)`` whose mean over the images is 1."""
    counts = np.bincount([image.label for image in images], minlength=classes)
    return torch.tensor(len(images) / (classes * counts), dtype=torch.float32)


def best_epoch(run: RunDirectory, watched: str) -> Best:
    """Give the best epoch's weights.

    Args:
        run: whose fitting has ended.
        watched: figure of the log that must have stayed finite.

    Raises:
        FitError: it did not.
    """
    log = run.read_log()
    if not log or not all(np.isfinite(line[watched]) for line in log):
        raise FitError(f"{watched} is not finite any more; try a lower --lr or --precision 32")
    path = run.checkpoints / BEST_CHECKPOINT
    found = read_checkpoint(path)
    # What it takes to go on stays in the last checkpoint; of the best one the weights are a fourth.
    torch.save({name: found[name] for name in ("state_dict", "epoch", "global_step")}, path)
    return Best(int(found["epoch"]) + 1, weights_of_checkpoint(found))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice and advertisement from our users; errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Number of workers, few batches, layers in eval mode: all as we want them.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
