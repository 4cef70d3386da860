"""What a zone network is fitted to: one or several readers' grades as soft targets, and the losses against them.

Grades are ordered, readers differ by about half a grade per zone, and a zone that nobody can judge says little:

- several readers' grades are averaged into one distribution, so that where they differ the network is not told off for
  standing between them, and images on which they agree pull harder;
- part of each grade may be spread to its neighbours, which tells the network that 2 for 3 is a smaller fault than 0;
- zones called ungradable count less (0.3 by default).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.zone_network import CLASSES
from models.zones import GRADED, MIRRORED_ORDER, Congestion
from training.zone_settings import UNGRADABLE_WEIGHT


def soft_targets(readers: Sequence[Sequence[Congestion]], spread: float = 0.0, first: float = 0.5) -> Tensor:
    """Average the readers of one image: ``(6, 5)`` float32, each zone's row sums to 1.

    Args:
        readers: six grades of each.
        spread: part of a grade's mass that goes to its neighbours among the graded classes, shared between them; in
            [0, 1). Ungradable has no neighbours.
        first: weight of the first reader, in (0, 1], the others sharing the rest; a single one has all of it.
    """
    each = torch.tensor([[int(grade) for grade in grades] for grades in readers])  # (readers, 6)
    shares = torch.tensor([first, *[(1 - first) / max(1, len(readers) - 1)] * (len(readers) - 1)])
    targets = (functional.one_hot(each, CLASSES).float() * (shares / shares.sum())[:, None, None]).sum(dim=0)
    return targets @ _spreading(spread)


def _spreading(spread: float) -> Tensor:
    """Give the matrix ``(5, 5)`` whose row says where the mass of one class goes."""
    matrix = torch.eye(CLASSES)
    last = len(GRADED) - 1
    for grade in range(len(GRADED)):
        neighbours = [other for other in (grade - 1, grade + 1) if 0 <= other <= last]
        matrix[grade, grade] = 1 - spread
        for other in neighbours:
            matrix[grade, other] = spread / len(neighbours)
    return matrix


def flip_zones(image: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Flip images horizontally: what was the right lung is drawn on the left one's side, so targets change places.

    Args:
        image: ``(..., H, W)``.
        targets: ``(..., 6, K)``.
    """
    return image.flip(-1), targets[..., list(MIRRORED_ORDER), :]


class ZoneLoss(nn.Module):
    """Cross-entropy with soft targets, and optionally the squared distance of the cumulative distributions.

    The latter (squared earth mover's distance, Hou et al. 2016) is over the four graded classes alone, each side scaled
    to what it holds of them; it grows with how many grades the answer is off.

    Args:
        ungradable_weight: of class 4.
        ordinal: weight of the distance beside the cross-entropy; 0 leaves it out.
    """

    def __init__(self, ungradable_weight: float = UNGRADABLE_WEIGHT, ordinal: float = 0.0) -> None:
        super().__init__()
        weights = torch.ones(CLASSES)
        weights[Congestion.UNGRADABLE] = ungradable_weight
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor
        self.ordinal = ordinal

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Give the weighted mean over the zones of ``logits (N, 6, 5)`` and ``targets (N, 6, 5)``.

        With hard targets it is ``torch.nn.functional.cross_entropy`` with class weights.
        """
        weighted = targets * self.weights
        loss: Tensor = -(weighted * functional.log_softmax(logits, dim=2)).sum() / weighted.sum()
        if self.ordinal:
            loss = loss + self.ordinal * self._ordinal(logits, targets)
        return loss

    def _ordinal(self, logits: Tensor, targets: Tensor) -> Tensor:
        graded = targets[:, :, : len(GRADED)]
        held = graded.sum(dim=2)  # (N, 6), what the readers gave to the graded classes together
        wanted = graded / held.clamp_min(1e-6)[..., None]
        given = logits[:, :, : len(GRADED)].softmax(dim=2)
        distance = (given.cumsum(dim=2) - wanted.cumsum(dim=2)).square().sum(dim=2)
        return (distance * held).sum() / held.sum().clamp_min(1e-6)
