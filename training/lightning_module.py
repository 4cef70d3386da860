"""What Lightning runs: one step, one validation, the optimiser with its schedule, and the batches of every epoch.

Two validation splits are measured after each epoch, plain and shifted (`training.loaders.VIEWS`). Everything random
in an epoch is drawn from the seed and the epoch's number, so that a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from training.classes import POSITIVE
from training.datasets.radiographs import Batch, InputCache
from training.datasets.splits import Split
from training.fitted import Model
from training.lightning_api import BinaryAccuracy, BinaryAUROC, LightningDataModule, LightningModule, MeanMetric, Metric
from training.loaders import training_loader, training_set, validation_loader
from training.settings import Plan, TrainSettings

_WARM_UP: Final = 0.15  # part of the one-cycle schedule in which the learning rate rises
_PLATEAU_FACTOR: Final = 0.5
_PLATEAU_PATIENCE: Final = 5  # epochs; NETWORKS: ReduceLROnPlateau(0.5, 5)
_VIEW_NAMES: Final = ("validation", "shifted")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``log.jsonl``. Losses are in nats, `seconds` is wall time, `epoch` counts from 1.

    Validation losses are plain cross-entropies, whatever loss is fitted; `train_loss` is what is fitted.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    validation_roc_auc: float
    shifted_loss: float
    shifted_accuracy: float
    shifted_roc_auc: float
    seconds: float = 0.0

    def in_words(self, epochs: int) -> str:
        """Say it in a line; `epochs` is how many there will be."""
        return (
            f"epoch {self.epoch}/{epochs}: train loss {self.train_loss:.4f}, "
            f"validation loss {self.validation_loss:.4f} AUC {self.validation_roc_auc:.4f}, "
            f"shifted loss {self.shifted_loss:.4f} AUC {self.shifted_roc_auc:.4f}, {self.seconds:.0f} s"
        )


class Loss(nn.Module):
    """Cross-entropy over both logits, or binary cross-entropy of each by itself against one-hot targets.

    Args:
        kind: ``cross-entropy`` or ``bce``.
        class_weights: ``(classes)`` float32, or None for equal ones.
        smoothing: part of each target that is spread over all classes.
    """

    def __init__(self, kind: str, class_weights: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self._kind = kind
        self._smoothing = smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Give the weighted mean over ``logits (N, C)`` and ``label (N) int64``."""
        if self._kind == "cross-entropy":
            return functional.cross_entropy(logits, label, self.class_weights, label_smoothing=self._smoothing)
        classes = logits.shape[1]
        target = functional.one_hot(label, classes).to(logits.dtype) * (1 - self._smoothing) + self._smoothing / classes
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)  # (N)
        if self.class_weights is None:
            return each.mean()
        weight = self.class_weights[label]
        return (each * weight).sum() / weight.sum()


