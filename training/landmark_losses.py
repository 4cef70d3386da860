"""What landmark networks are fitted by: heatmaps against Gaussians, and for MAHT-Net anatomy and uncertainty too.

Landmarks are input pixels ``(N, K, 2)``; NaN stands for one that is not there, which no term looks at.

Terms of heat are summed over the cells of a map and divided by 2πσ², what a target holds in cells, then averaged over
the landmarks that are there. So they depend neither on the stride nor on the size of the input, and do not vanish
beside terms of coordinates, as a mean over all the empty cells would.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from models.networks.heatmap_decoding import decode_soft_argmax
from models.networks.heatmap_network import Heatmaps
from models.networks.heatmap_table import LandmarkLossKind
from models.networks.maht_net import SIGMA_RANGE
from models.spine.schemas import LandmarkSchema
from training.landmark_anatomy import AnatomicalLoss

SIGMA_PX: Final = 6.0
"""Input pixels: standard deviation of a target."""

NEAR: Final = 0.1
"""Of a target: beyond it a cell belongs to the landmark, below it to the background."""
NEAR_WEIGHT: Final = 5.0
FAR_WEIGHT: Final = 0.05

WING_ALPHA: Final = 2.1
WING_OMEGA: Final = 14.0
WING_EPSILON: Final = 1.0
WING_THETA: Final = 0.5

WING_WEIGHT: Final = 0.5
ANATOMY_WEIGHT: Final = 0.1
UNCERTAINTY_WEIGHT: Final = 0.1
"""Of MAHT-Net's terms beside the squared error."""


