"""The film of an overlay and the heat on it.

The film stays readable: where a map is cold it is untouched, where it is hot colour covers at most 40 percent of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ALPHA: Final = 0.4
"""Cover of the hottest places."""

COLD: Final = 0.15
"""Heat up to which the film is untouched."""

HOT: Final = 0.6
"""Heat from which `ALPHA` holds; between the two the cover grows smoothly."""

SMALLEST_SIDE: Final = 512
"""Pixels; smaller films are enlarged to this, and narrower ones get a margin, so that the caption can be read."""

_LONGEST_ENLARGED: Final = 2048


def enlarge(display: Bytes) -> Bytes:
    """Scale a small film by one factor, so that its shorter side is 512 pixels; ``(h, w) uint8`` to the same."""
    height, width = display.shape
    factor = min(SMALLEST_SIDE / min(height, width), _LONGEST_ENLARGED / max(height, width))
    if factor <= 1:
        return display
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cast(Bytes, cv2.resize(display, size, interpolation=cv2.INTER_CUBIC))


def blend(film: Bytes, level: Bytes) -> NDArray[Any]:
    """Lay heat on a film: ``(h, w) uint8`` each, heat 255 is 1, to ``(h, w, 3) uint8`` RGB.

    ``film * (1 - cover) + colour * cover``; both factors depend on the heat alone, so they are looked up.
    """
    kept, colours = _blend_tables()
    darkened = cv2.multiply(film, cv2.LUT(level, kept), scale=1 / 255)
    return cv2.merge([cv2.add(darkened, cv2.LUT(level, colour)) for colour in colours])


@cache
def _blend_tables() -> tuple[Bytes, tuple[Bytes, Bytes, Bytes]]:
    """Share of the film that is kept, 0 to 255, and what each of red, green and blue adds, by heat 0 to 255."""
    ramp = np.clip((np.arange(256) / 255 - COLD) / (HOT - COLD), 0, 1)
    cover = ALPHA * ramp * ramp * (3 - 2 * ramp)
    added = np.rint(jet() * cover[:, np.newaxis]).astype(np.uint8)
    red, green, blue = (np.ascontiguousarray(added[:, channel]) for channel in range(3))
    return np.rint(255 * (1 - cover)).astype(np.uint8), (red, green, blue)


def jet() -> Bytes:
    """Colours by heat: ``(256, 3) uint8`` RGB."""
    # From 223, pure red, on jet grows darker, which looks colder on a bright film: left out.
    ramp = np.linspace(0, 223, 256).astype(np.uint8)[:, np.newaxis]
    return cast(Bytes, cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)[:, 0])
