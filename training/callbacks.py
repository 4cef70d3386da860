"""What happens around the steps of a run: the average of the weights, checkpoints, the log, pictures, the bar.

The average of the weights, not the last step's, is validated. So that the kept weights are those that were validated:

- checkpoints are whole ones. With ``save_weights_only`` Lightning 2.6 asks no callback what to save, and the
  unaveraged weights would stand in a file whose score is the average's;
- they are written at the end of validation, before another step moves the average;
- best and last have a callback each: one `ModelCheckpoint` with a monitor leaves its last file alone in an epoch that
  was not among the best, and a resumed run would fall back to the best epoch.
"""

# ruff: noqa: D102  (Lightning says when it calls its hooks; what ours do is said by their classes)

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from torch import Tensor
from torch.utils.data import Dataset

from training.classes import POSITIVE
from training.lightning_api import (
    Callback,
    LightningModule,
    ModelCheckpoint,
    TensorBoardLogger,
    Trainer,
    WeightAveraging,
)
from training.lightning_module import Batches, ClassificationModule, better
from training.progress import CONSOLE, progress_bar
from training.run import BEST_CHECKPOINT, LAST_CHECKPOINT, RunDirectory

_PICTURES: Final = 8
_CAM_EVERY_EPOCHS: Final = 5
_OVERLAY_ALPHA: Final = 0.4


class RunningAverage(WeightAveraging):
    """Exponential average of weights and batch-norm statistics, short at first.

    Begun with its full length, the average of a small run would never forget the weights before the first step.

    Args:
        decay: part of the average that one step leaves.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=partial(_move_averages, decay=decay))


def _move_averages(averages: Sequence[Tensor], currents: Sequence[Tensor], steps: Tensor | int, decay: float) -> None:
    share = 1 - min(decay, (1 + int(steps)) / (4 + int(steps)))
    for average, current in zip(averages, currents, strict=True):
        if average.is_floating_point():
            average.lerp_(current, share)
        else:
            average.copy_(current)  # batch-norm's count of batches


class _Checkpoint(ModelCheckpoint):
    """Overwrites one file, and knows it again when the run directory was moved."""

    def __init__(self, directory: Path, name: str, **options: Any) -> None:
        super().__init__(
            dirpath=directory,
            filename=Path(name).stem,
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
            **options,
        )

    @property
    def state_key(self) -> str:
        return self._generate_state_key(file=self.filename)  # two that keep the last epoch would have one key

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score when the directory has another name than it had.
        here = {key: str(Path(str(self.dirpath)) / Path(path).name) for key, path in _paths_of(state_dict).items()}
        scores = {
            str(Path(str(self.dirpath)) / Path(path).name): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict({**state_dict, **here, "best_k_models": scores, "dirpath": self.dirpath})


def _paths_of(state: dict[str, Any]) -> dict[str, str]:
    return {key: state[key] for key in ("best_model_path", "kth_best_model_path", "last_model_path") if state[key]}


def checkpoints(run: RunDirectory, monitor: str | None) -> list[ModelCheckpoint]:
    """Keep the best epoch by `monitor`, and the last one to resume from; without a monitor the last is the best."""
    return [checkpoint(run, BEST_CHECKPOINT, monitor), checkpoint(run, LAST_CHECKPOINT)]


def checkpoint(run: RunDirectory, name: str, monitor: str | None = None) -> ModelCheckpoint:
    """Keep the best epoch by `monitor` under a name, or without one the last epoch."""
    chosen = {} if monitor is None else {"monitor": monitor, "mode": better(monitor)}
    return _Checkpoint(run.checkpoints, name, **chosen)


class Record(Protocol):
    """What one epoch came to: a frozen dataclass of figures, of which two are asked for by name."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def epoch(self) -> int:
        """From 1."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time."""
        ...

    def in_words(self, epochs: int) -> str:
        """Say it in a line."""
        ...


class Recording(Protocol):
    """A module that tells how its last epoch went."""

    @property
    def record(self) -> Record | None:
        """Of the last validated epoch; None before."""
        ...


