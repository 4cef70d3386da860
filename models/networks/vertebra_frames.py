"""Vertebrae as frames: where each lies, how it is turned, how large it is; and what a film shows at places in them."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.networks.vertebra_alignment import across

TYPICAL: Final = ((-0.5, -0.2), (0.5, -0.2), (-0.5, 0.2), (0.5, 0.2))
"""Corners of a vertebra in its own frame."""

_LEVELLED: Final = 5
"""Vertebrae over which the width is averaged, so that one corner that is far off does not spoil a cut-out."""
_LEAST_WIDTH: Final = 1e-3


class Frames(NamedTuple):
    """Where each vertebra lies, how it is turned, and its size.

    Attributes:
        middle: ``(N, V, 2)``, x and y, input pixels.
        right: ``(N, V, 2)``, unit vector from its left to its right side.
        width: ``(N, V)``, input pixels.
    """

    middle: Tensor
    right: Tensor
    width: Tensor

    @classmethod
    def of_corners(cls, corners: Tensor) -> Frames:
        """Give the frames of ``(N, V, 4, 2)``."""
        to_right = across(corners)
        width = to_right.norm(dim=2).clamp_min(_LEAST_WIDTH)
        return cls(corners.mean(dim=2), to_right / width[..., None], width)

    def levelled(self) -> Frames:
        """Give frames whose widths are the means over neighbouring vertebrae."""
        padded = functional.pad(self.width[:, None], (_LEVELLED // 2, _LEVELLED // 2), mode="replicate")
        return self._replace(width=functional.avg_pool1d(padded, _LEVELLED, stride=1)[:, 0])

    def to_image(self, places: Tensor) -> Tensor:
        """Give ``(N, V, P, 2)`` of the image for places in the frames, ``(N, V, P, 2)`` or ``(P, 2)``, in widths."""
        x, y = places[..., 0], places[..., 1]
        cosine, sine = self.right[..., None, 0], self.right[..., None, 1]
        turned = torch.stack((cosine * x - sine * y, sine * x + cosine * y), dim=-1)
        return self.middle[:, :, None] + self.width[:, :, None, None] * turned

    def from_image(self, places: Tensor) -> Tensor:
        """Give places of the image, ``(N, V, P, 2)``, in the frames: in widths of the vertebra, from its middle."""
        away = (places - self.middle[:, :, None]) / self.width[:, :, None, None]
        x, y = away[..., 0], away[..., 1]
        cosine, sine = self.right[..., None, 0], self.right[..., None, 1]
        return torch.stack((cosine * x + sine * y, cosine * y - sine * x), dim=-1)


def flipped(corners: Tensor) -> Tensor:
    """Give corners in a frame, ``(..., 4, 2)``, as they are on the mirror image."""
    mirrored = corners[..., (1, 0, 3, 2), :]
    return torch.stack((-mirrored[..., 0], mirrored[..., 1]), dim=-1)


def seen_at(image: Tensor, places: Tensor) -> Tensor:
    """Give what a film shows at places, ``(N, h, w)``; black beyond it.

    Args:
        image: ``(N, 1, H, W)``.
        places: ``(N, h, w, 2)``, x and y in pixels of the image.
    """
    size = torch.tensor((image.shape[3], image.shape[2]), dtype=image.dtype, device=image.device)
    grid = places / size * 2 - 1
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]
