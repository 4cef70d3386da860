"""Settings of `python -m training train`: one place for defaults, limits and the words of ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from models.pixels.spec import InputSpec
from models.settings import FileSettings
from models.tasks import Task


class TrainSettings(FileSettings):
    """One training run. Saved as ``config.json`` in its run directory."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_TRAINING_", extra="forbid", frozen=True)
    table_name: ClassVar[str | None] = "training"

    task: Task = Field(Task.PNEUMONIA, description="what the network is to answer")
    data_dir: Path = Field(description="directory with one folder per class")
    output_dir: Path = Field(description="the run directory to make")
    network: str = Field("efficientnet_lite0", description="name of the network")
    pretrained: bool = Field(True, description="start from ImageNet weights")
    image_size: int = Field(224, ge=32, le=1024, description="side of the square input, pixels")
    epochs: int = Field(8, ge=1, description="passes over the training split")
    batch_size: int = Field(32, ge=2, description="images per step")
    lr: float = Field(5e-4, gt=0, description="peak learning rate of AdamW, one-cycle schedule")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay")
    label_smoothing: float = Field(0.05, ge=0, lt=0.5, description="of the cross-entropy")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip; it puts the heart on the right")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="part of the persons held out for validation")
    limit: int | None = Field(None, ge=1, description="use at most this many images per class (for trials)")
    seed: int = Field(0, ge=0, description="of split, weights, order and augmentation")
    num_workers: int = Field(0, ge=0, description="processes that read images; 0 reads in the training process")
    threads: int | None = Field(None, ge=1, description="threads of the arithmetic; default all cores")

    @property
    def input_spec(self) -> InputSpec:
        """What the network is fed, here and by the worker."""
        return InputSpec(height=self.image_size, width=self.image_size)
