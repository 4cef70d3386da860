"""The overlay picture of a two-class task: the film, the heat of Grad-CAM on it, and a caption below.

The caption stands beside the anatomy, never over it. The picture holds no patient identity and no laterality of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from worker.caption import add_strip
from worker.heat import Bytes, blend, enlarge


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
    film = enlarge(display)
    finding, *constant = caption.lines()
    heated = _heat(film, cam) if cam is not None else cv2.merge([film] * 3)
    return add_strip(heated, finding, tuple(constant), with_scale=cam is not None)


def _heat(film: Bytes, cam: NDArray[np.float32]) -> NDArray[Any]:
    height, width = film.shape
    # Smooth at a quarter of the size and linear from there: the map has a few pixels, nobody sees the difference.
    quarter = (max(1, width // 4), max(1, height // 4))
    smooth = cv2.resize(np.ascontiguousarray(cam, np.float32), quarter, interpolation=cv2.INTER_CUBIC)
    level = cv2.resize(np.clip(smooth * 255, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return blend(film, cast(Bytes, level))
