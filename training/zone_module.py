"""What Lightning runs for zone networks: one step, one validation, the optimiser with its schedule, the batches.

As in `training.lightning_module`, everything random in an epoch is drawn from the seed and the epoch's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from models.networks.zone_network import median_score
from models.zones import GRADED, Congestion
from training.datasets.radiographs import Batch, InputCache, in_order, shuffled
from training.datasets.zone_images import ZoneImage
from training.datasets.zone_radiographs import ChangedZoneRadiographs, ZoneRadiographs, read_wide, widened_spec
from training.datasets.zone_splits import ZoneSplit
from training.lightning_api import (
    LightningDataModule,
    LightningModule,
    MeanAbsoluteError,
    MeanMetric,
    MulticlassCohenKappa,
)
from training.lightning_module import OPTIMIZERS, with_schedule
from training.zone_augmentation import ZoneAugmentation
from training.zone_fitted import ZoneModel
from training.zone_run import TRAIN, VALIDATION
from training.zone_settings import ZonePlan, ZoneTrainSettings
from training.zone_targets import ZoneLoss, soft_targets


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """One line of ``log.jsonl``. Losses are in nats, `seconds` is wall time, `epoch` counts from 1.

    Attributes:
        lr: of the heads.
        train_loss: what is fitted.
        measured_on: whose images the rest is about, without changes: `validation`, or `train` where nobody was held
            out.
        validation_loss: weighted cross-entropy against the first reader.
        validation_kappa, validation_mae: quadratic kappa and mean absolute error over all gradable zones.
    """

    epoch: int
    lr: float
    train_loss: float
    measured_on: str
    validation_loss: float
    validation_kappa: float
    validation_mae: float
    seconds: float = 0.0

    def in_words(self, epochs: int) -> str:
        """Say it in a line; `epochs` is how many there will be."""
        return (
            f"epoch {self.epoch}/{epochs}: train loss {self.train_loss:.4f}, {self.measured_on} "
            f"loss {self.validation_loss:.4f} kappa {self.validation_kappa:.4f} MAE {self.validation_mae:.4f}, "
            f"{self.seconds:.0f} s"
        )


class ZoneModule(LightningModule):
    """Fits `model`. Its `record` tells of the last validated epoch; `draws` is as of `training.zone_fit.fit_zones`."""

    def __init__(
        self, settings: ZoneTrainSettings, plan: ZonePlan, model: ZoneModel, measured_on: str, draws: int = 0
    ) -> None:
        super().__init__()
        self._draws = draws
        self._settings = settings
        self._plan = plan
        self._measured_on = measured_on
        self.model = model
        self.loss = ZoneLoss(settings.ungradable_weight, settings.ordinal)
        self.plain_loss = ZoneLoss(settings.ungradable_weight)
        # A loss that is not finite must be seen, not left out.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.measured_loss = MeanMetric(nan_strategy="disable")
        self.kappa = MulticlassCohenKappa(len(GRADED), weights="quadratic", validate_args=False)
        self.absolute_error = MeanAbsoluteError()
        self.record: ZoneRecord | None = None
        if settings.freeze_backbone:
            model.network.backbone.requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Set the number of threads, here because this also runs in the processes of several devices."""
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)

    def forward(self, image: Tensor) -> Tensor:
        """Give ``(N, 6, 5)`` logits of ``(N, 1, H, W) float32 in [0, 1]``."""
        logits: Tensor = self.model(image)
        return logits

    def on_train_epoch_start(self) -> None:
        """Draw dropout of this epoch from its number; keep what is frozen as it is."""
        stream = (self._settings.seed, self.current_epoch, self.global_rank, self._draws)
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
        if self._settings.freeze_backbone:
            self.model.network.backbone.eval()
        elif self._settings.freeze_batch_norm:
            for norm in _batch_norms(self.model.network.backbone):
                norm.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of one batch."""
        image, targets = batch
        loss: Tensor = self.loss(self(image).float(), targets)
        self.train_loss.update(loss.detach().expand(len(image)))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch, whose targets are the first reader's."""
        image, targets = batch
        logits = self(image).float()
        self.measured_loss.update(self.plain_loss(logits, targets).expand(len(image)))
        truth = targets.argmax(dim=2)  # (N, 6)
        known = truth != Congestion.UNGRADABLE
        if known.any():
            score = median_score(logits.softmax(dim=2))[known]
            self.kappa.update(score, truth[known])
            self.absolute_error.update(score.float(), truth[known].float())

    def on_validation_epoch_end(self) -> None:
        """Say how the epoch went, and tell a plateau schedule, for the reason in `training.lightning_module`."""
        figures = {
            "validation_loss": _taken(self.measured_loss),
            "validation_kappa": _taken(self.kappa),
            "validation_mae": _taken(self.absolute_error),
        }
        train_loss = _taken(self.train_loss)
        optimizer = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        lr = float(optimizer.param_groups[-1]["lr"])
        self.record = ZoneRecord(self.current_epoch + 1, lr, train_loss, self._measured_on, **figures)
        self.log_dict(figures, logger=False, sync_dist=True)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(figures["validation_loss"])
        if self.logger is not None:
            curves = {name.replace("validation_", f"{self._measured_on}/"): value for name, value in figures.items()}
            self.logger.log_metrics({**curves, "loss/train": train_loss, "lr": lr}, step=self.current_epoch + 1)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule, except the one that `on_validation_epoch_end` steps."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_optimizers(self) -> Any:
        """Give optimiser and schedule; backbone and heads have a rate each."""
        plan, network = self._plan, self.model.network
        groups: list[dict[str, Any]] = [{"params": list(network.heads.parameters()), "lr": plan.lr}]
        learning = [parameter for parameter in network.backbone.parameters() if parameter.requires_grad]
        if learning:
            groups.insert(0, {"params": learning, "lr": plan.backbone_lr})
        optimizer = OPTIMIZERS[plan.optimizer](groups, lr=plan.lr, weight_decay=plan.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(optimizer, plan.scheduler, steps, "validation_loss")


def _batch_norms(backbone: nn.Module) -> list[_BatchNorm]:
    return [module for module in backbone.modules() if isinstance(module, _BatchNorm)]


def _taken(metric: Any) -> float:
    value = float(metric.compute()) if metric.update_called else float("nan")
    metric.reset()
    return value


class ZoneBatches(LightningDataModule):
    """The batches of a run.

    Args:
        settings: seed, workers, flip, targets.
        plan: batch size and input.
        split: the images of both sides.
        draws: as of `training.zone_fit.fit_zones`.
    """

    def __init__(self, settings: ZoneTrainSettings, plan: ZonePlan, split: ZoneSplit, draws: int = 0) -> None:
        super().__init__()
        self._draws = draws
        self._settings = settings
        self._plan = plan
        self._train = split.train
        self._measured = split.validation or split.train
        self._wide, self._plain = _caches(settings, plan, self._train, self._measured)
        self._targets = _targets(self._train, settings)
        self._truth = torch.stack([soft_targets(image.readers[:1]) for image in self._measured])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the images as they are changed in the trainer's present epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        settings, stream = self._settings, (self._settings.seed, epoch, self._draws)
        changes = ZoneAugmentation(flip=settings.flip)
        dataset = ChangedZoneRadiographs(self._train, self._targets, self._plan.input_spec, changes, stream, self._wide)
        return shuffled(dataset, self._plan.batch_size, settings.num_workers, stream, settings.devices)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Give the held-out images, or all where nobody is held out, with the first reader's grades."""
        dataset = ZoneRadiographs(self._measured, self._truth, self._plan.input_spec, self._plain)
        return in_order(dataset, self._plan.batch_size, self._settings.num_workers)


def measured_on(split: ZoneSplit) -> str:
    """Name the side that a run is measured on."""
    return VALIDATION if split.validation else TRAIN


def _targets(images: Sequence[ZoneImage], settings: ZoneTrainSettings) -> Tensor:
    each = [soft_targets(image.readers, settings.spread, settings.first_reader) for image in images]
    return torch.stack(each)


def _caches(
    settings: ZoneTrainSettings, plan: ZonePlan, train: Sequence[ZoneImage], measured: Sequence[ZoneImage]
) -> tuple[InputCache | None, InputCache | None]:
    """Give the memory for widened and for plain inputs, half of what is allowed for each."""
    if not settings.cache_mb:
        return None, None
    half = settings.cache_mb * 1024**2 // 2
    wide = InputCache(train, widened_spec(plan.input_spec), half, read_wide)
    return wide, InputCache(measured, plan.input_spec, half)
