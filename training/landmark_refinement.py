"""Fitting what looks again along a column, see `models.networks.refined_network`: its counter and its refiner.

The network that finds vertebrae stays as it is. What it gives of the films that it was fitted to is far better than
what it gives of others, so neither learns from its answers, but from true vertebrae that are moved, turned and resized
about as far as its answers to unseen films are wrong: neighbours mostly together.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from models.networks.refined_network import RefinedNetwork
from models.networks.vertebra_alignment import across
from models.networks.vertebra_counting import Reading
from models.networks.vertebra_frames import Frames
from models.spine.schemas import CORNERS
from training.datasets.landmark_radiographs import LandmarkBatch
from training.landmark_counting import counting_loss, rows_of_middles, strip_beside, together
from training.landmark_fitted import LandmarkModel, served_landmarks
from training.landmark_losses import masked_mean
from training.landmark_module import LandmarkModule
from training.landmark_settings import LandmarkPlan, LandmarkTrainSettings

TURN_DEG: Final = 4.0
"""Standard deviation of what neighbours are turned together, degrees; each by itself half of it."""
SHIFT: Final = 0.06
"""Standard deviation of what neighbours are moved together, in widths of a vertebra; each by itself 0.6 of it."""
SIZE: Final = 0.08
"""Standard deviation of the logarithm of the size of all vertebrae of a film."""

_TURN_ALONE: Final = 0.5
_SHIFT_ALONE: Final = 0.6
_SIZE_ALONE: Final = 0.03
_SCALE: Final = 10.0
"""Of the loss, so that clipping of gradients and their noise are as with the other losses."""


class RefinementModule(LandmarkModule):
    """Fits counter and refiner of a `RefinedNetwork`, and measures what all of it gives together.

    Args:
        settings: of the run.
        plan: made of settings and recipe.
        model: whose network is a `RefinedNetwork`.
        measured_on: whose images validation is about.
    """

    def __init__(
        self, settings: LandmarkTrainSettings, plan: LandmarkPlan, model: LandmarkModel, measured_on: str
    ) -> None:
        super().__init__(settings, plan, model, measured_on)
        # A module within this one, as its normalisation must be on the device too; the network is the same.
        self._served = served_landmarks(settings, plan, model.entry, model.schema, model.network)
        self._found: dict[int, Tensor] = {}

    @property
    def _network(self) -> RefinedNetwork:
        network = self.model.network
        if not isinstance(network, RefinedNetwork):
            raise TypeError(f"{type(network).__name__} does not look again")
        return network

    def training_step(self, batch: LandmarkBatch, batch_idx: int) -> Tensor:
        """Give the loss of one batch, of the films that its changes have left whole: cut-outs know their neighbours."""
        network, true = self._network, _corners(batch.points)
        counter, refiner = network.counter, network.refiner
        whole = torch.isfinite(true).flatten(1).all(dim=1)
        if not whole.any():
            return 0.0 * (counter.head.weight.sum() + refiner.head.weight.sum())
        true, image = true[whole], batch.image[whole]
        frames = Frames.of_corners(true).levelled()
        strip = strip_beside(frames)
        counting = counting_loss(
            _float(counter.read(counter.cut_out(image, strip))), rows_of_middles(strip, frames.middle)
        )
        frames = disturbed(frames)
        found = refiner.corners(refiner.cut_out(image, frames))
        loss = counting + refinement_loss(found.float(), frames.from_image(true))
        self.train_loss.update(loss.detach().expand(len(true)))
        return loss

    def validation_step(self, batch: LandmarkBatch, batch_idx: int) -> None:
        """Measure one batch: what is found, counted and refined, as it will be served."""
        found = self._found.get(batch_idx)
        if found is None:  # the network that finds them stays as it is, so once is enough
            found = self._found[batch_idx] = self._served.found(batch.image)[0]
        refined = self._network.again(batch.image, found, self._served.mirrored).points
        frames = Frames.of_corners(_corners(found)).levelled()
        there, true = torch.isfinite(batch.points).all(dim=2), batch.points.nan_to_num(0.0)
        away = frames.from_image(_corners(refined)) - frames.from_image(_corners(true))
        loss = _SCALE * masked_mean(away.abs().mean(dim=3).flatten(1), there)
        self.measured_loss.update(loss.expand(len(batch.image)))
        error = (refined - true).norm(dim=2) * batch.unit[:, None]
        if there.any():
            self.radial_error.update(error[there])


def refinement_loss(found: Tensor, true: Tensor) -> Tensor:
    """Give how far corners are off, and how far their vertebrae are turned against the true ones.

    Args:
        found, true: ``(N, V, 4, 2)``, in frames of the vertebrae.
    """
    apart = functional.l1_loss(found, true)
    turned = functional.l1_loss(_tilt(found), _tilt(true))
    return _SCALE * (apart + turned)


def disturbed(frames: Frames) -> Frames:
    """Move, turn and resize frames at random (torch's generator), neighbours mostly together."""
    middle, right, width = frames
    turn = torch.deg2rad(TURN_DEG * (together(width) + _TURN_ALONE * torch.randn_like(width)))
    cosine, sine = turn.cos(), turn.sin()
    x, y = right[..., 0], right[..., 1]
    turned = torch.stack((cosine * x - sine * y, sine * x + cosine * y), dim=2)
    columns, rows = (SHIFT * (together(width) + _SHIFT_ALONE * torch.randn_like(width)) for _ in range(2))
    of_film = torch.randn(len(width), 1, dtype=width.dtype, device=width.device)
    size = torch.exp(SIZE * of_film + _SIZE_ALONE * torch.randn_like(width))
    return Frames(middle + torch.stack((columns, rows), dim=2) * width[..., None], turned, width * size)


def _tilt(corners: Tensor) -> Tensor:
    """Give the angle of each vertebra in its frame, ``(N, V)`` radians."""
    x, y = across(corners).unbind(dim=2)
    return torch.atan2(y, x)


def _float(reading: Reading) -> Reading:
    return Reading(*(part.float() for part in reading))


def _corners(points: Tensor) -> Tensor:
    return torch.unflatten(points, 1, (-1, len(CORNERS)))
