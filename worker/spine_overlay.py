"""The overlay picture of task `landmarks`: the film, thin outlines of the vertebrae, the lines of the Cobb angles.

Lines have a dark rim, so that they show on bright and on dark film. Angles and names of vertebrae stand beside the
spine, see `worker.spine_layout`. Vertebrae that a person should look at are dashed, in a colour of their own. The
picture holds no patient identity and no laterality of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.identity import DISCLAIMER
from models.spine.cobb import CobbAngle, Curve
from worker.caption import BACKGROUND, FOREGROUND, WARNING, Colour, add_strip, font, room_for
from worker.heat import Bytes, enlarge
from worker.spine_finding import LandmarkFinding, slip_words
from worker.spine_layout import Body, Layout, Note, Points, lay_out

_OUTLINE: Final = (110, 205, 235)
_CURVES: Final[dict[Curve, Colour]] = {
    Curve.MAIN: (255, 221, 64),
    Curve.UPPER: (150, 235, 150),
    Curve.LOWER: (225, 170, 255),
}
_RIM: Final = (0, 0, 0)
_COVER_OF_RIM: Final = 0.45
_FILM_PER_LINE: Final = 1000
"""Pixels of the film's longer side for each pixel of a line's width."""
_FILM_PER_TYPE: Final = 32
_TYPE_SIZES: Final = (16, 44)
_DASH: Final = 5
"""Length of a dash, in widths of its line; the gap is as long."""
_SHIFT: Final = 4
"""Bits of OpenCV's fractions of a pixel."""
_FARTHEST: Final = 2**20
"""Pixels from the film at which a line is cut; OpenCV's coordinates have 32 bits."""


