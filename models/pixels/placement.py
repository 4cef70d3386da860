"""Where the pixels of an original lie in an engine's input, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Placement:
    """A scale and a shift of each axis, from original to input.

    Points are ``(..., 2)`` arrays of x and y in pixels, counted from the top-left corner of the top-left pixel. So the
    centre of a pixel lies at a half, and a scale needs no further shift.

    Attributes:
        scale_x, scale_y: input pixels per original pixel; a letterbox's differ only by the rounding to whole pixels.
        left, top: input pixels before the original begins.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float

    def to_input(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Give points of the original in the input."""
        placed: NDArray[np.float64] = points * np.array([self.scale_x, self.scale_y]) + np.array([self.left, self.top])
        return placed

    def to_original(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Give points of the input in the original."""
        found: NDArray[np.float64] = (points - np.array([self.left, self.top])) / np.array([self.scale_x, self.scale_y])
        return found