class ClassificationModule(LightningModule):
    """Fits `model`. Its `record` tells of the last validated epoch."""

    def __init__(self, settings: TrainSettings, plan: Plan, model: Model, class_weights: Tensor | None) -> None:
        super().__init__()
        self._settings = settings
        self._plan = plan
        self.model = model
        self.loss = Loss(settings.loss, class_weights, plan.label_smoothing)
        self.train_metrics = _metrics()
        self.view_metrics = nn.ModuleList(_metrics(roc_auc=BinaryAUROC(validate_args=False)) for _ in _VIEW_NAMES)
        self.record: EpochRecord | None = None
        if settings.freeze_backbone:
            model.network.backbone.requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Set the number of threads, here because this also runs in the processes of several devices."""
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)

    def forward(self, image: Tensor) -> Tensor:
        """Give ``(N, classes)`` logits of ``(N, 1, H, W) float32 in [0, 1]``."""
        logits: Tensor = self.model(image)
        return logits

    def on_train_epoch_start(self) -> None:
        """Draw dropout and mixing of this epoch from its number; keep a frozen backbone's batch-norm as it is."""
        stream = (self._settings.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
        if self._settings.freeze_backbone:
            self.model.network.backbone.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of one batch; with mixup, of its images blended pair by pair (Zhang et al. 2018)."""
        image, label = batch
        if self._settings.mixup > 0:
            loss, logits, label = self._mixed(image, label)
        else:
            logits = self(image)
            loss = self.loss(logits.float(), label)
        _update(self.train_metrics, loss.detach(), logits.detach(), label)
        return loss

    def _mixed(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = torch.tensor(self._settings.mixup)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(image), device=image.device)
        logits = self(share * image + (1 - share) * image[order])
        single = logits.float()
        loss = share * self.loss(single, label) + (1 - share) * self.loss(single, label[order])
        return loss, logits, label if share >= 0.5 else label[order]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure one batch of one view."""
        image, label = batch
        logits = self(image).float()
        metrics = cast(nn.ModuleDict, self.view_metrics[dataloader_idx])
        _update(metrics, functional.cross_entropy(logits, label), logits, label)

    def on_validation_epoch_end(self) -> None:
        """Say how the epoch went, and tell a plateau schedule.

        Lightning steps that schedule after its checkpoints are written, and a resumed run would miss the step.
        """
        figures = {"train": _compute(self.train_metrics)}
        figures |= {name: _compute(metrics) for name, metrics in zip(_VIEW_NAMES, self.view_metrics, strict=True)}
        flat = {f"{split}_{name}": value for split, values in figures.items() for name, value in values.items()}
        optimizer = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        lr = float(optimizer.param_groups[0]["lr"])
        self.record = EpochRecord(epoch=self.current_epoch + 1, lr=lr, **flat)
        self.log_dict(flat, logger=False, sync_dist=True)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(flat[self._settings.monitor])
        if self.logger is not None:
            grouped = {f"{name}/{split}": value for split, values in figures.items() for name, value in values.items()}
            self.logger.log_metrics({**grouped, "lr": lr}, step=self.current_epoch + 1)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule, except the one that `on_validation_epoch_end` steps."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_optimizers(self) -> Any:
        """Give optimiser and schedule; schedules but the plateau's move with every step."""
        plan = self._plan
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS[plan.optimizer](parameters, lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        return with_schedule(optimizer, plan.scheduler, steps, self._settings.monitor)


OPTIMIZERS: Final[dict[str, type[Adam | AdamW]]] = {"adam": Adam, "adamw": AdamW}


def with_schedule(optimizer: Optimizer, name: str, steps: int, monitor: str) -> Any:
    """Give what Lightning wants of an optimiser and the schedule of this name.

    Args:
        optimizer: whose groups have their peak rates.
        name: ``one_cycle``, ``cosine``, ``plateau`` or ``none``.
        steps: of the whole run.
        monitor: what a plateau is a plateau of.
    """
    steps = max(2, steps)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    if name == "one_cycle":
        one_cycle = OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=_WARM_UP)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": one_cycle, "interval": "step"}}
    if name == "cosine":
        cosine = CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
    if name == "plateau":
        plateau = ReduceLROnPlateau(optimizer, mode=better(monitor), factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": monitor}}
    return optimizer


def better(monitor: str) -> Literal["min", "max"]:
    """Say which way a monitored figure improves."""
    return "min" if monitor.endswith(("loss", "mre")) else "max"


def _metrics(**more: Metric) -> nn.ModuleDict:
    # A loss that is not finite must be seen, not left out; and our own labels need no checking at every step.
    loss, accuracy = MeanMetric(nan_strategy="disable"), BinaryAccuracy(validate_args=False)
    return nn.ModuleDict({"loss": loss, "accuracy": accuracy, **more})


def _update(metrics: nn.ModuleDict, loss: Tensor, logits: Tensor, label: Tensor) -> None:
    margin = (logits[:, POSITIVE] - logits[:, 1 - POSITIVE]).float()
    for name, metric in metrics.items():
        if name == "loss":
            # Once per image: torchmetrics 1.9 drops the weight of a mean that takes NaN as it is.
            cast(Metric, metric).update(loss.expand(len(label)))
        else:
            cast(Metric, metric).update(margin.sigmoid(), label)


def _compute(metrics: nn.Module) -> dict[str, float]:
    values = {}
    for name, metric in metrics.named_children():
        values[name] = float(cast(Metric, metric).compute())
        cast(Metric, metric).reset()
    return values


class Batches(LightningDataModule):
    """The batches of a run.

    Args:
        settings: seed, workers, flip.
        plan: batch size and input.
        split: the images of both sides.
        cache: shared by all epochs.
    """

    def __init__(self, settings: TrainSettings, plan: Plan, split: Split, cache: InputCache | None) -> None:
        super().__init__()
        self._settings = settings
        self._plan = plan
        self._split = split
        self._cache = cache

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the images as they are changed in the trainer's present epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        seed, plan = self._settings.seed, self._plan
        dataset = training_set(
            self._split.train, plan.input_spec, epoch=epoch, seed=seed, flip=self._settings.flip, cache=self._cache
        )
        return training_loader(
            dataset, plan.batch_size, self._settings.num_workers, epoch=epoch, seed=seed, devices=self._settings.devices
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Give both views of the validation split."""
        return [
            validation_loader(
                self._split.validation,
                self._plan.input_spec,
                shifted=shifted,
                seed=self._settings.seed,
                batch_size=self._plan.batch_size,
                workers=self._settings.num_workers,
                cache=self._cache,
            )
            for shifted in (False, True)
        ]
