"""Where things lie on the film of a spine: vertebrae, the lines of the Cobb angles, and the words beside them.

No word lies over the spine or over a line: it stands in a column of its own, names of vertebrae on the left and angles
on the right, as near to the spine as the spine's own curve permits. What finds no room on the film stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.spine.cobb import CobbAngle, Curve
from worker.spine_finding import LandmarkFinding

Points = NDArray[np.float64]

SMALLEST_DRAWN: Final = 10.0
"""Degrees: from here on a curve is a scoliosis (Scoliosis Research Society). The main curve is always drawn."""

_BEYOND: Final = 0.6
"""How far the line of an end vertebra reaches beyond it on each side, in its own widths."""
_NAMED_EVERY: Final = 4
_SAMPLED_EVERY: Final = 3.0
"""Pixels between the points of an edge of which words keep clear."""


@dataclass(frozen=True, slots=True)
class Body:
    """One vertebra on the film.

    Attributes:
        corners: ``(4, 2)`` or, of a sacrum, ``(2, 2)``, x and y in pixels of the film, in the order of the schema.
        flagged: whether a person should look at it.
    """

    name: str
    corners: Points
    flagged: bool

    @property
    def edges(self) -> tuple[tuple[Points, Points], ...]:
        """The superior end plate, then the inferior one and the sides where there are any."""
        top_left, top_right = self.corners[:2]
        if len(self.corners) == 2:
            return ((top_left, top_right),)
        bottom_left, bottom_right = self.corners[2:]
        return (
            (top_left, top_right),
            (bottom_left, bottom_right),
            (top_left, bottom_left),
            (top_right, bottom_right),
        )

    @property
    def centre(self) -> Points:
        """Mean of the corners."""
        return np.asarray(self.corners.mean(axis=0), np.float64)


@dataclass(frozen=True, slots=True)
class EndLine:
    """The line of an end vertebra: along its tilt, through the middle of the end plate that faces out of the curve."""

    start: Points
    end: Points
    curve: Curve


@dataclass(frozen=True, slots=True)
class Note:
    """Words beside the spine.

    Attributes:
        lines: from top to bottom, each with its size in pixels.
        middle: height of their middle, pixels of the film.
        on_right: of the spine.
        curve: that they speak of; None for the name of a vertebra.
        flagged: whether that vertebra is.
        x: of the end that is next to the spine; beyond the film where it has no room.
    """

    lines: tuple[tuple[str, int], ...]
    middle: float
    on_right: bool
    curve: Curve | None = None
    flagged: bool = False
    x: float = 0.0

    @property
    def height(self) -> float:
        """Pixels."""
        return 1.15 * sum(size for _, size in self.lines)

    @property
    def top(self) -> float:
        """Pixels of the film."""
        return self.middle - self.height / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is drawn on a film, in pixels of the film."""

    bodies: tuple[Body, ...]
    end_lines: tuple[EndLine, ...]
    notes: tuple[Note, ...]


def lay_out(finding: LandmarkFinding, shape: tuple[int, int], size: int) -> Layout:
    """Lay a finding out.

    Args:
        finding: with at least the landmarks of one vertebra, else nothing is drawn.
        shape: rows and columns of the film, pixels.
        size: of the type of an angle, pixels.
    """
    bodies = _bodies(finding, shape)
    drawn = [angle for angle in finding.measures.cobb if _is_drawn(angle)]
    end_lines = _end_lines(drawn, {body.name: body for body in bodies})
    taken = _taken(bodies, end_lines)
    notes = (*_names(bodies, drawn, round(0.7 * size)), *_angles(drawn, bodies, size))
    return Layout(bodies, end_lines, tuple(_place(note, taken, 0.4 * size) for note in notes))


def _bodies(finding: LandmarkFinding, shape: tuple[int, int]) -> tuple[Body, ...]:
    rows, columns = shape
    on_film = finding.landmarks * np.array([columns / finding.columns, rows / finding.rows])
    bodies = []
    for name in finding.schema.vertebrae:
        corners = on_film[list(finding.schema.landmarks_of(name))]
        if np.isfinite(corners).all():
            bodies.append(Body(name, corners, name in finding.flagged))
    return tuple(bodies)


