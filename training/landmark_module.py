"""What Lightning runs for landmark networks: one step, one validation, the optimiser with its schedule, the batches.

As in `training.lightning_module`, everything random in an epoch is drawn from the seed and the epoch's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from models.networks.heatmap_decoding import DECODERS, spatial_softmax
from models.networks.heatmap_network import Heatmaps
from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_radiographs import LandmarkBatch, LandmarkRadiographs, placement_of
from training.datasets.landmark_splits import LandmarkSplit
from training.datasets.radiographs import InputCache, in_order, shuffled
from training.landmark_augmentation import LandmarkAugmentation
from training.landmark_fitted import LandmarkModel
from training.landmark_losses import LandmarkLoss, masked_mean
from training.landmark_settings import LandmarkPlan, LandmarkTrainSettings
from training.lightning_api import LightningDataModule, LightningModule, MeanMetric
from training.lightning_module import OPTIMIZERS, with_schedule

TRAIN: Final = "train"
VALIDATION: Final = "validation"
SIDES: Final = (TRAIN, VALIDATION)


@dataclass(frozen=True, slots=True)
class LandmarkRecord:
    """One line of ``log.jsonl``. `seconds` is wall time, `epoch` counts from 1.

    Attributes:
        lr: of the head.
        train_loss: what is fitted.
        measured_on: whose images the rest is about, without changes: `validation`, or `train` where nobody was held
            out.
        validation_loss: the same loss on them.
        validation_mre: mean radial error in a letterbox of 512 pixels.
    """

    epoch: int
    lr: float
    train_loss: float
    measured_on: str
    validation_loss: float
    validation_mre: float
    seconds: float = 0.0

    def in_words(self, epochs: int) -> str:
        """Say it in a line; `epochs` is how many there will be."""
        return (
            f"epoch {self.epoch}/{epochs}: train loss {self.train_loss:.4f}, {self.measured_on} "
            f"loss {self.validation_loss:.4f} MRE {self.validation_mre:.2f} px, {self.seconds:.0f} s"
        )


class LandmarkModule(LightningModule):
    """Fits `model`. Its `record` tells of the last validated epoch."""

    def __init__(
        self, settings: LandmarkTrainSettings, plan: LandmarkPlan, model: LandmarkModel, measured_on: str
    ) -> None:
        super().__init__()
        self._settings = settings
        self._plan = plan
        self._measured_on = measured_on
        self.model = model
        self.loss = LandmarkLoss(plan.loss, model.schema, model.network.stride, settings.sigma)  # type: ignore[arg-type]
        self.decoder = DECODERS[model.entry.decoding]
        # A loss that is not finite must be seen, not left out.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.measured_loss = MeanMetric(nan_strategy="disable")
        self.radial_error = MeanMetric(nan_strategy="disable")
        self.record: LandmarkRecord | None = None
        if settings.freeze_backbone:
            model.network.freeze(("backbone",))
        if plan.freeze:
            model.network.freeze(plan.freeze)

    def setup(self, stage: str) -> None:
        """Set the number of threads, here because this also runs in the processes of several devices."""
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)

    def forward(self, image: Tensor) -> Heatmaps:
        """Give heatmaps of ``(N, 1, H, W) float32 in [0, 1]``."""
        return self.model.heatmaps(image)

    def on_train_epoch_start(self) -> None:
        """Draw dropout of this epoch from its number."""
        stream = (self._settings.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))

    def training_step(self, batch: LandmarkBatch, batch_idx: int) -> Tensor:
        """Give the loss of one batch."""
        output = self(batch.image)
        loss: Tensor = self.loss(output, batch.points)
        if self._settings.coordinate:
            loss = loss + self._settings.coordinate * self._distance(output.heatmaps.float(), batch.points)
        self.train_loss.update(loss.detach().expand(len(batch.image)))
        return loss

    def _distance(self, heat: Tensor, points: Tensor) -> Tensor:
        """Give the mean Huber distance of the expected place under the softmax, in sigmas."""
        height, width = heat.shape[2:]
        share = spatial_softmax(heat)
        stride = self.model.network.stride
        columns, rows = (
            (torch.arange(side, device=heat.device, dtype=heat.dtype) + 0.5) * stride for side in (width, height)
        )
        expected = torch.stack((share.sum(dim=2) @ columns, share.sum(dim=3) @ rows), dim=2)
        there = torch.isfinite(points).all(dim=2)
        away = functional.smooth_l1_loss(
            expected / self._settings.sigma, points.nan_to_num(0.0) / self._settings.sigma, reduction="none"
        )
        return masked_mean(away.sum(dim=2), there)

    def validation_step(self, batch: LandmarkBatch, batch_idx: int) -> None:
        """Measure one batch."""
        output = self(batch.image)
        self.measured_loss.update(self.loss(output, batch.points).expand(len(batch.image)))
        heat = output.heatmaps.float()
        found = self.decoder(spatial_softmax(heat) if self._plan.loss == "softmax" else heat, self.model.network.stride)
        away = (found - batch.points).norm(dim=2) * batch.unit[:, None]
        there = torch.isfinite(away)
        if there.any():
            self.radial_error.update(away[there])

    def on_validation_epoch_end(self) -> None:
        """Say how the epoch went, and tell a plateau schedule, for the reason in `training.lightning_module`."""
        figures = {"validation_loss": _taken(self.measured_loss), "validation_mre": _taken(self.radial_error)}
        train_loss = _taken(self.train_loss)
        optimizer = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        lr = float(optimizer.param_groups[-1]["lr"])
        self.record = LandmarkRecord(self.current_epoch + 1, lr, train_loss, self._measured_on, **figures)
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
        """Give optimiser and schedule; backbone and head have a rate each."""
        plan, network = self._plan, self.model.network
        groups: list[dict[str, Any]] = [{"params": list(network.head_parameters()), "lr": plan.lr}]
        learning = list(network.backbone_parameters())
        if learning:
            groups.insert(0, {"params": learning, "lr": plan.backbone_lr})
        optimizer = OPTIMIZERS[plan.optimizer](groups, lr=plan.lr, weight_decay=plan.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(optimizer, plan.scheduler, steps, "validation_loss")


def _taken(metric: Any) -> float:
    value = float(metric.compute()) if metric.update_called else float("nan")
    metric.reset()
    return value


class LandmarkBatches(LightningDataModule):
    """The batches of a run.

    Args:
        settings: seed, workers, augmentation.
        plan: batch size and input.
        split: the images of both sides.
        schema: of the landmarks.
    """

    def __init__(
        self, settings: LandmarkTrainSettings, plan: LandmarkPlan, split: LandmarkSplit, schema: LandmarkSchema
    ) -> None:
        super().__init__()
        self._settings = settings
        self._plan = plan
        self._train = split.train
        self._measured = split.validation or split.train
        self._changes = LandmarkAugmentation(schema, settings.flip, settings.augmentation, settings.framing)
        both = (*self._train, *self._measured)
        self._cache = InputCache(both, plan.input_spec, settings.cache_mb * 1024**2) if settings.cache_mb else None
        spec = plan.input_spec
        self._placements = {image.path: placement_of(image.path, spec) for image in both}

    def train_dataloader(self) -> DataLoader[LandmarkBatch]:
        """Give the images as they are changed in the trainer's present epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        stream = (self._settings.seed, epoch)
        dataset = self._dataset(self._train, self._changes, stream)
        return shuffled(dataset, self._plan.batch_size, self._settings.num_workers, stream, self._settings.devices)

    def val_dataloader(self) -> DataLoader[LandmarkBatch]:
        """Give the held-out images, or all where nobody is held out."""
        return in_order(self._dataset(self._measured), self._plan.batch_size, self._settings.num_workers)

    def _dataset(
        self,
        images: Sequence[LandmarkImage],
        changes: LandmarkAugmentation | None = None,
        stream: tuple[int, ...] = (),
    ) -> LandmarkRadiographs:
        placements = [self._placements[image.path] for image in images]
        return LandmarkRadiographs(images, placements, self._plan.input_spec, changes, stream, self._cache)


def measured_on(split: LandmarkSplit) -> str:
    """Name the side that a run is measured on."""
    return VALIDATION if split.validation else TRAIN
