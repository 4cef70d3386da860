"""The overlay picture of task `csi`: the film, the grid of six zones with their scores, heat where a score is above 0.

Lines are thin and have a dark rim, so that they show on bright and on dark film. A score stands at the upper lateral
corner of its zone, beside the lungs where the film has room there; the costophrenic angles stay free. The picture holds
no patient identity and no laterality of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.identity import DISCLAIMER
from models.pixels.lung_fields import Frame
from models.zones import ZONE_COLUMNS, ZONE_ROWS, ZONES, Congestion
from worker.caption import FOREGROUND, add_strip, font
from worker.findings import CongestionFinding, GradedZone
from worker.heat import Bytes, blend, enlarge

_LEGEND: Final = "0 normal, 1 mild, 2 moderate, 3 severe, - ungradable"
_UNGRADABLE: Final = "-"
_RIM: Final = (0, 0, 0)
_COVER_OF_RIM: Final = 0.3
_COVER_OF_LINE: Final = 0.5
_FILM_PER_LINE: Final = 800
"""Pixels of the film's shorter side for each pixel of a line's width."""
_FILM_PER_TYPE: Final = 25
_TYPE_SIZES: Final = (18, 44)
_FINER: Final = 8
"""A map has few pixels; it is made finer by this factor, smoothly, before it is laid on the film."""


def draw_zone_overlay(display: Bytes, finding: CongestionFinding, version: str) -> Bytes:
    """Draw heat, grid, scores and caption on an image.

    Args:
        display: ``(h, w) uint8``, 0 is black, as a person would see the film.
        finding: what is drawn; its frame may reach beyond the image.
        version: of the network that answered.

    Returns:
        ``(H, W, 3) uint8`` RGB, both sides at least 512: the film scaled by one factor, a caption strip below it.
    """
    film = enlarge(display)
    grid = _Grid.over(film.shape, finding.frame)
    picture = cv2.merge([film] * 3) if finding.cams is None else blend(film, _heat(finding.zones, finding.cams, grid))
    _draw_lines(picture, grid)
    for place, zone in enumerate(finding.zones):
        _draw_score(picture, grid, place, _UNGRADABLE if zone.score is None else str(zone.score))
    first, *constant = caption_lines(finding, version)
    return add_strip(picture, first, tuple(constant), with_scale=finding.cams is not None)


def caption_lines(finding: CongestionFinding, version: str) -> tuple[str, ...]:
    """Give the finding, the origin, what the scores mean, where the grid lies if not over the lungs, the disclaimer."""
    if finding.mean_csi is None:
        first = "No zone is gradable - no mean CSI, no heart failure class"
    else:
        zones = f"{finding.gradable_zones} of {len(ZONES)} zones"
        first = f"Mean CSI {finding.mean_csi:.2f} ({zones}) - heart failure class {finding.heart_failure_class}"
    where = {True: (), False: ("zones on the image grid: lungs not found",), None: ("zones on the image grid",)}
    return (first, f"AI csi, version {version}", _LEGEND, *where[finding.lungs_found], DISCLAIMER)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The zones on a film.

    Attributes:
        shape: rows and columns of the film, pixels.
        left, top, width, height: of the frame, pixels of the film; it may reach beyond the film.
    """

    shape: tuple[int, int]
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def over(cls, shape: tuple[int, ...], frame: Frame) -> _Grid:
        rows, columns = shape
        return cls((rows, columns), frame.left * columns, frame.top * rows, frame.width * columns, frame.height * rows)

    @property
    def columns(self) -> list[int]:
        """Where the vertical lines are, from left to right."""
        return [round(self.left + self.width * step / ZONE_COLUMNS) for step in range(ZONE_COLUMNS + 1)]

    @property
    def rows(self) -> list[int]:
        """Where the horizontal lines are, from top to bottom."""
        return [round(self.top + self.height * step / ZONE_ROWS) for step in range(ZONE_ROWS + 1)]

    def area(self, place: int) -> tuple[slice, slice]:
        """Give the rows and columns of the film that a zone has; empty where it lies beyond the film."""
        row, column = divmod(place, ZONE_COLUMNS)
        return (
            _within(self.rows[row], self.rows[row + 1], self.shape[0]),
            _within(self.columns[column], self.columns[column + 1], self.shape[1]),
        )

    @property
    def whole(self) -> tuple[slice, slice]:
        """Rows and columns of the film that all zones have together."""
        return (
            _within(self.rows[0], self.rows[-1], self.shape[0]),
            _within(self.columns[0], self.columns[-1], self.shape[1]),
        )