def _is_drawn(angle: CobbAngle) -> bool:
    return angle.curve is Curve.MAIN or angle.degrees >= SMALLEST_DRAWN


def _end_lines(angles: Sequence[CobbAngle], bodies: Mapping[str, Body]) -> tuple[EndLine, ...]:
    """Give the lines of the angles; a vertebra that ends two curves has one line, that of the larger one."""
    lines: dict[str, EndLine] = {}
    for angle in sorted(angles, key=lambda angle: (angle.curve is not Curve.MAIN, -angle.degrees)):
        for name, is_upper in ((angle.upper_vertebra, True), (angle.lower_vertebra, False)):
            body = bodies.get(name)
            if name not in lines and body is not None and len(body.corners) == 4:
                lines[name] = _end_line(body, is_upper, angle.curve)
    return tuple(lines.values())


def _end_line(body: Body, is_upper: bool, curve: Curve) -> EndLine:
    # The angle is one between midlines, so the line has the tilt of the midline; it only starts from the end plate.
    left, right = body.corners[[0, 2]].mean(axis=0), body.corners[[1, 3]].mean(axis=0)
    through = body.corners[:2].mean(axis=0) if is_upper else body.corners[2:].mean(axis=0)
    reach = (right - left) * (0.5 + _BEYOND)
    return EndLine(through - reach, through + reach, curve)


def _taken(bodies: Iterable[Body], lines: Iterable[EndLine]) -> Points:
    """Give points, ``(n, 2)``, of everything that words must keep clear of."""
    edges = [edge for body in bodies for edge in body.edges] + [(line.start, line.end) for line in lines]
    sampled = [
        np.linspace(start, end, 2 + min(1000, int(np.hypot(*(end - start)) / _SAMPLED_EVERY))) for start, end in edges
    ]
    return np.concatenate(sampled) if sampled else np.empty((0, 2))


def _names(bodies: Sequence[Body], angles: Iterable[CobbAngle], size: int) -> list[Note]:
    """Name every fourth vertebra, the last one, those that end a curve, and those to look at."""
    ends = {name for angle in angles for name in (angle.upper_vertebra, angle.lower_vertebra)}
    named = [
        body
        for place, body in enumerate(bodies)
        if place % _NAMED_EVERY == 0 or place == len(bodies) - 1 or body.name in ends or body.flagged
    ]
    return [Note(((body.name, size),), float(body.centre[1]), False, None, body.flagged) for body in named]


def _angles(angles: Iterable[CobbAngle], bodies: Sequence[Body], size: int) -> list[Note]:
    """Put each angle at the middle of its curve, and lower where another one stands."""
    heights = {body.name: float(body.centre[1]) for body in bodies}
    notes: list[Note] = []
    for angle in angles:
        ends = [heights.get(name) for name in (angle.upper_vertebra, angle.lower_vertebra)]
        middle = sum(end for end in ends if end is not None) / 2
        lines = ((f"{angle.degrees:.0f}°", size), (f"{angle.upper_vertebra}-{angle.lower_vertebra}", round(0.6 * size)))
        notes.append(Note(lines, middle, True, angle.curve))
    notes.sort(key=lambda note: note.middle)
    for place in range(1, len(notes)):
        above = notes[place - 1]
        lowest = above.top + above.height + notes[place].height / 2
        notes[place] = replace(notes[place], middle=max(notes[place].middle, lowest))
    return notes


def _place(note: Note, taken: Points, gap: float) -> Note:
    """Move words as near to the spine as they can stand."""
    beside = (taken[:, 1] >= note.top - gap / 2) & (taken[:, 1] <= note.top + note.height + gap / 2)
    across = taken[beside, 0] if beside.any() else taken[:, 0]
    return replace(note, x=float(across.max() + gap if note.on_right else across.min() - gap))
