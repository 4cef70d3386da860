"""The vertebrae of a column counted, body by body, on a film that is straightened along it.

Heatmaps name every vertebra by itself, and where a film leaves open which level is which, their column slips: between
a part that has decided for one count and a part that has decided for another, a body is skipped or gets two names.
Where the column runs is found well even then. So the film is sampled along that curve, as a strip in which the spine
stands upright (curved planar reformation; Kanitsar et al., IEEE Visualization 2002). A small network tells for each row
of the strip how much it looks like the middle of a body, of which level, and how far away the next body is. Vertebrae
then take their rows together: Viterbi's algorithm, as in `vertebra_chain`, finds the 17 rows, one body after the other,
that fit best.

Every step is an operation of fixed shape, so that it can be part of an exported graph.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.vertebra_alignment import align_vertebrae
from models.networks.vertebra_chain import best_path
from models.networks.vertebra_frames import TYPICAL, Frames, seen_at
from models.spine.schemas import CORNERS

ABOVE: Final = 2.0
BELOW: Final = 1.5
"""How far a strip goes on beyond the first and the last middle, in mean distances from one middle to the next."""
FARTHEST: Final = 3.0
"""How far it can go on: the curve is straight there, and ends."""
GAP: Final = 8.0
"""Read rows from one middle to the next, on average."""

_ROWS: Final = 16
"""Of the strip, for a mean distance between middles; every second one is read."""
_COLUMNS: Final = 64
_SPAN: Final = 4.0
"""Width of a strip, in widths of a vertebra."""
_SMOOTHED: Final = 17
"""Rows over which the curve is averaged."""
_REACH: Final = 15
"""Rows up and down to which the direction of the curve is taken."""
_FROM_END: Final = 3
"""Vertebrae from the end of the column that tell where the curve goes on to."""
_LEAST_DISTANCE: Final = 1.0
_LEAST_LENGTH: Final = 1e-3
"""Pixels of the image."""
_LEAST_CONTRAST: Final = 0.05
_LOCAL: Final = 25
"""Pixels of the strip over which local contrast is taken."""
_LEAST_LOCAL_CONTRAST: Final = 0.1

_CHANNELS: Final = (3, 24, 48, 64, 96)
"""Of the film, of the film in even contrast, and of the height in the film; then after each convolution."""
_PER_GROUP: Final = 16
_WIDTH: Final = 128
_DILATIONS: Final = (1, 2, 4, 8, 16, 32, 1)
_KERNEL: Final = 5
_GROUPS: Final = 4
_DROPOUT: Final = 0.2
_BLOCK_DROPOUT: Final = 0.1
_LEVEL_WEIGHT: Final = 0.1
"""Of the logarithm of a level's probability beside that of there being a body. What tells levels tells all 17 at once,
so that it counts 17 times; with more weight, the column slips where its parts differ on the count."""
_GAP_DEVIATION: Final = 0.15
"""Of the logarithm of a distance from the one that was read."""
_ABOUT: Final = 2.0
"""Read rows about a middle over which its place is averaged."""
_FORBIDDEN: Final = -1e4
_HALF_A_ROW: Final = 0.5


class Strip(NamedTuple):
    """A band along a column, R rows from top to bottom.

    Attributes:
        column: ``(N, R, 2)``, where the column is beside each row, x and y in pixels of the image.
        middle: ``(N, R, 2)``, of each row: `column`, averaged, so that the strip does not fold in itself.
        right: ``(N, R, 2)``, unit vector to the right of the column.
        width: ``(N, R)``, of a vertebra there, pixels of the image.
        step: ``(N,)``, pixels of the image from one row to the next.
    """

    column: Tensor
    middle: Tensor
    right: Tensor
    width: Tensor
    step: Tensor

    def at(self, rows: Tensor) -> Frames:
        """Give the frames of vertebrae whose middles lie at rows ``(N, V)``; between rows they are interpolated."""
        share = _between(rows, self.middle.shape[1])  # (N, V, R)
        middle, right, width = (share @ part for part in (self.column, self.right, self.width[..., None]))
        return Frames(middle, functional.normalize(right, dim=2), width[..., 0])


class Reading(NamedTuple):
    """What is told of every second row of a strip, Q of them.

    Attributes:
        body: ``(N, Q)``, logit that the middle of a vertebra lies there.
        level: ``(N, V, Q)``, logits of which vertebra it is if so.
        gap: ``(N, Q)``, logarithm of the distance between middles there, in `GAP` read rows.
    """

    body: Tensor
    level: Tensor
    gap: Tensor


def rows_of(vertebrae: int) -> int:
    """Give R, how many rows the strip of a column of so many vertebrae has: an even number."""
    return 2 * round(_ROWS * (vertebrae - 1 + ABOVE + BELOW) / 2)


def read_rows(rows: Tensor) -> Tensor:
    """Give rows of a strip in read rows, of which each stands for two."""
    return (rows - _HALF_A_ROW) / 2


def straightened(frames: Frames, above: Tensor | float = ABOVE, below: Tensor | float = BELOW) -> Strip:
    """Lay a strip along a column.

    Args:
        frames: of its vertebrae, from top to bottom.
        above, below: how far it goes on, see `ABOVE`; ``(N, 1)``, or one number for all.
    """
    middle, vertebrae = frames.middle, frames.middle.shape[1]
    length = (middle[:, 1:] - middle[:, :-1]).norm(dim=2).sum(dim=1, keepdim=True)  # (N, 1)
    distance = (length / (vertebrae - 1)).clamp_min(_LEAST_DISTANCE)
    beyond = FARTHEST * distance
    top = middle[:, 0] + beyond * functional.normalize(middle[:, 0] - middle[:, _FROM_END], dim=1)
    bottom = middle[:, -1] + beyond * functional.normalize(middle[:, -1] - middle[:, -1 - _FROM_END], dim=1)
    widths = torch.cat((frames.width[:, :1], frames.width, frames.width[:, -1:]), dim=1)
    nodes = torch.cat((torch.cat((top[:, None], middle, bottom[:, None]), dim=1), widths[..., None]), dim=2)
    lengths = (nodes[:, 1:, :2] - nodes[:, :-1, :2]).norm(dim=2)  # (N, V + 1)
    earlier = torch.ones(vertebrae + 1, vertebrae + 1, dtype=nodes.dtype, device=nodes.device).triu(1)
    starts = lengths @ earlier - beyond
    rows = rows_of(vertebrae)
    step = (length + (above + below) * distance) / rows
    numbers = torch.arange(-_REACH, rows + _REACH, dtype=nodes.dtype, device=nodes.device) + _HALF_A_ROW
    places = numbers * step - above * distance  # (N, R and what is beyond)
    # The part of each piece between two nodes that lies above a row.
    passed = ((places[..., None] - starts[:, None]) / lengths.clamp_min(_LEAST_LENGTH)[:, None]).clamp(0.0, 1.0)
    along = nodes[:, :1] + passed @ (nodes[:, 1:] - nodes[:, :-1])  # (N, R and what is beyond, 3)
    column, width = along[..., :2], along[:, _REACH:-_REACH, 2]
    down = functional.normalize(column[:, 2 * _REACH :] - column[:, : -2 * _REACH], dim=2)
    right = torch.stack((down[..., 1], -down[..., 0]), dim=2)
    beside = _REACH - _SMOOTHED // 2
    smooth = functional.avg_pool1d(column.transpose(1, 2), _SMOOTHED, stride=1)[..., beside:-beside].transpose(1, 2)
    return Strip(column[:, _REACH:-_REACH], smooth, right, width, step[:, 0])


class Counted(NamedTuple):
    """What is there of a column.

    Attributes:
        points: ``(N, 4 V, 2)``, corners of usual shape, square to the column, input pixels.
        confidence: ``(N, V)`` in [0, 1], see `sureness`.
    """

    points: Tensor
    confidence: Tensor


class VertebraCounter(nn.Module):
    """``image (N, 1, H, W)`` in [0, 1] and corners that were found to corners of the bodies that are there.

    Args:
        vertebrae: V, how many there are on a film.
    """

    across: Tensor

    def __init__(self, vertebrae: int) -> None:
        super().__init__()
        self.vertebrae = vertebrae
        self.look = nn.Sequential(
            *(
                _convolution(inputs, outputs, (1 if number else 2, 2))
                for number, (inputs, outputs) in enumerate(itertools.pairwise(_CHANNELS))
            )
        )
        left = _COLUMNS // 2 ** (len(_CHANNELS) - 1)
        self.reduce = nn.Sequential(
            nn.Conv1d(_CHANNELS[-1] * left, _WIDTH, 1, bias=False),
            nn.BatchNorm1d(_WIDTH),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
        )
        self.column = nn.Sequential(*(_Dilated(_WIDTH, dilation) for dilation in _DILATIONS))
        self.head = nn.Conv1d(_WIDTH, vertebrae + 2, 1)
        columns = ((torch.arange(_COLUMNS) + 0.5) / _COLUMNS - 0.5) * _SPAN
        self.register_buffer("across", columns, persistent=False)

    def forward(self, image: Tensor, points: Tensor, mirrored: bool = False) -> Counted:
        """Give the vertebrae that are there.

        Args:
            image: ``(N, 1, H, W)``.
            points: ``(N, 4 V, 2)``, input pixels, corners in the order of a schema.
            mirrored: look at the mirror image of the strip too, and take the mean.
        """
        strip = straightened(Frames.of_corners(torch.unflatten(points, 1, (self.vertebrae, len(CORNERS)))).levelled())
        reading = self.read(self.cut_out(image, strip), mirrored)
        rows = counted(reading)
        usual = torch.tensor(TYPICAL, dtype=points.dtype, device=points.device)
        better = align_vertebrae(strip.at(rows).to_image(usual).flatten(1, 2), 1.0)
        return Counted(better, sureness(reading, rows))

    def cut_out(self, image: Tensor, strip: Strip) -> Tensor:
        """Give what a strip shows, ``(N, 3, R, w)``: its grey, that in even contrast, and its height in the film."""
        width = strip.width.mean(dim=1)[:, None, None, None]
        places = strip.middle[:, :, None] + width * self.across[:, None] * strip.right[:, :, None]
        seen = seen_at(image, places)
        spread, mean = torch.std_mean(seen, dim=(1, 2), keepdim=True)
        grey = (seen - mean) / (spread + _LEAST_CONTRAST)
        height = (strip.middle[..., 1] / image.shape[2])[..., None].expand(-1, -1, _COLUMNS)
        return torch.stack((grey, _even(grey), height), dim=1)

    def read(self, cut_outs: Tensor, mirrored: bool = False) -> Reading:
        """Read strips ``(N, 3, R, w)``."""
        if not mirrored:
            return self._read(cut_outs)
        both = self._read(torch.cat((cut_outs, cut_outs.flip(3))))
        return Reading(*(torch.unflatten(part, 0, (2, -1)).mean(dim=0) for part in both))

    def _read(self, cut_outs: Tensor) -> Reading:
        seen = self.look(cut_outs.contiguous(memory_format=torch.channels_last))  # (N, channels, Q, columns)
        told = self.head(self.column(self.reduce(seen.transpose(2, 3).flatten(1, 2))))
        return Reading(told[:, 0], told[:, 1:-1], told[:, -1])


def counted(reading: Reading) -> Tensor:
    """Give the rows of the strip at which the vertebrae lie, ``(N, V)``, from top to bottom."""
    evidence = reading.body[:, None] + _LEVEL_WEIGHT * functional.log_softmax(reading.level, dim=1)
    number = torch.arange(evidence.shape[2], dtype=evidence.dtype, device=evidence.device)
    step = number[None, :] - number[:, None]  # (from, to)
    gap = GAP * torch.exp((reading.gap[:, :, None] + reading.gap[:, None, :]) / 2)
    away = torch.log(step.clamp_min(_HALF_A_ROW) / gap) / _GAP_DEVIATION
    likely = torch.where(step > 0, -0.5 * away.square(), torch.full_like(away, _FORBIDDEN))
    path = best_path(evidence, likely).to(evidence.dtype)
    near = (number - path[..., None]).abs() <= _ABOUT  # (N, V, Q)
    counts = torch.sigmoid(reading.body).square()[:, None] * near
    place = (counts @ number) / counts.sum(dim=2).clamp_min(torch.finfo(counts.dtype).tiny)
    return 2 * place + _HALF_A_ROW


def sureness(reading: Reading, rows: Tensor) -> Tensor:
    """Say how sure a reading is of vertebrae, ``(N, V)`` in [0, 1].

    It is the probability that a body lies there, times that of being the vertebra that it is called, the mean over the
    column: where the first one is named wrongly, all are.

    Args:
        reading: of a strip.
        rows: ``(N, V)``, of vertebrae on it.
    """
    share = _between(read_rows(rows), reading.body.shape[1])  # (N, V, Q)
    body = (share * torch.sigmoid(reading.body)[:, None]).sum(dim=2)
    level = (share * torch.softmax(reading.level, dim=1)).sum(dim=2)
    return body * level.mean(dim=1, keepdim=True)


def _between(places: Tensor, rows: int) -> Tensor:
    """Give the weights of whole rows by which what lies between two of them is interpolated, ``(N, V, rows)``."""
    number = torch.arange(rows, dtype=places.dtype, device=places.device)
    return (1 - (places[..., None] - number).abs()).clamp_min(0.0)


def _even(grey: Tensor) -> Tensor:
    """Give ``(N, R, w)`` less its local mean, in local standard deviations."""
    edge = _LOCAL // 2
    both = functional.pad(torch.stack((grey, grey.square()), dim=1), (edge,) * 4, mode="replicate")
    mean, square = functional.avg_pool2d(both, _LOCAL, stride=1).unbind(dim=1)
    return (grey - mean) / ((square - mean.square()).clamp_min(0.0).sqrt() + _LEAST_LOCAL_CONTRAST)


def _convolution(inputs: int, outputs: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, groups=max(1, outputs // _PER_GROUP), bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Dilated(nn.Module):
    """A residual block along the column (van den Oord et al., WaveNet, 2016, without its gates)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        edge = _KERNEL // 2 * dilation
        self.block = nn.Sequential(
            nn.Conv1d(width, width, _KERNEL, padding=edge, dilation=dilation, groups=_GROUPS, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 1, bias=False),
            nn.BatchNorm1d(width),
            nn.Dropout(_BLOCK_DROPOUT),
        )

    def forward(self, column: Tensor) -> Tensor:
        """Give ``(N, width, Q)``."""
        return functional.relu(column + self.block(column))
