"""The overlay picture: the film, the heat of Grad-CAM on it, and a caption beside the anatomy, never over it.

The film stays readable: where the map is cold it is untouched, where it is hot colour covers at most 40 percent of it.
The picture holds no patient identity and no laterality of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.identity import DISCLAIMER

ALPHA: Final = 0.4
"""Cover of the hottest places."""

COLD: Final = 0.15
"""Heat up to which the film is untouched."""

HOT: Final = 0.6
"""Heat from which `ALPHA` holds; between the two the cover grows smoothly."""

SMALLEST_SIDE: Final = 512
"""Pixels; smaller films are enlarged to this, and narrower ones get a margin, so that the caption can be read."""

_LONGEST_ENLARGED: Final = 2048
_BACKGROUND: Final = (16, 18, 22)
_FOREGROUND: Final = (235, 235, 235)
_MUTED: Final = (165, 170, 178)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OverlayCaption:
    """What the caption says. Probabilities and threshold in [0, 1]."""

    task: str
    label: str
    positive_label: str
    probability: float
    threshold: float
    version: str

    def lines(self) -> tuple[str, str, str]:
        """Finding, origin and disclaimer."""
        probability, threshold = f"{self.probability:.2f}", f"{self.threshold:.2f}"
        if probability == threshold:  # 0.518 must not look like the 0.520 that it is below
            probability, threshold = f"{self.probability:.3f}", f"{self.threshold:.3f}"
        of_what = "" if self.label == self.positive_label else f"{self.positive_label} "
        return (
            f"{self.label} - {of_what}probability {probability}, threshold {threshold}",
            f"AI {self.task}, version {self.version}",
            DISCLAIMER,
        )


def draw_overlay(display: Bytes, cam: NDArray[np.float32] | None, caption: OverlayCaption) -> Bytes:
    """Draw heat and caption on an image.

    Args:
        display: ``(h, w) uint8``, 0 is black, as a person would see the film.
        cam: ``(h', w') float32 in [0, 1]``, covering the same field of view; None for no heat.
        caption: what the strip below says.

    Returns:
        ``(H, W, 3) uint8`` RGB, both sides at least 512: the film scaled by one factor, a caption strip below it.
    """
    film = _enlarge(display)
    height, width = film.shape
    canvas_width = max(width, SMALLEST_SIDE)
    strip = _strip(canvas_width, caption, with_scale=cam is not None)
    picture = np.empty((height + strip.shape[0], canvas_width, 3), np.uint8)
    if canvas_width > width:
        picture[:height] = _BACKGROUND
    left = (canvas_width - width) // 2
    picture[:height, left : left + width] = _heat(film, cam) if cam is not None else cv2.merge([film] * 3)
    picture[height:] = strip
    return picture


def _enlarge(display: Bytes) -> Bytes:
    height, width = display.shape
    factor = min(SMALLEST_SIDE / min(height, width), _LONGEST_ENLARGED / max(height, width))
    if factor <= 1:
        return display
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cast(Bytes, cv2.resize(display, size, interpolation=cv2.INTER_CUBIC))


def _heat(film: Bytes, cam: NDArray[np.float32]) -> NDArray[Any]:
    """Blend ``film * (1 - cover) + colour * cover``; both factors depend on the heat alone, so they are looked up."""
    height, width = film.shape
    # Smooth at a quarter of the size and linear from there: the map has a few pixels, nobody sees the difference.
    quarter = (max(1, width // 4), max(1, height // 4))
    smooth = cv2.resize(np.ascontiguousarray(cam, np.float32), quarter, interpolation=cv2.INTER_CUBIC)
    level = cv2.resize(np.clip(smooth * 255, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    kept, colours = _blend_tables()
    darkened = cv2.multiply(film, cv2.LUT(level, kept), scale=1 / 255)
    return cv2.merge([cv2.add(darkened, cv2.LUT(level, colour)) for colour in colours])


@cache
def _blend_tables() -> tuple[Bytes, tuple[Bytes, Bytes, Bytes]]:
    """Share of the film that is kept, 0 to 255, and what each of red, green and blue adds, by heat 0 to 255."""
    ramp = np.clip((np.arange(256) / 255 - COLD) / (HOT - COLD), 0, 1)
    cover = ALPHA * ramp * ramp * (3 - 2 * ramp)
    added = np.rint(_jet() * cover[:, np.newaxis]).astype(np.uint8)
    red, green, blue = (np.ascontiguousarray(added[:, channel]) for channel in range(3))
    return np.rint(255 * (1 - cover)).astype(np.uint8), (red, green, blue)


def _jet() -> Bytes:
    """Colours by heat: ``(256, 3) uint8`` RGB."""
    # From 223, pure red, on jet grows darker, which looks colder on a bright film: left out.
    ramp = np.linspace(0, 223, 256).astype(np.uint8)[:, np.newaxis]
    return cast(Bytes, cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)[:, 0])


@dataclass(frozen=True, slots=True)
class _Type:
    """Sizes of the strip's type, pixels."""

    size: int

    @classmethod
    def for_width(cls, width: int) -> _Type:
        return cls(max(14, min(26, width // 36)))

    @property
    def margin(self) -> int:
        return self.size // 2

    @property
    def line(self) -> int:
        return round(self.size * 1.4)


def _strip(width: int, caption: OverlayCaption, with_scale: bool) -> Bytes:
    """Draw the caption: ``(h, width, 3) uint8``."""
    style = _Type.for_width(width)
    finding, *constant = caption.lines()
    image = _constant_strip(width, tuple(constant), with_scale).copy()
    font = _fitting_font(finding, style.size, width - 2 * style.margin)
    ImageDraw.Draw(image).text((style.margin, style.margin), finding, fill=_FOREGROUND, font=font)
    return np.asarray(image, dtype=np.uint8)


@lru_cache(maxsize=64)
def _constant_strip(width: int, lines: tuple[str, ...], with_scale: bool) -> Image.Image:
    """Draw what is the same for every image of a model version: setting type takes longer than blending the film."""
    style = _Type.for_width(width)
    scale_width = 8 * style.size if with_scale else 0
    image = Image.new("RGB", (width, 2 * style.margin + (1 + len(lines)) * style.line), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    room = width - 2 * style.margin - (scale_width + 2 * style.margin if scale_width else 0)
    for row, (text, colour) in enumerate(zip(lines, (_MUTED, _FOREGROUND), strict=True), start=1):
        place = (style.margin, style.margin + row * style.line)
        draw.text(place, text, fill=colour, font=_fitting_font(text, style.size, room))
    if scale_width:
        left, top = width - style.margin - scale_width, style.margin + style.line
        _draw_scale(draw, image, left, top, scale_width, style.size)
    return image


def _draw_scale(draw: ImageDraw.ImageDraw, image: Image.Image, left: int, top: int, width: int, size: int) -> None:
    height = size // 2
    bar = cv2.resize(_jet()[np.newaxis], (width, height), interpolation=cv2.INTER_LINEAR)
    image.paste(Image.fromarray(bar), (left, top + size // 3))
    font = _font(max(11, round(size * 0.7)))
    below = top + size // 3 + height + size // 4
    draw.text((left, below), "low", fill=_MUTED, font=font)
    draw.text((left + width // 2, below), "Grad-CAM", fill=_MUTED, font=font, anchor="ma")
    draw.text((left + width, below), "high", fill=_MUTED, font=font, anchor="ra")


def _fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    while size > 8 and _font(size).getlength(text) > width:
        size -= 1
    return _font(size)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
