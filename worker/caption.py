"""The strip below the film of an overlay: the finding, where it comes from, the colour scale. It is never on the film.

Set in a type that fits the width of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worker.heat import SMALLEST_SIDE, Bytes, jet

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

FOREGROUND: Final = (235, 235, 235)
BACKGROUND: Final = (16, 18, 22)
WARNING: Final = (255, 176, 64)
_MUTED: Final = (165, 170, 178)


@dataclass(frozen=True, slots=True)
class _Type:
    """Sizes of the strip's type, pixels."""

    size: int

    @classmethod
    def for_picture(cls, width: int, height: int) -> _Type:
        """Fit the width; the type of a tall picture is larger, because it is made smaller to fit a screen."""
        return cls(max(14, min(26, width // 36), min(30, width // 20, height // 48)))

    @property
    def margin(self) -> int:
        return self.size // 2

    @property
    def line(self) -> int:
        return round(self.size * 1.4)


def add_strip(
    film: NDArray[Any],
    finding: str,
    constant: tuple[str, ...],
    *,
    with_scale: bool,
    more: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Bytes:
    """Put a film on its canvas, a strip of text below it.

    Args:
        film: ``(h, w, 3) uint8`` RGB.
        finding: the first line.
        constant: lines below it, the same for many images of a model version; the last one is as bright as the first.
        with_scale: whether the strip explains the colours of heat.
        more: lines below the first, as bright.
        warnings: lines below those, in a colour of their own.

    Returns:
        ``(H, W, 3) uint8`` RGB, W at least 512: the film is centred on a wider canvas.
    """
    height, width = film.shape[:2]
    canvas_width = max(width, SMALLEST_SIDE)
    style = _Type.for_picture(canvas_width, height)
    own = (*((line, FOREGROUND) for line in (finding, *more)), *((line, WARNING) for line in warnings))
    strip = _strip(canvas_width, style, own, constant, with_scale)
    picture = np.empty((height + strip.shape[0], canvas_width, 3), np.uint8)
    if canvas_width > width:
        picture[:height] = BACKGROUND
    left = (canvas_width - width) // 2
    picture[:height, left : left + width] = film
    picture[height:] = strip
    return picture


def room_for(text: str, film: NDArray[Any]) -> bool:
    """Whether a line of a film's strip takes a text in its full type."""
    height, width = film.shape[:2]
    canvas_width = max(width, SMALLEST_SIDE)
    style = _Type.for_picture(canvas_width, height)
    return bool(font(style.size).getlength(text) <= canvas_width - 2 * style.margin)


def _strip(
    width: int, style: _Type, own: tuple[tuple[str, Colour], ...], constant: tuple[str, ...], with_scale: bool
) -> Bytes:
    """Draw the caption, ``(h, width, 3) uint8``: first the lines of this image."""
    image = Image.new("RGB", (width, style.margin + len(own) * style.line), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for row, (text, colour) in enumerate(own):
        fitting = _fitting_font(text, style.size, width - 2 * style.margin)
        place = (style.margin, style.margin + row * style.line)
        draw.text(place, text, fill=colour, font=fitting)
    below = _constant_strip(width, style, constant, with_scale)
    return np.concatenate([np.asarray(image, dtype=np.uint8), np.asarray(below, dtype=np.uint8)])


@lru_cache(maxsize=64)
def _constant_strip(width: int, style: _Type, lines: tuple[str, ...], with_scale: bool) -> Image.Image:
    """Draw what is the same for many images of a model version: setting type takes longer than blending the film."""
    scale_width = 8 * style.size if with_scale else 0
    image = Image.new("RGB", (width, style.margin + len(lines) * style.line), BACKGROUND)
    draw = ImageDraw.Draw(image)
    room = width - 2 * style.margin - (scale_width + 2 * style.margin if scale_width else 0)
    for row, text in enumerate(lines):
        colour = FOREGROUND if row == len(lines) - 1 else _MUTED
        draw.text((style.margin, row * style.line), text, fill=colour, font=_fitting_font(text, style.size, room))
    if scale_width:
        _draw_scale(draw, image, width - style.margin - scale_width, 0, scale_width, style.size)
    return image


def _draw_scale(draw: ImageDraw.ImageDraw, image: Image.Image, left: int, top: int, width: int, size: int) -> None:
    height = size // 2
    bar = cv2.resize(jet()[np.newaxis], (width, height), interpolation=cv2.INTER_LINEAR)
    image.paste(Image.fromarray(bar), (left, top + size // 3))
    small = font(max(11, round(size * 0.7)))
    below = top + size // 3 + height + size // 4
    draw.text((left, below), "low", fill=_MUTED, font=small)
    draw.text((left + width // 2, below), "Grad-CAM", fill=_MUTED, font=small, anchor="ma")
    draw.text((left + width, below), "high", fill=_MUTED, font=small, anchor="ra")


def _fitting_font(text: str, size: int, width: int) -> Font:
    while size > 8 and font(size).getlength(text) > width:
        size -= 1
    return font(size)


@cache
def font(size: int) -> Font:
    """Give the type of every overlay, `size` pixels."""
    return ImageFont.load_default(size)