class LandmarkLoss(nn.Module):
    """One number from heatmaps and landmarks.

    - ``mse``: squared error, which counts `NEAR_WEIGHT` about a landmark and `FAR_WEIGHT` elsewhere;
    - ``adaptive_wing``: see `adaptive_wing`;
    - ``maht``: ``mse``, `WING_WEIGHT` ``adaptive_wing``, `ANATOMY_WEIGHT` `AnatomicalLoss` of the soft-argmax, and,
      where the network predicts it, `UNCERTAINTY_WEIGHT` of how likely the errors are under sigma;
    - ``softmax``: the Kullback-Leibler divergence of the softmax over all cells from the target scaled to sum 1. Heat
      fitted by it is logits: decode their softmax.

    Args:
        kind: which.
        schema: of the landmarks.
        stride: input pixels per cell.
        sigma_px: standard deviation of targets, input pixels.
        absent_weight: what the map of a landmark that is not there counts, its target being no heat at all, where one
            that is counts 1; of ``mse`` and ``adaptive_wing`` alone. 0 leaves such maps free.
    """

    def __init__(
        self,
        kind: LandmarkLossKind,
        schema: LandmarkSchema,
        stride: int,
        sigma_px: float = SIGMA_PX,
        absent_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.stride = stride
        self.sigma_px = sigma_px
        self.absent_weight = absent_weight
        self.anatomy = AnatomicalLoss(schema)

    def forward(self, output: Heatmaps, points: Tensor) -> Tensor:
        """Give the loss, a scalar; 0 where no landmark is there.

        Args:
            output: of the network.
            points: ``(N, K, 2)`` input pixels, NaN for landmarks that are not there.
        """
        heat = output.heatmaps.float()  # half precision of autocast would not do for sums over so many cells
        there = torch.isfinite(points).all(dim=2)  # (N, K)
        points = points.to(heat).nan_to_num(0.0)
        if self.kind == "softmax":
            return masked_mean(softmax_divergence(heat, points, self.stride, self.sigma_px), there)
        targets = gaussian_targets(points, (heat.shape[2], heat.shape[3]), self.stride, self.sigma_px)
        targets = targets * there[..., None, None]
        counts = torch.where(there, 1.0, self.absent_weight)
        if self.kind == "mse":
            return self._over_cells(weighted_squares(heat, targets), counts)
        if self.kind == "adaptive_wing":
            return self._over_cells(adaptive_wing(heat, targets), counts)
        cells = weighted_squares(heat, targets) + WING_WEIGHT * adaptive_wing(heat, targets)
        found = decode_soft_argmax(heat, self.stride)
        loss = self._over_cells(cells, there.to(heat)) + ANATOMY_WEIGHT * self._anatomy(heat, found, there)
        if output.sigma is None:
            return loss
        unlikely = masked_mean(unlikelihood(found.detach(), output.sigma.float(), points), there)
        return loss + UNCERTAINTY_WEIGHT * unlikely

    def _over_cells(self, cells: Tensor, counts: Tensor) -> Tensor:
        held = 2 * math.pi * (self.sigma_px / self.stride) ** 2
        return masked_mean(cells.sum(dim=(2, 3)) / held, counts)

    def _anatomy(self, heat: Tensor, found: Tensor, there: Tensor) -> Tensor:
        loss: Tensor = self.anatomy(found, there, heat.shape[2] * self.stride)
        return loss


def gaussian_targets(points: Tensor, size: tuple[int, int], stride: int, sigma_px: float) -> Tensor:
    """Give a Gaussian about each landmark, ``(N, K, h, w)``, 1 at the landmark, which need not be a cell's centre.

    Args:
        points: ``(N, K, 2)`` input pixels; NaN gives a map of zeros.
        size: of the maps, h and w.
        stride: input pixels per cell.
        sigma_px: standard deviation, input pixels.
    """
    along_x, along_y = _log_gaussians(points, size, stride, sigma_px)
    return (along_y.exp()[..., :, None] * along_x.exp()[..., None, :]).nan_to_num(0.0)


def weighted_squares(heat: Tensor, targets: Tensor) -> Tensor:
    """Give the weighted squared error of every cell."""
    return torch.where(targets > NEAR, NEAR_WEIGHT, FAR_WEIGHT) * (heat - targets).square()


def adaptive_wing(heat: Tensor, targets: Tensor) -> Tensor:
    """Give the adaptive wing loss of every cell (Wang et al., ICCV 2019).

    Near the target's value it is ω ln(1 + (d/ε)^(α-y)), steep about the landmark (y near 1) and like a square in the
    background (y near 0); from θ on it goes on straight, with the same slope.
    """
    distance = (heat - targets).abs()
    power = WING_ALPHA - targets
    curved = WING_OMEGA * torch.log1p((distance / WING_EPSILON).pow(power))
    at_theta = (WING_THETA / WING_EPSILON) ** power
    slope = WING_OMEGA * power * at_theta / (1 + at_theta) / WING_THETA
    straight = slope * (distance - WING_THETA) + WING_OMEGA * torch.log1p(at_theta)
    return torch.where(distance < WING_THETA, curved, straight)


def softmax_divergence(logits: Tensor, points: Tensor, stride: int, sigma_px: float) -> Tensor:
    """Give the divergence in nats of each map's softmax from its target, ``(N, K)``; never negative.

    The target is a product over x and y, so that its map is never made.

    Args:
        logits: ``(N, K, h, w)``.
        points: ``(N, K, 2)`` input pixels, finite.
        stride: input pixels per cell.
        sigma_px: standard deviation of the target, input pixels.
    """
    along_x, along_y = _log_gaussians(points, (logits.shape[2], logits.shape[3]), stride, sigma_px)
    log_x, log_y = along_x.log_softmax(dim=2), along_y.log_softmax(dim=2)
    wanted_x, wanted_y = log_x.exp(), log_y.exp()
    expected = ((logits @ wanted_x[..., None]).squeeze(3) * wanted_y).sum(dim=2)
    entropy = -(wanted_x * log_x).sum(dim=2) - (wanted_y * log_y).sum(dim=2)
    return logits.flatten(2).logsumexp(dim=2) - expected - entropy


def unlikelihood(found: Tensor, sigma: Tensor, points: Tensor) -> Tensor:
    """Give ln σ + e² / 2σ², the mean of x and y, ``(N, K)``: a Gaussian's negative log-likelihood but for a constant.

    An error beyond the largest sigma that can be predicted asks for no more than that: without this bound the first
    steps, with errors of hundreds of pixels, would be about nothing else.

    Args:
        found: ``(N, K, 2)`` input pixels.
        sigma: ``(N, K, 2)`` input pixels.
        points: ``(N, K, 2)`` input pixels, finite.
    """
    error = (found - points).clamp(-SIGMA_RANGE[1], SIGMA_RANGE[1])
    return (sigma.log() + 0.5 * (error / sigma).square()).mean(dim=2)


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Give the weighted mean; 0 where all weights are."""
    weights = weights.to(values)
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _log_gaussians(points: Tensor, size: tuple[int, int], stride: int, sigma_px: float) -> tuple[Tensor, Tensor]:
    """Give the exponents along x ``(N, K, w)`` and along y ``(N, K, h)``."""
    height, width = size
    columns = (torch.arange(width, dtype=points.dtype, device=points.device) + 0.5) * stride
    rows = (torch.arange(height, dtype=points.dtype, device=points.device) + 0.5) * stride
    along_x = -0.5 * ((columns - points[..., 0:1]) / sigma_px).square()
    along_y = -0.5 * ((rows - points[..., 1:2]) / sigma_px).square()
    return along_x, along_y