def _within(first: int, last: int, side: int) -> slice:
    return slice(min(max(first, 0), side), min(max(last, 0), side))


def _heat(zones: Sequence[GradedZone], cams: NDArray[np.float32], grid: _Grid) -> Bytes:
    """Give the heat of every place of the film, ``(h, w) uint8``: 0 but where a zone has a score above 0.

    A zone's hottest place has a third of full heat at score 1, all of it at 3, so that mild zones stay nearly clear.
    """
    level = np.zeros(grid.shape, np.uint8)
    for place, (zone, cam) in enumerate(zip(zones, cams, strict=True)):
        area = grid.area(place)
        if zone.score and level[area].size:
            # A map says where in its zone, relative to its own maximum; how much, the score does.
            level[area] = cv2.convertScaleAbs(_zone_heat(cam, grid, place), alpha=zone.score / Congestion.SEVERE)
    return level


def _zone_heat(cam: NDArray[np.float32], grid: _Grid, place: int) -> Bytes:
    """Give the part of a map ``(h, w)`` over the frame that belongs to a zone, at the size of the zone on the film."""
    row, column = divmod(place, ZONE_COLUMNS)
    top, bottom = _cells(row, ZONE_ROWS, cam.shape[0])
    left, right = _cells(column, ZONE_COLUMNS, cam.shape[1])
    part = np.ascontiguousarray(cam[top:bottom, left:right], np.float32)
    finer = cv2.resize(part, None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_CUBIC)
    levels = np.clip(finer * 255, 0, 255).astype(np.uint8)
    rows, columns = grid.area(place)
    # From the centre of a pixel of the film to the place in the finer map.
    across, down = _FINER * cam.shape[1] / grid.width, _FINER * cam.shape[0] / grid.height
    matrix = np.array(
        [
            [across, 0, across * (columns.start + 0.5 - grid.left) - _FINER * left - 0.5],
            [0, down, down * (rows.start + 0.5 - grid.top) - _FINER * top - 0.5],
        ]
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cast(Bytes, cv2.warpAffine(levels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _cells(step: int, steps: int, side: int) -> tuple[int, int]:
    """Give the pixels of a map's side that a zone shares in."""
    return floor(step * side / steps), ceil((step + 1) * side / steps)


def _draw_lines(picture: NDArray[Any], grid: _Grid) -> None:
    """Draw the frame and the lines inside it; where the frame ends beyond the film there is no line."""
    width = max(1, round(min(grid.shape) / _FILM_PER_LINE))
    high, wide = grid.whole
    for reach, colour, cover in ((width, _RIM, _COVER_OF_RIM), (0, FOREGROUND, _COVER_OF_LINE)):
        for column in (x for x in grid.columns if 0 < x < grid.shape[1]):
            _tint(picture[high, max(column - reach, 0) : column + width + reach], colour, cover)
        for row in (y for y in grid.rows if 0 < y < grid.shape[0]):
            _tint(picture[max(row - reach, 0) : row + width + reach, wide], colour, cover)


def _tint(area: NDArray[Any], colour: tuple[int, int, int], cover: float) -> None:
    area[...] = np.rint(area * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


def _draw_score(picture: NDArray[Any], grid: _Grid, place: int, text: str) -> None:
    """Write a score beside the upper lateral corner of its zone, inside the frame where the film ends before it."""
    least, most = _TYPE_SIZES
    size = max(least, min(most, min(grid.shape) // _FILM_PER_TYPE))
    row, column = divmod(place, ZONE_COLUMNS)
    gap = size // 4
    outside = grid.columns[0] - gap - size if column == 0 else grid.columns[-1] + gap
    left = max(0, min(outside, grid.shape[1] - size - gap))
    top = max(0, min(grid.rows[row] + gap, grid.shape[0] - size - gap))
    area = picture[top : top + size + gap, left : left + size]
    image = Image.fromarray(area)
    middle = (area.shape[1] / 2, area.shape[0] / 2)
    rim = max(2, size // 9)
    type_of_text = font(2 * size if text == _UNGRADABLE else size)  # a hyphen of the same type is hard to see
    ImageDraw.Draw(image).text(
        middle, text, fill=FOREGROUND, font=type_of_text, anchor="mm", stroke_width=rim, stroke_fill=_RIM
    )
    area[...] = np.asarray(image)
