"""What a presentation state draws over the film of each kind of finding, in layers that a viewer can toggle.

Points are in pixels of the original, counted from the top-left corner of its first pixel: the unit PIXEL of PS3.3
C.10.5. That section has nothing beyond the image, so lines end at its border, and words are moved inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import singledispatch
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.store.manifest import Manifest
from models.zones import ZONE_COLUMNS, ZONE_ROWS
from worker import spine_overlay, zone_overlay
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs.activation_maps import ActivationMap, activation_maps
from worker.overlay import OverlayCaption
from worker.spine_finding import LandmarkFinding
from worker.spine_layout import Body, EndLine, Note, lay_out

Points = NDArray[np.float64]

HEAT_LEVEL: Final = 0.5
"""Of the hottest place: the border that is drawn around heat."""

_FINER: Final = 64
"""A map has few pixels; it is made finer by this factor, smoothly, before its border is sought."""
_SMOOTHING: Final = 1.5
"""Fine pixels by which a corner may be moved: steps between pixels are no corners."""
_LEAST_CORNERS: Final = 3
_FILM_PER_TYPE: Final = 32
_NARROW_FILM_PER_TYPE: Final = 20
_LEAST_TYPE: Final = 8
_SMALLER: Final = 0.7
"""Type of the summary and of names, by that of angles."""
_LINE: Final = 1.2
"""Height of a line of words, in sizes of their type."""
_WIDTH: Final = 0.62
"""Mean width of a letter, in sizes of its type: what room is left for words, whatever the type of the viewer."""


class Justification(StrEnum):
    """Bounding Box Text Horizontal Justification (0070,0012)."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"
    CENTER = "CENTER"


@dataclass(frozen=True, slots=True)
class Label:
    """Words in a box.

    Attributes:
        lines: from top to bottom, ASCII.
        left, top, right, bottom: of the box, inside the image.
    """

    lines: tuple[str, ...]
    left: float
    top: float
    right: float
    bottom: float
    justification: Justification = Justification.LEFT