def draw_spine_overlay(display: Bytes, finding: LandmarkFinding, version: str) -> Bytes:
    """Draw outlines, lines, angles and caption on an image.

    Args:
        display: ``(h, w) uint8``, 0 is black, as a person would see the film.
        finding: what is drawn; its landmarks may lie beyond the image.
        version: of the network that answered.

    Returns:
        ``(H, W, 3) uint8`` RGB, both sides at least 512: the film scaled by one factor, room for words beside it where
        they need it, a caption strip below it.
    """
    film = enlarge(display)
    rows, columns = film.shape
    longer = max(rows, columns)
    layout = lay_out(finding, (rows, columns), max(_TYPE_SIZES[0], min(_TYPE_SIZES[1], longer // _FILM_PER_TYPE)))
    picture = cv2.merge([film] * 3)
    _draw_lines(picture, layout, max(1, round(longer / _FILM_PER_LINE)))
    picture = _write_notes(picture, layout.notes)
    first, *constant = caption_lines(finding, version)
    more, warnings = _fit(angle_words(finding)[1:], picture), _fit(warning_words(finding), picture)
    return add_strip(picture, first, tuple(constant), with_scale=False, more=more, warnings=warnings)


def caption_lines(finding: LandmarkFinding, version: str) -> tuple[str, ...]:
    """Give the first words of the finding, what the dashes mean where there are any, the origin, the disclaimer."""
    nothing = "No slip" if finding.measures.slips else "No angle or slip was measured"
    first = angle_words(finding)[:1] or (nothing,)
    dashes = ("dashed: to be reviewed",) if finding.flagged else ()
    return (*first, *dashes, f"AI landmarks, version {version}", DISCLAIMER)


def angle_words(finding: LandmarkFinding) -> tuple[str, ...]:
    """Give the angles, the main one first, and the slips, in words.

    The others go by their vertebrae alone: of some spines both lie above the main curve, and a "lower" one above it
    would puzzle whoever reads the film.
    """
    main, others = (
        [angle for angle in finding.curves if (angle.curve is Curve.MAIN) is is_main] for is_main in (True, False)
    )
    words = [f"Main Cobb {_of_curve(angle)}" for angle in main]
    words += [f"{'' if place else 'also '}{_of_curve(angle)}" for place, angle in enumerate(others)]
    return (*words, *map(slip_words, finding.slips))


def _of_curve(angle: CobbAngle) -> str:
    return f"{angle.degrees:.1f}° ({angle.upper_vertebra}-{angle.lower_vertebra})"


def warning_words(finding: LandmarkFinding) -> tuple[str, ...]:
    """Say why a person should look at it; nothing where nobody need."""
    return tuple(f"REVIEW: {words}" if place == 0 else words for place, words in enumerate(finding.review_words))


def _fit(words: Iterable[str], film: NDArray[Any]) -> tuple[str, ...]:
    """Join words by commas into as few lines as the strip of a film has room for."""
    lines: list[str] = []
    for word in words:
        if lines and room_for(f"{lines[-1]}, {word}", film):
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return tuple(lines)


def _draw_lines(picture: NDArray[Any], layout: Layout, width: int) -> None:
    """Draw outlines, dashed where flagged, and over them the lines of the angles with their rims."""
    for flagged, colour in ((False, _OUTLINE), (True, WARNING)):
        _stroke(picture, _outlines(layout.bodies, flagged, width), colour, width)
    lines = [(line.start, line.end) for line in layout.end_lines]
    _stroke(picture, lines, _RIM, 2 * width + 2, _COVER_OF_RIM)
    for curve, colour in _CURVES.items():
        of_curve = [(line.start, line.end) for line in layout.end_lines if line.curve is curve]
        _stroke(picture, of_curve, colour, ceil(1.5 * width) if curve is Curve.MAIN else width)


def _outlines(bodies: Iterable[Body], flagged: bool, width: int) -> list[tuple[Points, Points]]:
    edges = [edge for body in bodies if body.flagged is flagged for edge in body.edges]
    return [dash for edge in edges for dash in _dashes(edge, _DASH * width)] if flagged else edges


def _dashes(edge: tuple[Points, Points], length: int) -> list[tuple[Points, Points]]:
    start, end = edge
    count = min(1000, max(1, round(float(np.hypot(*(end - start))) / (2 * length))))
    steps = np.linspace(start, end, 2 * count)  # a dash at both ends, so that corners can be seen
    return [(steps[2 * place], steps[2 * place + 1]) for place in range(count)]


def _stroke(
    picture: NDArray[Any], lines: Sequence[tuple[Points, Points]], colour: Colour, width: int, cover: float = 1.0
) -> None:
    """Draw lines of one colour, smooth at their edges, `cover` of what is below them hidden."""
    if not lines:
        return
    mask = np.zeros(picture.shape[:2], np.uint8)
    for start, end in np.clip(np.array(lines), -_FARTHEST, _FARTHEST):
        # OpenCV counts from the centre of the first pixel.
        first, last = (tuple(int(value) for value in np.rint((point - 0.5) * 2**_SHIFT)) for point in (start, end))
        cv2.line(mask, first, last, 255, width, cv2.LINE_AA, _SHIFT)
    touched = mask > 0
    share = (mask[touched] * (cover / 255))[:, np.newaxis]
    picture[touched] = np.rint(picture[touched] * (1 - share) + np.array(colour) * share).astype(np.uint8)


def _write_notes(picture: NDArray[Any], notes: Sequence[Note]) -> NDArray[Any]:
    """Write the words, on a wider canvas where the film has no room for them."""
    height, width = picture.shape[:2]
    # Words about a landmark far beyond the film have no place in the picture, and would have none in Pillow's integers.
    near = [note for note in notes if -height <= note.top <= height and -width <= note.x <= 2 * width]
    ends = [_ends(note) for note in near]
    left = min(width, max(0, ceil(-min((start for start, _ in ends), default=0))))
    right = min(width, max(0, ceil(max((end for _, end in ends), default=0) - width)))
    canvas = np.full((height, left + width + right, 3), BACKGROUND, np.uint8)
    canvas[:, left : left + width] = picture
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for note in near:
        _write(draw, note, left)
    return np.array(image)


def _ends(note: Note) -> tuple[float, float]:
    """Give where words begin and end across the film, with a margin."""
    margin = note.lines[0][1] / 3
    length = max(font(size).getlength(text) for text, size in note.lines) + margin
    return (note.x, note.x + length) if note.on_right else (note.x - length, note.x)


def _write(draw: ImageDraw.ImageDraw, note: Note, shift: int) -> None:
    colour = _CURVES[note.curve] if note.curve else WARNING if note.flagged else FOREGROUND
    top = note.top
    for text, size in note.lines:
        draw.text(
            (note.x + shift, top + 1.15 * size / 2),
            text,
            fill=colour,
            font=font(size),
            anchor="lm" if note.on_right else "rm",
            stroke_width=max(1, size // 12),
            stroke_fill=_RIM,
        )
        top += 1.15 * size
