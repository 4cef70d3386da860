"""What is exported of a zone network: everything before and after it that training and serving must share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from models.networks.network import Normalise
from models.networks.zone_network import ZoneNetwork, median_score
from models.networks.zone_table import ZoneBackbone
from models.zones import GRADED, MIRRORED_ORDER
from training.served import SMALLEST_MAXIMUM
from training.zone_calibration import UNCALIBRATED, ZoneCalibration

_LEAST: Final = 1e-9


class ServedZoneNetwork(nn.Module):
    """``image (N, 1, H, W) float32 in [0, 1]`` to ``probability (N, 6, 5)`` and ``cam (N, 6, h, w)``, both in [0, 1].

    ``probability`` sums to 1 over the classes of each zone; it is the calibrated mean of the members' answers. ``cam``
    is Grad-CAM (Selvaraju et al. 2017) of the score that is given to each zone, within the zone, summed over the
    members and divided by its own maximum; zero where nothing speaks for that score.

    Args:
        entry: of the backbone.
        members: fitted networks, at least one.
        mirrored: ask about the mirror image too, and count it like another member, sides and maps put back.
        calibration: of the members' mean.
    """

    def __init__(
        self,
        entry: ZoneBackbone,
        members: Sequence[ZoneNetwork],
        *,
        mirrored: bool,
        calibration: ZoneCalibration = UNCALIBRATED,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(entry.mean, entry.std)
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored
        self.temperature = calibration.temperature
        self.register_buffer("bonus", calibration.shift * torch.arange(len(GRADED), dtype=torch.float32))
        self.bonus: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``probability`` and ``cam``."""
        seen = torch.cat([image, image.flip(3)]) if self.mirrored else image
        normalised = self.normalise(seen)
        maps = [(member, member.maps(normalised)) for member in self._networks()]  # each (N or 2N, 6, K, h, w)
        answers = torch.stack([torch.softmax(member.classify(its), dim=2) for member, its in maps]).mean(dim=0)
        probability = self._calibrated(self._mean_of_views(answers))
        scores = median_score(probability)
        sought = torch.cat([scores, _swapped(scores)]) if self.mirrored else scores
        heat = torch.stack([member.explain(its, sought) for member, its in maps]).sum(dim=0)
        return probability, _normalised(self._mean_of_views(heat, flips=True))

    def _calibrated(self, probability: Tensor) -> Tensor:
        """Give calibrated probabilities, as `training.zone_calibration.calibrated`."""
        graded, ungradable = probability[:, :, : len(GRADED)], probability[:, :, len(GRADED) :]
        logits = torch.log(graded.clamp(min=_LEAST)) / self.temperature + self.bonus
        shares = torch.softmax(logits, dim=2) * graded.sum(dim=2, keepdim=True)
        return torch.cat([shares, ungradable], dim=2)

    def _networks(self) -> list[ZoneNetwork]:
        return [member for member in self.members if isinstance(member, ZoneNetwork)]

    def _mean_of_views(self, values: Tensor, *, flips: bool = False) -> Tensor:
        """Join image and mirror image, ``(2N, 6, ...)``, where there are both; maps are flipped back."""
        if not self.mirrored:
            return values
        plain, mirrored = torch.unflatten(values, 0, (2, -1))
        back = _swapped(mirrored)
        joined: Tensor = (plain + (back.flip(3) if flips else back)) / 2
        return joined


def _swapped(values: Tensor) -> Tensor:
    """Put the zones of a mirror image in their order, along axis 1."""
    return values[:, list(MIRRORED_ORDER)]


def _normalised(cam: Tensor) -> Tensor:
    maximum = cam.amax(dim=(2, 3), keepdim=True)
    return cam / maximum.clamp(min=SMALLEST_MAXIMUM)