@dataclass(frozen=True, slots=True)
class Layer:
    """One graphic layer (PS3.3 C.10.7).

    Attributes:
        name: at most 16 characters.
        lines: ``(n, 2) float64`` each, x and y; closed where the last point is the first.
        dashed: whether its lines are, where a viewer can.
        colour: recommended, in CIELab as PS3.3 C.10.7.1.1 encodes it: 0 to 65535 each.
    """

    name: str
    description: str
    colour: tuple[int, int, int]
    lines: tuple[Points, ...] = ()
    labels: tuple[Label, ...] = ()
    dashed: bool = False

    @property
    def grey(self) -> int:
        """Recommended where there is no colour: its lightness, 0 to 65535."""
        return self.colour[0]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing on it."""
        return not self.lines and not self.labels


# Colours are those of the overlay pictures, but for words: where a viewer draws no rim, white ones vanish on bone.
_YELLOW: Final = (58072, 31953, 52456)
_OUTLINES: Final = Layer("AI_OUTLINES", "AI outlines of vertebrae", (51025, 27761, 26876))
_REVIEW: Final = Layer("AI_REVIEW", "AI vertebrae to be reviewed", (50914, 37913, 49780), dashed=True)
_COBB: Final = Layer("AI_COBB", "AI end plates and angles of curves", _YELLOW)
_NAMES: Final = Layer("AI_NAMES", "AI names of vertebrae", _YELLOW)
_ZONES: Final = Layer("AI_ZONES", "AI lung zones with their scores", _YELLOW)
_HEAT: Final = Layer("AI_HEAT", "AI border of the heat of Grad-CAM", (40802, 47542, 46275))
_TEXT: Final = Layer("AI_TEXT", "AI finding, research use only", _YELLOW)


@singledispatch
def annotate(finding: Finding, manifest: Manifest, shape: tuple[int, int]) -> tuple[Layer, ...]:
    """Give the layers of a finding, those with something on them, the lowest first.

    Args:
        finding: that is drawn.
        manifest: of the version that answered.
        shape: rows and columns of the original.
    """
    raise TypeError(f"no graphics are known for {type(finding).__name__}")


@annotate.register
def _of_classification(finding: Classification, manifest: Manifest, shape: tuple[int, int]) -> tuple[Layer, ...]:
    caption = OverlayCaption(
        manifest.task.value,
        finding.label,
        finding.positive_label,
        finding.probability,
        finding.threshold,
        manifest.version,
    )
    maps = activation_maps(finding, manifest.input_spec, shape) if finding.positive else ()
    lines = tuple(line for each in maps for line in _border_of_heat(each, shape))
    return _filled(replace(_HEAT, lines=lines), _text(caption.lines(), shape))


@annotate.register
def _of_congestion(finding: CongestionFinding, manifest: Manifest, shape: tuple[int, int]) -> tuple[Layer, ...]:
    rows, columns = shape
    frame = finding.frame
    across = np.clip(np.linspace(frame.left, frame.right, ZONE_COLUMNS + 1), 0, 1) * columns
    down = np.clip(np.linspace(frame.top, frame.bottom, ZONE_ROWS + 1), 0, 1) * rows
    lines, labels = [], []
    for place, zone in enumerate(finding.zones):
        row, column = divmod(place, ZONE_COLUMNS)
        left, right, top, bottom = across[column], across[column + 1], down[row], down[row + 1]
        if left < right and top < bottom:
            lines.append(np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]))
            words = f"{zone.zone} {'ungradable' if zone.score is None else zone.score}"
            lateral = Justification.LEFT if column == 0 else Justification.RIGHT
            x = left if column == 0 else right
            labels.append(_label((words,), (x, top), _SMALLER * _type_size(shape), lateral, shape))
    words_below = zone_overlay.caption_lines(finding, manifest.version)
    return _filled(replace(_ZONES, lines=tuple(lines), labels=tuple(labels)), _text(words_below, shape))


@annotate.register
def _of_landmarks(finding: LandmarkFinding, manifest: Manifest, shape: tuple[int, int]) -> tuple[Layer, ...]:
    layout = lay_out(finding, shape, _type_size(shape))
    outlines, doubtful = (
        tuple(line for body in layout.bodies if body.flagged is flagged for line in _outline(body, shape))
        for flagged in (False, True)
    )
    shown = {body.name for body in layout.bodies if _outline(body, shape)}
    notes = [note for note in layout.notes if _vertebrae_of(note) & shown]
    angles, names, doubted = (
        tuple(_note(note, shape) for note in notes if (note.curve is not None, note.flagged) == kind)
        for kind in ((True, False), (False, False), (False, True))
    )
    first, *constant = spine_overlay.caption_lines(finding, manifest.version)
    more = (*spine_overlay.angle_words(finding)[1:], *spine_overlay.warning_words(finding))
    return _filled(
        replace(_OUTLINES, lines=outlines),
        replace(_REVIEW, lines=doubtful, labels=doubted),
        replace(_COBB, lines=_end_lines(layout.end_lines, shape), labels=angles),
        replace(_NAMES, labels=names),
        _text((first, *more, *constant), shape),
    )


def _filled(*layers: Layer) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if not layer.is_empty)


# Words


def _type_size(shape: tuple[int, int]) -> int:
    return max(_LEAST_TYPE, min(max(shape) // _FILM_PER_TYPE, min(shape) // _NARROW_FILM_PER_TYPE))


def _text(lines: Iterable[str], shape: tuple[int, int]) -> Layer:
    """Give the layer of the finding in words: at the bottom-right corner, where films show least, in smaller type."""
    label = _label(tuple(lines), shape[::-1], _SMALLER * _type_size(shape), Justification.RIGHT, shape)
    return replace(_TEXT, labels=(label,))


def _vertebrae_of(note: Note) -> set[str]:
    """Give the names of vertebrae among the words; those of an angle are joined by a hyphen."""
    return {name for line, _ in note.lines for name in line.split("-")}


def _note(note: Note, shape: tuple[int, int]) -> Label:
    words = tuple(line for line, _ in note.lines)
    beside = Justification.LEFT if note.on_right else Justification.RIGHT
    return _label(words, (note.x, note.top), note.lines[0][1], beside, shape)


def _label(
    lines: tuple[str, ...], corner: tuple[float, float], size: float, side: Justification, shape: tuple[int, int]
) -> Label:
    """Put words at a corner, the left one or the right one as they are justified, moved to lie inside the image."""
    rows, columns = shape
    lines = tuple(_ascii(line) for line in lines)
    width = min(columns, _WIDTH * size * max(map(len, lines)))
    height = min(rows, _LINE * size * len(lines))
    x, y = corner
    left = min(max(x if side is Justification.LEFT else x - width, 0), columns - width)
    top = min(max(y, 0), rows - height)
    return Label(lines, left, top, left + width, top + height, side)


def _ascii(line: str) -> str:
    return line.replace("°", " deg").encode("ascii", "replace").decode()


# Lines


def _outline(body: Body, shape: tuple[int, int]) -> list[Points]:
    """Give a closed line around a vertebra, or what of its edges lies on the image; a sacrum has one edge."""
    if len(body.corners) == 4:
        around = body.corners[[0, 1, 3, 2, 0]]
        if (around >= 0).all() and (around <= np.array(shape[::-1])).all():
            return [around]
    return _cut(body.edges, shape)


def _end_lines(lines: Iterable[EndLine], shape: tuple[int, int]) -> tuple[Points, ...]:
    return tuple(_cut(((line.start, line.end) for line in lines), shape))


def _cut(edges: Iterable[tuple[Points, Points]], shape: tuple[int, int]) -> list[Points]:
    """Give what of straight lines lies on the image, by the parts of each that are inside of all four borders."""
    inside = []
    for start, end in edges:
        reach = end - start
        first, last = 0.0, 1.0
        for axis, size in enumerate(shape[::-1]):
            if reach[axis]:
                ends = sorted(((0 - start[axis]) / reach[axis], (size - start[axis]) / reach[axis]))
                first, last = max(first, ends[0]), min(last, ends[1])
            elif not 0 <= start[axis] <= size:
                last = -1.0
        if first < last:
            ends_inside = np.array([start + first * reach, start + last * reach])
            inside.append(np.clip(ends_inside, 0, np.array(shape[::-1])))  # rounding
    return inside


def _border_of_heat(each: ActivationMap, shape: tuple[int, int]) -> list[Points]:
    """Give closed lines around what is at least `HEAT_LEVEL` hot, the image border included where it is hot."""
    height, width = each.values.shape
    fine_width, fine_height = width * _FINER, height * _FINER
    fine = cv2.resize(each.values, (fine_width, fine_height), interpolation=cv2.INTER_CUBIC)
    found, _ = cv2.findContours((fine >= HEAT_LEVEL).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    frame = each.frame
    lines = []
    for contour in found:
        corners = cv2.approxPolyDP(contour, _SMOOTHING, True)[:, 0].astype(np.float64)
        if len(corners) < _LEAST_CORNERS:
            continue
        # From centres of fine pixels to parts of the frame, and of the image.
        parts = (np.vstack([corners, corners[:1]]) + 0.5) / (fine_width, fine_height)
        of_image = parts * (frame.width, frame.height) + (frame.left, frame.top)
        lines.append(np.clip(of_image, 0, 1) * shape[::-1])
    return lines
