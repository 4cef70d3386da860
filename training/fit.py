"""Fitting one network: an epoch one can read, a running average of its weights, and the choice of the best epoch.

The average of the weights, not the last step's, is validated and kept. Epochs are chosen on the *perturbed* validation
split: the same held-out persons with the changes of `training.augmentation` drawn once for all. The plain split comes
from the same hospital and is soon answered without an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from models.networks.table import NetworkEntry, Normalise, network_entry
from training.augmentation import Augmentation
from training.datasets.class_folders import LabelledImage, Split
from training.datasets.radiographs import Batch, Radiographs, in_order, shuffled
from training.evaluation import Floats, Labels, log_loss, positive_probability, roc_auc
from training.settings import TrainSettings

Progress = Callable[[DataLoader[Batch], str], Iterator[Batch]]
"""Wraps a loader to show how far it is; the text says what it is for."""

Weights = dict[str, Tensor]
"""A state dict, on the CPU."""

_AVERAGE_DECAY = 0.99
_GRADIENT_CLIP = 5.0
_PERTURBED_STREAM = 2**31  # an epoch number that training never reaches


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``log.jsonl``. Losses are in nats; `seconds` is the wall time of the whole epoch."""

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float
    validation_roc_auc: float
    perturbed_loss: float
    perturbed_roc_auc: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best epoch's weights and the story of all."""

    weights: Weights
    best_epoch: int
    epochs: tuple[EpochRecord, ...]


class Model(nn.Module):
    """Normalisation, then the network: what is fitted. Takes ``(N, 1, H, W) float32 in [0, 1]``, gives logits."""

    def __init__(self, entry: NetworkEntry, network: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise(entry.mean, entry.std)
        self.network = network
        # On a CPU channels-last more than halves the time of networks of small convolutions.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no such overload

    def forward(self, image: Tensor) -> Tensor:
        """Give ``(N, classes)`` logits."""
        logits: Tensor = self.network(self.normalise(image.contiguous(memory_format=torch.channels_last)))
        return logits


def fit(
    settings: TrainSettings,
    split: Split,
    classes: int,
    *,
    progress: Progress,
    report: Callable[[EpochRecord, Weights | None], None],
) -> Fitted:
    """Fit a network and give the epoch of the least loss on the perturbed validation split.

    Args:
        report: called after each epoch, with its weights when it is the best so far.
    """
    torch.manual_seed(settings.seed)
    entry = network_entry(settings.network)
    model = Model(entry, entry.build(classes, settings.pretrained))
    average = AveragedModel(model, avg_fn=_move_average, use_buffers=True)
    averaged = cast(Model, average.module)
    trainer = _Trainer(settings, model, average, class_weights(split.train, classes), _steps(settings, split))
    records: list[EpochRecord] = []
    best: Weights = {}
    best_epoch = 0
    for epoch in range(1, settings.epochs + 1):
        started = time.monotonic()
        loader = _training_loader(settings, split, epoch)
        train_loss = trainer.train_one_epoch(progress(loader, f"epoch {epoch}/{settings.epochs}"))
        loss, auc = _measure(settings, split, averaged, progress, perturbed=False)
        perturbed_loss, perturbed_auc = _measure(settings, split, averaged, progress, perturbed=True)
        seconds = round(time.monotonic() - started, 1)
        record = EpochRecord(epoch, trainer.lr, train_loss, loss, auc, perturbed_loss, perturbed_auc, seconds)
        is_best = all(perturbed_loss < earlier.perturbed_loss for earlier in records)
        records.append(record)
        if is_best:
            best_epoch = epoch
            best = {name: tensor.detach().clone() for name, tensor in averaged.network.state_dict().items()}
        report(record, best if is_best else None)
    return Fitted(best, best_epoch, tuple(records))


def _training_loader(settings: TrainSettings, split: Split, epoch: int) -> DataLoader[Batch]:
    stream = (settings.seed, epoch)
    dataset = Radiographs(split.train, settings.input_spec, Augmentation(flip=settings.flip), stream)
    return shuffled(dataset, settings.batch_size, settings.num_workers, stream)


def _steps(settings: TrainSettings, split: Split) -> int:
    return settings.epochs * -(-len(split.train) // settings.batch_size)


def class_weights(images: tuple[LabelledImage, ...], classes: int) -> Tensor:
    """Give inverse-frequency weights ``(classes)`` whose mean over the images is 1."""
    counts = np.bincount([image.label for image in images], minlength=classes)
    return torch.tensor(len(images) / (classes * counts), dtype=torch.float32)


def _move_average(average: Tensor, current: Tensor, steps: int | Tensor) -> Tensor:
    # The average begins short, or in a small run it would never forget the weights before the first step.
    decay = min(_AVERAGE_DECAY, (1 + int(steps)) / (4 + int(steps)))
    return decay * average + (1 - decay) * current


class _Trainer:
    """Optimiser, schedule and loss of one run."""

    def __init__(
        self, settings: TrainSettings, model: Model, average: AveragedModel, weights: Tensor, steps: int
    ) -> None:
        self._model = model
        self._average = average
        self._loss = nn.CrossEntropyLoss(weight=weights, label_smoothing=settings.label_smoothing)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self._schedule = OneCycleLR(self._optimizer, max_lr=settings.lr, total_steps=max(steps, 2), pct_start=0.15)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train_one_epoch(self, batches: Iterable[Batch]) -> float:
        """Take one step per batch; give the mean loss."""
        self._model.train()
        total, count = 0.0, 0
        for image, label in batches:
            loss = self._loss(self._model(image), label)
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), _GRADIENT_CLIP)
            self._optimizer.step()
            self._schedule.step()
            self._average.update_parameters(self._model)
            total += loss.item() * len(label)
            count += len(label)
        return total / max(count, 1)


def _measure(
    settings: TrainSettings, split: Split, model: Model, progress: Progress, *, perturbed: bool
) -> tuple[float, float]:
    loader = validation_loader(settings, split.validation, perturbed=perturbed)
    label, logits = predict(model, progress(loader, "validation, perturbed" if perturbed else "validation"))
    probability = positive_probability(logits, 1.0)
    return log_loss(label, probability), roc_auc(label, probability)


def validation_loader(
    settings: TrainSettings, images: tuple[LabelledImage, ...], *, perturbed: bool
) -> DataLoader[Batch]:
    """Give the validation images in order, as they are or with changes that depend on the seed alone."""
    augmentation = Augmentation() if perturbed else None
    dataset = Radiographs(images, settings.input_spec, augmentation, (settings.seed, _PERTURBED_STREAM))
    return in_order(dataset, settings.batch_size, settings.num_workers)


def predict(model: nn.Module, batches: Iterable[Batch]) -> tuple[Labels, Floats]:
    """Give labels ``(N)`` and logits ``(N, classes)`` of every batch."""
    model.eval()
    labels, logits = [], []
    with torch.inference_mode():
        for image, label in batches:
            logits.append(model(image).double().numpy())
            labels.append(label.numpy())
    return np.concatenate(labels), np.concatenate(logits)


def record_as_dict(record: EpochRecord) -> dict[str, float]:
    """Give a record's JSON object, rounded to what is meaningful."""
    return {name: round(value, 6) for name, value in asdict(record).items()}