class EpochLog(Callback):
    """Writes one line per epoch to the run's log, and says it.

    Args:
        run: takes the log.
        epochs: how many there will be.
        monitor: by what the best epoch is chosen; None without a choice.
        after_epoch: is told each line of the log, as soon as it is written.
    """

    def __init__(
        self,
        run: RunDirectory,
        epochs: int,
        monitor: str | None,
        after_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._run = run
        self._epochs = epochs
        self._monitor = monitor
        self._after_epoch = after_epoch
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        told = cast(Recording, pl_module).record
        if not trainer.is_global_zero or told is None:
            return
        record = replace(told, seconds=round(time.monotonic() - self._started, 1))
        line = _as_line(record)
        self._run.log(line)
        CONSOLE.print(f"{record.in_words(self._epochs)}{' *' if self._is_best(trainer, line) else ''}")
        if self._after_epoch is not None:
            self._after_epoch(line)

    def _is_best(self, trainer: Trainer, line: dict[str, Any]) -> bool:
        if self._monitor is None:
            return False
        value = float(line[self._monitor])
        keeper = trainer.checkpoint_callback  # the first one, which keeps the best; it has not looked yet
        best = keeper.best_model_score if isinstance(keeper, ModelCheckpoint) else None
        if best is None:
            return True
        return value < float(best) if better(self._monitor) == "min" else value > float(best)


def _as_line(record: Record) -> dict[str, Any]:
    """Give the JSON object of a record, rounded to what is meaningful."""
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in ((name, getattr(record, name)) for name in record.__dataclass_fields__)
    }


class EpochBar(Callback):
    """Shows how far training and validation are, where a person watches."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, f"epoch {trainer.current_epoch + 1}/{self._epochs}", int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._advance()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, "validation", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _begin(self, trainer: Trainer, what: str, batches: int) -> None:
        self._end()
        if trainer.is_global_zero and CONSOLE.is_terminal:
            self._progress = progress_bar()
            self._progress.start()
            self._task = self._progress.add_task(what, total=batches)

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Pictures(Callback):
    """Puts into TensorBoard a few training images as changed, and Grad-CAM of the same few validation images.

    Args:
        batches: of the run.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._images: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        plain, shifted = (_some_of(loader.dataset) for loader in self._batches.val_dataloader())
        self._images = plain
        if trainer.current_epoch == 0:
            writer = trainer.logger.experiment
            augmented = _some_of(self._batches.train_dataloader().dataset)
            for name, images in (("train", augmented), ("validation", plain), ("shifted", shifted)):
                writer.add_image(f"images/{name}", _side_by_side(_grey(images)), 0, dataformats="HWC")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Here, for at this moment the module has the averaged weights that are being validated.
        due = trainer.current_epoch % _CAM_EVERY_EPOCHS == 0 or trainer.current_epoch + 1 == trainer.max_epochs
        if self._images is None or batch_idx > 0 or dataloader_idx > 0 or not due:
            return
        if isinstance(trainer.logger, TensorBoardLogger) and isinstance(pl_module, ClassificationModule):
            picture = _side_by_side(_heated(pl_module, self._images))
            trainer.logger.experiment.add_image("grad_cam", picture, trainer.current_epoch + 1, dataformats="HWC")


def _some_of(dataset: Dataset[Any]) -> Tensor:
    """Give ``(n, 1, H, W)`` images evenly spread over a data set."""
    size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset has no length in its type
    places = np.unique(np.linspace(0, size - 1, min(_PICTURES, size)).round().astype(int))
    return torch.stack([dataset[int(place)][0] for place in places])


def _heated(module: ClassificationModule, images: Tensor) -> NDArray[np.uint8]:
    """Give ``(n, H, W, 3)`` RGB: the map of each image's positive class in jet over the image."""
    with torch.no_grad():
        feature_map = module.model.network.features(module.model.normalised(images.to(module.device)))
        cam = (
            module.model.network.grad_cam(feature_map, POSITIVE).float().nan_to_num(posinf=0).cpu().numpy()
        )  # (n, h, w)
    pictures = []
    for grey, heat in zip(_grey(images), cam, strict=True):
        relative = np.asarray(heat / max(float(heat.max()), 1e-6) * 255, dtype=np.uint8)
        large = cv2.resize(relative, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_LINEAR)
        colour = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
        pictures.append(cv2.addWeighted(colour, _OVERLAY_ALPHA, grey, 1 - _OVERLAY_ALPHA, 0))
    return np.stack(pictures).astype(np.uint8)


def _grey(images: Tensor) -> NDArray[np.uint8]:
    """Give ``(n, H, W, 3)`` of ``(n, 1, H, W) float32 in [0, 1]``."""
    levels = np.rint(images[:, 0].numpy() * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=3)


def _side_by_side(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give ``(H, n·W, 3)``."""
    return np.concatenate(list(pictures), axis=1)
