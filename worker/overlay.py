"""The overlay picture: the film, the heat of Grad-CAM on it, and a caption beside the anatomy, never over it.

The film stays readable: where the map is cold nothing is drawn, where it is hot the colour covers at most 40 percent.
The picture holds no patient identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.identity import DISCLAIMER

ALPHA: Final = 0.4
"""Cover of the hottest place."""

SMALLEST_SIDE: Final = 512
"""Pixels; smaller images are enlarged to this, so that the caption can be read."""

_BACKGROUND: Final = (16, 18, 22)
_FOREGROUND: Final = (235, 235, 235)
_MUTED: Final = (165, 170, 178)


@dataclass(frozen=True, slots=True)
class OverlayCaption:
    """What the caption says. Probabilities and threshold in [0, 1]."""

    task: str
    label: str
    positive_label: str
    probability: float
    threshold: float
    version: str


def draw_overlay(
    display: NDArray[np.uint8], cam: NDArray[np.float32] | None, caption: OverlayCaption
) -> NDArray[np.uint8]:
    """Draw heat and caption on an image.

    Args:
        display: ``(h, w) uint8``, 0 is black, as a person would see the film.
        cam: ``(h', w') float32 in [0, 1]``, covering the same field of view; None for no heat.
        caption: what the strip below says.

    Returns:
        ``(H, W, 3) uint8`` RGB, the image with a caption strip below it; W at least 512 unless the image is very
        narrow, the image part ``display`` scaled by one factor.
    """
    film = _enlarge(display)
    picture = _heat(film, cam) if cam is not None else cv2.cvtColor(film, cv2.COLOR_GRAY2RGB)
    strip = _strip(picture.shape[1], caption, with_scale=cam is not None)
    return np.ascontiguousarray(np.vstack([picture, strip]))


def _enlarge(display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = display.shape
    factor = SMALLEST_SIDE / min(height, width)
    if factor <= 1:
        return display
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if max(size) > 4 * SMALLEST_SIDE:  # a strip of an image: do not make it huge
        return display
    return np.asarray(cv2.resize(display, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _heat(film: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    height, width = film.shape
    smooth = np.clip(cv2.resize(cam, (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    level = (smooth * 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    # The cover grows with the heat, so that a cold map leaves the film as it is.
    cover = cv2.LUT(level, (np.linspace(0.0, 1.0, 256, dtype=np.float32) ** 0.75 * ALPHA).astype(np.float32))
    grey = cv2.cvtColor(film, cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.blendLinear(grey, colour, 1.0 - cover, cover), dtype=np.uint8)


def _strip(width: int, caption: OverlayCaption, with_scale: bool) -> NDArray[np.uint8]:
    size = max(13, min(26, width // 38))
    margin, line = size // 2, round(size * 1.4)
    height = 2 * margin + 3 * line
    image = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    of_what = "" if caption.label == caption.positive_label else f"{caption.positive_label} "
    decided = f"{caption.label}, {of_what}probability {caption.probability:.2f}"
    lines = (
        (decided, _FOREGROUND),
        (f"threshold {caption.threshold:.2f}, AI {caption.task} {caption.version}", _MUTED),
        (DISCLAIMER, _FOREGROUND),
    )
    scale_width = round(size * 7) if with_scale and width >= 24 * size else 0
    for row, (text, colour) in enumerate(lines):
        font = _fitting_font(text, size, width - 2 * margin - (scale_width + margin if scale_width else 0))
        draw.text((margin, margin + row * line), text, fill=colour, font=font)
    if scale_width:
        _draw_scale(draw, image, width - margin - scale_width, margin, scale_width, size)
    return np.asarray(image, dtype=np.uint8)


def _draw_scale(draw: ImageDraw.ImageDraw, image: Image.Image, left: int, top: int, width: int, size: int) -> None:
    ramp = np.linspace(0, 255, width).astype(np.uint8)[np.newaxis]
    bar = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    height = max(4, size // 2)
    image.paste(Image.fromarray(np.repeat(bar, height, axis=0)), (left, top + size // 4))
    font = _font(max(10, size - 4))
    below = top + height + size // 2
    draw.text((left, below), "low", fill=_MUTED, font=font)
    draw.text((left + width, below), "high", fill=_MUTED, font=font, anchor="ra")
    draw.text((left + width // 2, below + size), "Grad-CAM", fill=_MUTED, font=font, anchor="ma")


def _fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    while size > 8 and _font(size).getlength(text) > width:
        size -= 1
    return _font(size)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
