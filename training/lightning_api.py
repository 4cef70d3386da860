"""What we use of Lightning and torchmetrics; nothing else imports them.

Importing them imports torchvision, which beside the CPU build of torch must be prepared first, also in the processes
that training on several devices starts: hence the one import with an effect.
"""

from __future__ import annotations

from models.networks.torchvision_shim import prepare_torchvision

prepare_torchvision()

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer  # noqa: E402  # see above
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher  # noqa: E402
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric  # noqa: E402
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, MulticlassCohenKappa  # noqa: E402

__all__ = [
    "BinaryAUROC",
    "BinaryAccuracy",
    "Callback",
    "EarlyStopping",
    "LightningDataModule",
    "LightningModule",
    "MeanAbsoluteError",
    "MeanMetric",
    "Metric",
    "ModelCheckpoint",
    "MulticlassCohenKappa",
    "SpawnedDevices",
    "TensorBoardLogger",
    "Trainer",
    "WeightAveraging",
]


class SpawnedDevices(DDPStrategy):
    """Several devices, each with a process that begins anew and ends with the fit; the command itself runs once."""

    def __init__(self) -> None:
        super().__init__(start_method="spawn")

    def _configure_launcher(self) -> None:
        self._launcher = _Launcher(self, start_method="spawn")


class _Launcher(_MultiProcessingLauncher):
    """What a new process unpickles first: being of this module, it has torchvision prepared before Lightning comes."""
