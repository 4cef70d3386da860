"""Settings of `python -m training train --task landmarks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from models.errors import ConfigurationError
from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import LandmarkSchema, SpineView
from models.tasks import Task
from training.settings import RunSettings

if TYPE_CHECKING:
    from models.networks.heatmap_table import HeatmapEntry

LandmarkMonitor = Literal["last_epoch", "validation_loss", "validation_mre"]
"""Which epoch is kept: the last one, or that with the least loss or mean radial error on who was held out."""
LAST_EPOCH: Final = "last_epoch"
FLIP: Final = 0.5
"""Probability of a horizontal flip, of frontal views."""


class LandmarkTrainSettings(RunSettings):
    """A run of task landmarks. Saved, with every choice made, as ``config.json`` in its run directory."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_LANDMARKS_TRAINING_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "landmarks_training"

    task: Literal[Task.LANDMARKS] = Field(Task.LANDMARKS, description="what the network is to answer")
    format: Literal["auto", "aasce", "buu-ap", "buu-la", "generic40"] = Field("auto", description="of the data")
    split: str = Field("training", description="split to learn from, where the data has splits")
    exclude: tuple[str, ...] = Field(
        (), description="FileIDs, file names or .txt lists of them to leave out, separated by commas"
    )
    val_fraction: float = Field(0.2, ge=0, lt=1, description="part of the persons held out; 0 fits everyone")

    network: str = Field("spine_lite", description="name of the network")
    image_width: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="width of the letterboxed input; default the side (whole spines are tall: half of it will do)",
    )
    freeze: tuple[str, ...] | None = Field(
        None, description="prefixes of weights to keep, with their batch-norm, separated by commas"
    )
    mirrored: bool = Field(
        True, description="answer with the mean over a film and its mirror image; frontal views only"
    )
    alignment: float = Field(
        1.0, ge=0, le=1, description="how far vertebrae of frontal views are turned square to the column; 0 does not"
    )
    chained: bool = Field(
        True, description="find all vertebrae of a frontal spine together, one below the other; of loss softmax"
    )

    refine: bool = Field(
        False,
        description="keep the network of --init-from as it is, and fit what looks again along the column that it "
        "finds, counts its vertebrae and reads the corners of each; frontal columns only",
    )

    backbone_lr: float | None = Field(None, gt=0, description="learning rate of the backbone; lr is that of the rest")
    loss: Literal["mse", "adaptive_wing", "maht", "softmax"] | None = Field(None, description="what is made least")
    sigma: float = Field(6.0, gt=0, le=64, description="standard deviation of the Gaussian targets, input pixels")
    coordinate: float = Field(
        0.0, ge=0, description="weight of the distance, in sigmas, of the expected place; softmax"
    )
    augmentation: float = Field(1.0, ge=0, le=3, description="how far films are changed; 0 leaves them as they are")
    framing: float = Field(
        1.0,
        ge=0,
        le=3,
        description="how far films are zoomed and shifted up and down, a part of augmentation; little, where the place "
        "of a vertebra in its film tells its level",
    )
    flip: float = Field(
        FLIP, ge=0, le=1, description="probability of a horizontal flip, which swaps sides; of lateral views never"
    )
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the running average of the weights; 0 keeps the last")
    monitor: LandmarkMonitor = Field(LAST_EPOCH, description="which epoch is kept")

    @model_validator(mode="after")
    def _check(self) -> Self:
        nobody = self.val_fraction == 0 and self.kfold is None
        if nobody and self.monitor != LAST_EPOCH:
            raise ValueError(f"monitor {self.monitor} needs somebody held out; give val-fraction or kfold")
        if self.patience is not None and (nobody or self.monitor == LAST_EPOCH):
            raise ValueError("patience needs somebody held out, and monitor validation_loss or validation_mre")
        if self.refine and self.init_from is None:
            raise ValueError("refine needs the run whose network finds the column; give init-from")
        if self.refine and self.freeze:
            raise ValueError("freeze is given with refine, which keeps the whole network as it is")
        return self


@dataclass(frozen=True, slots=True)
class LandmarkPlan:
    """How a network is fitted: the settings where they say something, the recipe where not.

    Attributes:
        lr, backbone_lr: peaks, of the head and of the backbone.
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
    loss: str
    freeze: tuple[str, ...]
    input_spec: InputSpec


_EPOCHS: Final = 60
_REFINEMENT_EPOCHS: Final = 14
_REFINEMENT_LR: Final = 1e-3
"""Of a refiner, which is the same whatever network is refined."""
_REFINEMENT_BACKBONE: Final = 0.5
"""Learning rate of its backbone, in that of the rest."""
_BATCH_SIZE: Final = 8
_WEIGHT_DECAY: Final = 1e-2
_CELL: Final = 32
"""Sides of an input are multiples of it."""


def landmark_plan_of(settings: LandmarkTrainSettings, entry: HeatmapEntry) -> LandmarkPlan:
    """Fill what is not set from the network's entry.

    Raises:
        ConfigurationError: the input's sides are no multiples of 32.
    """
    side = settings.image_size or entry.image_size
    width = settings.image_width or side
    if side % _CELL or width % _CELL:
        raise ConfigurationError(f"image size {side} x {width}: sides must be multiples of {_CELL}")
    lr = settings.lr or (_REFINEMENT_LR if settings.refine else entry.lr)
    return LandmarkPlan(
        pretrained=entry.published is not None if settings.pretrained is None else settings.pretrained,
        epochs=settings.epochs or (_REFINEMENT_EPOCHS if settings.refine else _EPOCHS),
        batch_size=settings.batch_size or _BATCH_SIZE,
        optimizer=settings.optimizer or "adamw",
        lr=lr,
        backbone_lr=settings.backbone_lr
        or lr * (_REFINEMENT_BACKBONE if settings.refine else entry.backbone_lr / entry.lr),
        weight_decay=_WEIGHT_DECAY if settings.weight_decay is None else settings.weight_decay,
        scheduler=settings.scheduler or "one_cycle",
        loss=settings.loss or entry.loss,
        freeze=_frozen(settings, entry),
        input_spec=InputSpec(height=side, width=width, resize=Resize.LETTERBOX),
    )


def _frozen(settings: LandmarkTrainSettings, entry: HeatmapEntry) -> tuple[str, ...]:
    """Give what is frozen of the network; of one that is refined all is, without being named."""
    if settings.refine:
        return ()
    return entry.freeze if settings.freeze is None else settings.freeze


def with_landmark_plan(settings: LandmarkTrainSettings, plan: LandmarkPlan) -> LandmarkTrainSettings:
    """Give the settings with every choice of the plan written out, so that a later recipe changes nothing."""
    names = (
        *("pretrained", "epochs", "batch_size", "optimizer", "lr", "backbone_lr", "weight_decay", "scheduler"),
        *("loss", "freeze"),
    )
    sides = {"image_size": plan.input_spec.height, "image_width": plan.input_spec.width}
    return settings.model_copy(update={**{name: getattr(plan, name) for name in names}, **sides})


def with_schema(settings: LandmarkTrainSettings, schema: LandmarkSchema) -> LandmarkTrainSettings:
    """Give the settings with what depends on the landmarks chosen: whether films are flipped.

    Raises:
        ConfigurationError: another flip than the usual one is asked for of a lateral view, on which it would swap
            front and back.
    """
    if schema.view is SpineView.FRONTAL:
        return settings
    if settings.flip not in (0.0, FLIP):
        raise ConfigurationError(f"flip {settings.flip}: {schema.name} is a lateral view, which is never flipped")
    return settings.model_copy(update={"flip": 0.0, "mirrored": False})
