"""How a network is best fitted: the defaults of ``train`` for what is not given on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """Defaults of one network.

    Attributes:
        lr: learning rate; the peak where the schedule rises.
        weight_decay: coupled with ``adam``, decoupled with ``adamw``.
        betas: of the optimiser's running means.
        batch_size: images per step.
        epochs_pretrained, epochs_scratch: with and without pretrained weights.
        scheduler: ``plateau`` halves the rate after five epochs without gain.
        class_weights: weigh classes by their inverse frequency.
        label_smoothing: part of each target that is spread over all classes.
    """

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    epochs_pretrained: int = 50
    epochs_scratch: int = 70
    scheduler: Literal["plateau", "one_cycle", "cosine", "none"] = "plateau"
    class_weights: bool = True
    label_smoothing: float = 0.0
