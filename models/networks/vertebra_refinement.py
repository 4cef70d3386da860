"""A second look at each vertebra that was found: its four corners, read from a cut-out that is turned with it.

A heatmap finds a corner by itself and as exactly as the cells of its map allow, and `vertebra_alignment` takes the tilt
of a vertebra from its neighbours' middles, which at the ends of the column and in short curves is not the tilt of its
own end plates. Here every vertebra is cut out of the film, upright and as wide as any other, whatever its size and tilt
in the film; a small network looks at the cut-outs, each of them learns what the ones above and below look like, and it
says where in its cut-out the corners are. So cascades of regression refine faces (Sun et al., Deep Convolutional
Network Cascade for Facial Point Detection, CVPR 2013). Which vertebra it looks at was told before, by
`vertebra_counting`.

Lengths are parts of the width of a vertebra. Every step is an operation of fixed shape, so that it can be part of an
exported graph.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.networks.spine_lite import EfficientNetLitePyramid
from models.networks.vertebra_frames import TYPICAL, Frames, flipped, seen_at
from models.spine.schemas import CORNERS

PATCH: Final = (48, 64)
"""Rows and columns of a cut-out, in pixels."""
SPAN: Final = 2.2
"""Width of a cut-out, in widths of a vertebra: half of the neighbours is on it too."""

_BLOCKS: Final = 11
"""Of EfficientNet-Lite0, to a map of 112 channels and a 16th of the size."""
_CHANNELS: Final = 112
_SHRINKS: Final = 16
_REDUCED: Final = 48
_WIDTH: Final = 192
"""Numbers that describe one cut-out."""
_CONTEXT_BLOCKS: Final = 2
_CONTEXT_KERNEL: Final = 5
_CONTEXT_GROUPS: Final = 4
_DROPOUT: Final = 0.2
_LEAST_CONTRAST: Final = 0.05


class VertebraRefiner(nn.Module):
    """``image (N, 1, H, W)`` in [0, 1] and corners that were found to better corners.

    Args:
        vertebrae: V, how many there are on a film.
    """

    columns_and_rows: Tensor

    def __init__(self, vertebrae: int) -> None:
        super().__init__()
        self.vertebrae = vertebrae
        self.backbone = EfficientNetLitePyramid(None, _BLOCKS)
        self.reduce = nn.Sequential(nn.Conv2d(_CHANNELS, _REDUCED, 1, bias=False), nn.BatchNorm2d(_REDUCED), nn.ReLU6())
        self.describe = nn.Linear(_REDUCED * (PATCH[0] // _SHRINKS) * (PATCH[1] // _SHRINKS), _WIDTH)
        self.dropout = nn.Dropout(_DROPOUT)
        self.context = nn.ModuleList(_neighbours() for _ in range(_CONTEXT_BLOCKS))
        self.head = nn.Linear(_WIDTH, 2 * len(CORNERS))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(TYPICAL).flatten())
        self.register_buffer("columns_and_rows", _cells(), persistent=False)

    def forward(self, image: Tensor, points: Tensor, mirrored: bool = False) -> Tensor:
        """Give better corners.

        Args:
            image: ``(N, 1, H, W)``.
            points: ``(N, 4 V, 2)``, input pixels, corners in the order of a schema.
            mirrored: look at the mirror image of every cut-out too, and take the mean.
        """
        frames = Frames.of_corners(torch.unflatten(points, 1, (self.vertebrae, len(CORNERS)))).levelled()
        return frames.to_image(self.corners(self.cut_out(image, frames), mirrored)).flatten(1, 2)

    def cut_out(self, image: Tensor, frames: Frames) -> Tensor:
        """Give the cut-outs of all vertebrae, ``(N, V, h, w)``; black beyond the film."""
        places = torch.unflatten(frames.to_image(self.columns_and_rows), 2, PATCH).flatten(1, 2)  # (N, V h, w, 2)
        return torch.unflatten(seen_at(image, places), 1, (self.vertebrae, PATCH[0]))

    def corners(self, cut_outs: Tensor, mirrored: bool = False) -> Tensor:
        """Give the corners on cut-outs ``(N, V, h, w)``, ``(N, V, 4, 2)`` in widths from the middle of each."""
        if not mirrored:
            return self._corners(cut_outs)
        plain, other = torch.unflatten(self._corners(torch.cat((cut_outs, cut_outs.flip(3)))), 0, (2, -1))
        mean: Tensor = (plain + flipped(other)) / 2
        return mean

    def _corners(self, cut_outs: Tensor) -> Tensor:
        single = cut_outs.flatten(0, 1)[:, None]  # (N V, 1, h, w)
        spread, mean = torch.std_mean(single, dim=(2, 3), keepdim=True)
        even = ((single - mean) / (spread + _LEAST_CONTRAST)).expand(-1, 3, -1, -1)
        seen = self.backbone(even.contiguous(memory_format=torch.channels_last))[-1]
        described = self.dropout(self.describe(self.reduce(seen).flatten(1)))
        column = torch.unflatten(described, 0, (-1, self.vertebrae)).transpose(1, 2)  # (N, width, V)
        for block in self.context:
            column = column + block(column)
        corners: Tensor = torch.unflatten(self.head(column.transpose(1, 2)), 2, (len(CORNERS), 2))
        return corners


def _neighbours() -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv1d(_WIDTH, _WIDTH, _CONTEXT_KERNEL, padding=_CONTEXT_KERNEL // 2, groups=_CONTEXT_GROUPS),
        nn.ReLU(),
        nn.Conv1d(_WIDTH, _WIDTH, 1),
    )


def _cells() -> Tensor:
    """Give x and y of the middles of a cut-out's pixels, ``(h w, 2)``, in widths of the vertebra."""
    height, width = PATCH
    step = SPAN / width
    y, x = ((torch.arange(side) + 0.5 - side / 2) * step for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).flatten(0, 1)
