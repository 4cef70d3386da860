"""A second look at each vertebra that was found: its four corners, read from a cut-out that is turned with it.

A heatmap finds a corner by itself and as exactly as the cells of its map allow, and `vertebra_alignment` takes the tilt
of a vertebra from its neighbours' middles, which at the ends of the column and in short curves is not the tilt of its
own end plates. Here every vertebra is cut out of the film, upright and as wide as any other, whatever its size and tilt
in the film; a small network looks at the cut-outs, each of them learns what the ones above and below look like, and it
says where in its cut-out the corners are. So cascades of regression refine faces (Sun et al., Deep Convolutional
Network Cascade for Facial Point Detection, CVPR 2013); levels are not named anew.

Lengths are parts of the width of a vertebra. Every step is an operation of fixed shape, so that it can be part of an
exported graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.spine_lite import EfficientNetLitePyramid
from models.networks.vertebra_alignment import across
from models.spine.schemas import CORNERS, LandmarkSchema

PATCH: Final = (48, 64)
"""Rows and columns of a cut-out, in pixels."""
SPAN: Final = 2.2
"""Width of a cut-out, in widths of a vertebra: half of the neighbours is on it too."""

_BLOCKS: Final = 11
"""Of EfficientNet-Lite0, to a map of 112 channels and a 16th of the size."""
_KEPT: Final = ("_conv_stem", "_bn0", "_blocks.0")
_CHANNELS: Final = 112
_SHRINKS: Final = 16
_REDUCED: Final = 48
_WIDTH: Final = 192
"""Numbers that describe one cut-out."""
_CONTEXT_BLOCKS: Final = 2
_CONTEXT_KERNEL: Final = 5
_CONTEXT_GROUPS: Final = 4
_DROPOUT: Final = 0.2
_LEVELLED: Final = 5
"""Vertebrae over which the width is averaged, so that one corner that is far off does not spoil a cut-out."""
_LEAST_WIDTH: Final = 1e-3
_LEAST_CONTRAST: Final = 0.05
_TYPICAL: Final = ((-0.5, -0.2), (0.5, -0.2), (-0.5, 0.2), (0.5, 0.2))
"""Corners of a vertebra in its own frame, from which the network starts."""


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
            self.head.bias.copy_(torch.tensor(_TYPICAL).flatten())
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
        size = torch.tensor((image.shape[3], image.shape[2]), dtype=image.dtype, device=image.device)
        places = frames.to_image(self.columns_and_rows) / size * 2 - 1
        rows = torch.unflatten(places, 2, PATCH).flatten(1, 2)  # (N, V h, w, 2)
        seen = functional.grid_sample(image, rows, mode="bilinear", padding_mode="zeros", align_corners=False)
        return torch.unflatten(seen[:, 0], 1, (self.vertebrae, PATCH[0]))

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


class RefinedNetwork(HeatmapNetwork):
    """A fitted heatmap network, which stays as it is, and a refiner of what it finds.

    Args:
        coarse: fitted.
        refiner: of as many vertebrae as `coarse` has landmarks of.
    """

    def __init__(self, coarse: HeatmapNetwork, refiner: VertebraRefiner) -> None:
        super().__init__()
        self.coarse = coarse
        self.refiner = refiner
        self.stride = coarse.stride
        self.freeze(("coarse",))

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``, normalised, before refinement."""
        heatmaps: Heatmaps = self.coarse(x)
        return heatmaps

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Give those of the refiner's backbone."""
        return (weight for weight in self.refiner.backbone.parameters() if weight.requires_grad)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Give the refiner's others."""
        return (weight for name, weight in self.refiner.named_parameters() if not name.startswith("backbone."))


def refined(coarse: HeatmapNetwork, schema: LandmarkSchema) -> RefinedNetwork:
    """Put a refiner that is not fitted behind a network of a frontal column.

    It starts with the backbone of the network where that has the same one, and keeps the first layers of it: they take
    half of the time of a step, and edges are edges.

    Args:
        coarse: fitted; stays as it is.
        schema: of its landmarks, one that `models.networks.vertebra_alignment.can_align` takes.
    """
    refiner = VertebraRefiner(len(schema.vertebrae))
    network = RefinedNetwork(coarse, refiner)
    backbone = getattr(coarse, "backbone", None)
    if isinstance(backbone, EfficientNetLitePyramid):
        fitted = backbone.state_dict()
        refiner.backbone.load_state_dict({name: fitted[name] for name in refiner.backbone.state_dict()})
        network.freeze([f"refiner.backbone.{part}" for part in _KEPT])
    return network


def flipped(corners: Tensor) -> Tensor:
    """Give corners in a frame, ``(..., 4, 2)``, as they are on the mirror image."""
    mirrored = corners[..., (1, 0, 3, 2), :]
    return torch.stack((-mirrored[..., 0], mirrored[..., 1]), dim=-1)


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
