"""Small runs of task csi: a backbone that sees brightness, and settings under which it learns in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from models.networks.network import Backbone, Step
from training.zone_settings import ZoneTrainSettings


class Brightness(Backbone):
    """Smoothed brightness and seven copies of it that learn: what a zone shows is easily learnt."""

    channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

    def steps(self) -> list[Step]:
        return [nn.AvgPool2d(4), self.mix]


def settings(data_dir: Path, output_dir: Path, **options: Any) -> ZoneTrainSettings:
    common = {"backbone": "brightness", "framing": "whole", "epochs": 12, "lr": 0.03, "backbone_lr": 0.01}
    given = {**common, "weight_decay": 0.0, "dropout": 0.0, "ema": 0.0, "freeze_batch_norm": False, **options}
    return ZoneTrainSettings(data_dir=data_dir, output_dir=output_dir, **given)
