"""Settings of `python -m training train`: one place for defaults, limits and the words of ``--help``.

What a network is best fitted with, its *recipe*, stands beside it in `models.networks.table`; a setting that is not
given comes from there, so those defaults are not repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from models.pixels.spec import InputSpec
from models.settings import FileSettings
from models.tasks import Task

if TYPE_CHECKING:
    from models.networks.table import NetworkEntry

Monitor = Literal["shifted_loss", "shifted_roc_auc", "validation_loss", "validation_roc_auc"]
"""By what the best epoch is chosen: least loss, or largest area under the ROC curve."""


class RunSettings(FileSettings):
    """What every training run is told, whatever its task."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_TRAINING_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "training"

    # What is learnt, from what.
    task: Task = Field(Task.PNEUMONIA, description="what the network is to answer")
    data_dir: Path = Field(description="directory of the labelled images")
    output_dir: Path = Field(description="the run directory to make")
    labels_csv: Path | None = Field(None, description="table of labels, if not found by its usual name")
    val_fraction: float = Field(0.2, ge=0, lt=1, description="part of the persons held out for validation")
    limit: int | None = Field(None, ge=1, description="use at most this many images per class (for trials)")
    kfold: int | None = Field(None, ge=2, le=20, description="cross-validate with this many person-grouped folds")
    folds: str | None = Field(None, pattern=r"^\d+(,\d+)*$", description="fit these folds only, e.g. 0,2; from 0")

    # The network, and where it starts.
    pretrained: bool | None = Field(None, description="start from ImageNet weights; default where there are any")
    weights: Path | None = Field(None, description="file with the ImageNet weights, where they are not in the cache")
    init_from: Path | None = Field(None, description="run directory of the same network whose weights to start from")
    freeze_backbone: bool = Field(False, description="fit the head alone")
    image_size: int | None = Field(None, ge=32, le=1024, description="side of the square input, pixels")

    # How it is fitted. None is the network's recipe.
    epochs: int | None = Field(None, ge=1, description="passes over the training split")
    batch_size: int | None = Field(None, ge=2, description="images per step and device")
    optimizer: Literal["adam", "adamw"] | None = Field(None, description="optimiser")
    lr: float | None = Field(None, gt=0, description="learning rate; the peak, with a schedule")
    weight_decay: float | None = Field(None, ge=0, description="weight decay; decoupled with adamw")
    scheduler: Literal["one_cycle", "cosine", "plateau", "none"] | None = Field(None, description="of the lr")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip; it puts the heart on the right")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the running average of the weights; 0 keeps the last")
    gradient_clip: float = Field(5.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    gradient_checkpointing: bool = Field(False, description="less memory for about a third more time")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better one")

    # On what.
    precision: Literal["32", "bf16", "16"] = Field("32", description="bf16 and 16 are mixed precision, for GPUs")
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="what computes")
    devices: int = Field(1, ge=1, description="how many of them")
    num_workers: int = Field(0, ge=0, description="processes that read images; 0 reads in the training process")
    threads: int | None = Field(None, ge=1, description="threads of the arithmetic; default all cores")
    cache_mb: int = Field(2048, ge=0, description="memory for decoded images, MiB; 0 decodes in every epoch")
    seed: int = Field(0, ge=0, description="of split, weights, order and augmentation")

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if self.folds is not None and self.kfold is None:
            raise ValueError("folds are given without kfold")
        if self.kfold is not None and max(self.chosen_folds) >= self.kfold:
            raise ValueError(f"folds count from 0 to {self.kfold - 1}")
        if self.pretrained is False and self.weights is not None:
            raise ValueError("weights are given together with no-pretrained")
        if self.precision == "16" and self.accelerator == "cpu":
            raise ValueError("precision 16 needs a GPU; on a CPU take 32")
        return self

    @property
    def chosen_folds(self) -> tuple[int, ...]:
        """Folds to fit, from 0, ascending; empty without cross-validation."""
        if self.kfold is None:
            return ()
        return tuple(sorted({int(fold) for fold in self.folds.split(",")})) if self.folds else tuple(range(self.kfold))


class TrainSettings(RunSettings):
    """A run of a two-class task. Saved, with every choice made, as ``config.json`` in its run directory."""

    format: Literal["auto", "class-folders", "nih-csv", "dicom-csv", "brixia"] = Field(
        "auto", description="of the data"
    )
    split: str = Field("train", description="split to learn from, where the data has splits")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="part of the persons held out for validation")
    network: str = Field("efficientnet_lite0", description="name of the network")
    class_weights: bool | None = Field(None, description="weigh classes by their inverse frequency")
    label_smoothing: float | None = Field(None, ge=0, lt=0.5, description="of the targets")
    loss: Literal["cross-entropy", "bce"] = Field("cross-entropy", description="over both logits, or each by itself")
    mixup: float = Field(0.0, ge=0, le=4, description="alpha of mixing pairs of images; 0 mixes none")
    monitor: Monitor = Field("shifted_loss", description="by what the best epoch is chosen")


def field_types(annotation: Any) -> tuple[Any, ...]:
    """Give what a setting may be: the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network is fitted: the settings where they say something, its recipe where not.

    Attributes:
        betas: of the optimiser's running means.
        input_spec: what the network is fed, here and by the worker.
    """

    pretrained: bool
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    scheduler: str
    class_weights: bool
    label_smoothing: float
    input_spec: InputSpec


def plan_of(settings: TrainSettings, entry: NetworkEntry) -> Plan:
    """Fill what is not set from the network's entry: its recipe, its input size, whether it has published weights."""
    recipe = entry.recipe
    side = settings.image_size or entry.image_size
    pretrained = entry.weights_origin is not None if settings.pretrained is None else settings.pretrained
    starts_trained = pretrained or settings.init_from is not None
    return Plan(
        pretrained=pretrained,
        epochs=settings.epochs or (recipe.epochs_pretrained if starts_trained else recipe.epochs_scratch),
        batch_size=settings.batch_size or recipe.batch_size,
        optimizer=settings.optimizer or recipe.optimizer,
        lr=settings.lr or recipe.lr,
        weight_decay=recipe.weight_decay if settings.weight_decay is None else settings.weight_decay,
        betas=recipe.betas,
        scheduler=settings.scheduler or recipe.scheduler,
        class_weights=recipe.class_weights if settings.class_weights is None else settings.class_weights,
        label_smoothing=recipe.label_smoothing if settings.label_smoothing is None else settings.label_smoothing,
        input_spec=InputSpec(height=side, width=side),
    )


def with_plan(settings: TrainSettings, plan: Plan) -> TrainSettings:
    """Give the settings with every choice of the plan written out, so that a later recipe changes nothing."""
    chosen = {
        name: getattr(plan, name)
        for name in (
            *("pretrained", "epochs", "batch_size", "optimizer", "lr", "weight_decay"),
            *("scheduler", "class_weights", "label_smoothing"),
        )
    }
    return settings.model_copy(update={**chosen, "image_size": plan.input_spec.height})
