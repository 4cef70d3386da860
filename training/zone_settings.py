"""Settings of `python -m training train --task csi`.

What is not given comes from one recipe for small sets: few images, so that the batch-norm statistics of the backbone
stay as they were learnt from many, heads that begin equal and stay so, and a fixed number of epochs whose last one is
kept. On some dozen held-out images the best epoch is best by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from models.pixels.spec import Framing, InputSpec
from models.tasks import Task
from training.settings import RunSettings

if TYPE_CHECKING:
    from models.networks.zone_table import ZoneBackbone

UNGRADABLE_WEIGHT: Final = 0.3
"""Of class 4 in the loss."""
LAST_EPOCH: Final = "last_epoch"
ZoneMonitor = Literal["last_epoch", "validation_loss", "validation_kappa"]
"""Which epoch is kept: the last one, or that with the least loss or the largest quadratic kappa on who was held out."""


class ZoneTrainSettings(RunSettings):
    """A run of task csi. Saved, with every choice made, as ``config.json`` in its run directory."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_CSI_TRAINING_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "csi_training"

    task: Literal[Task.CSI] = Field(Task.CSI, description="what the network is to answer")
    format: Literal["auto", "csi", "brixia"] = Field("auto", description="of the data")
    exclude: tuple[str, ...] = Field(
        (), description="FileIDs, file names or .txt lists of them to leave out, separated by commas"
    )
    val_fraction: float = Field(0.2, ge=0, lt=1, description="part of the persons held out; 0 fits everyone")
    first_reader: float = Field(0.5, gt=0, le=1, description="weight of the first of several readers in the targets")

    backbone: str = Field("efficientnet_lite0", description="name of the backbone")
    init_from: Path | None = Field(
        None, description="run directory whose weights to start from: of csi, or of another task with this backbone"
    )
    zones: Literal["global", "spatial", "masked"] = Field("spatial", description="what the head of a zone looks at")
    attenuation: float = Field(1.0, gt=0, le=1, description="with zones masked: how far other zones are taken away")
    framing: Framing = Field(Framing.LUNGS, description="lungs crops each image to its lung fields, whole does not")
    shared_heads: bool = Field(True, description="fit one head for all six zones, which then all have its weights")
    dropout: float = Field(0.3, ge=0, lt=1, description="of the features of a zone")
    members: int = Field(1, ge=1, le=20, description="fit so many networks, from other draws, that answer together")
    mirrored: bool = Field(False, description="answer with the mean over an image and its mirror image; twice the time")
    freeze_batch_norm: bool = Field(True, description="keep the backbone's running means and variances")

    backbone_lr: float | None = Field(None, gt=0, description="learning rate of the backbone; lr is that of the heads")
    ungradable_weight: float = Field(UNGRADABLE_WEIGHT, gt=0, le=1, description="of class 4 in the loss")
    ordinal: float = Field(0.5, ge=0, description="weight of the squared earth mover's distance in the loss")
    spread: float = Field(0.0, ge=0, lt=1, description="part of a grade that its neighbours get in the targets")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip, which swaps the zones' sides")
    ema: float = Field(0.97, ge=0, lt=1, description="decay of the running average of the weights; 0 keeps the last")
    monitor: ZoneMonitor = Field(LAST_EPOCH, description="which epoch is kept")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.val_fraction == 0 and self.kfold is None and self.monitor != LAST_EPOCH:
            raise ValueError(f"monitor {self.monitor} needs somebody held out; give val-fraction or kfold")
        if self.val_fraction == 0 and self.patience is not None:
            raise ValueError("patience needs somebody held out")
        if self.monitor == LAST_EPOCH and self.patience is not None:
            raise ValueError("patience needs monitor validation_loss or validation_kappa")
        return self


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """How a network is fitted: the settings where they say something, the recipe where not.

    Attributes:
        lr, backbone_lr: peaks, of the heads and of the backbone.
        input_spec: what the network is fed, here and by the worker.
    """

    pretrained: bool
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    backbone_lr: float
    weight_decay: float
    scheduler: str
    input_spec: InputSpec


_EPOCHS: Final = 25
_BATCH_SIZE: Final = 16
_LR: Final = 1e-3
_BACKBONE_LR: Final = 5e-4
_WEIGHT_DECAY: Final = 0.05


def zone_plan_of(settings: ZoneTrainSettings, backbone: ZoneBackbone) -> ZonePlan:
    """Fill what is not set from the recipe and the backbone's entry."""
    side = settings.image_size or backbone.image_size
    lr = settings.lr or _LR
    return ZonePlan(
        pretrained=backbone.pretrained if settings.pretrained is None else settings.pretrained,
        epochs=settings.epochs or _EPOCHS,
        batch_size=settings.batch_size or _BATCH_SIZE,
        optimizer=settings.optimizer or "adamw",
        lr=lr,
        backbone_lr=settings.backbone_lr or lr * _BACKBONE_LR / _LR,
        weight_decay=_WEIGHT_DECAY if settings.weight_decay is None else settings.weight_decay,
        scheduler=settings.scheduler or "one_cycle",
        input_spec=InputSpec(height=side, width=side, framing=settings.framing),
    )


def with_zone_plan(settings: ZoneTrainSettings, plan: ZonePlan) -> ZoneTrainSettings:
    """Give the settings with every choice of the plan written out, so that a later recipe changes nothing."""
    names = ("pretrained", "epochs", "batch_size", "optimizer", "lr", "backbone_lr", "weight_decay", "scheduler")
    return settings.model_copy(
        update={**{name: getattr(plan, name) for name in names}, "image_size": plan.input_spec.height}
    )
