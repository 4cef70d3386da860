"""Shrinking and growing of one-channel images: the same for training and serving.

Shrinking takes area means. Large images are first halved by exact 2 x 2 means, which is thirty times quicker than a
general area resize and is area averaging all the same; an odd last row or column is left out. Growing is linear.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pixels.lung_fields import Frame
from models.pixels.spec import InputSpec, Resize


def halve(image: NDArray[Any]) -> NDArray[Any]:
    """Average 2 x 2 pixels: ``(h, w)`` to ``(h // 2, w // 2)``, dtype kept, rounded half up."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return cv2.resize(image[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)


def halvings_for(shape: tuple[int, ...], rows: int, columns: int) -> int:
    """Say how often an image can be halved and still be at least twice ``rows x columns``."""
    halvings = 0
    while shape[0] >> halvings + 1 >= 2 * rows and shape[1] >> halvings + 1 >= 2 * columns:
        halvings += 1
    return halvings


def shift(image: NDArray[Any], distance: float) -> NDArray[Any]:
    """Sample ``(h, w)`` at `distance` pixels right of and below each pixel; the border is repeated."""
    matrix = np.array([[1, 0, distance], [0, 1, distance]], np.float64)
    size = (image.shape[1], image.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def resize(image: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Make ``(h, w)`` into ``(rows, columns)``, dtype kept: area means where it shrinks, linear where it grows."""
    height, width = image.shape
    shrunk = (min(rows, height), min(columns, width))
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (rows, columns):
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return image


def fitted_size(shape: tuple[int, ...], spec: InputSpec) -> tuple[int, int]:
    """Give rows and columns that an image of `shape` has inside the input: all of it, or what keeps its shape."""
    if spec.resize is Resize.STRETCH:
        return spec.height, spec.width
    scale = min(spec.height / shape[0], spec.width / shape[1])
    rows, columns = round(shape[0] * scale), round(shape[1] * scale)
    return min(spec.height, max(1, rows)), min(spec.width, max(1, columns))


def crop(image: NDArray[Any], frame: Frame) -> tuple[NDArray[Any], Frame]:
    """Cut a frame out of ``(h, w)``, at whole pixels.

    Returns:
        What of the image lies in the frame, at least one pixel, and where it lies there: a rectangle in parts of the
        frame, which is all of it unless the frame reaches beyond the image.
    """
    height, width = image.shape
    rows, columns = pixels_of(frame, height, width)
    inside = Frame(
        (columns.start / width - frame.left) / frame.width,
        (rows.start / height - frame.top) / frame.height,
        (columns.stop / width - frame.left) / frame.width,
        (rows.stop / height - frame.top) / frame.height,
    )
    return image[rows, columns], inside


def pixels_of(frame: Frame, rows: int, columns: int) -> tuple[slice, slice]:
    """Give the rows and columns, of so many, that a rectangle in parts of them covers: at least one each."""
    vertical, horizontal = _cut(frame.top, frame.bottom, rows), _cut(frame.left, frame.right, columns)
    return slice(*vertical), slice(*horizontal)


def centre(image: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Put ``(h, w)`` into the middle of ``(rows, columns)`` zeros; an odd pixel goes below and right."""
    if image.shape == (rows, columns):
        return image
    placed = np.zeros((rows, columns), image.dtype)
    top, left = (rows - image.shape[0]) // 2, (columns - image.shape[1]) // 2
    placed[top : top + image.shape[0], left : left + image.shape[1]] = image
    return placed


def _cut(first: float, last: float, side: int) -> tuple[int, int]:
    start = min(max(round(first * side), 0), side - 1)
    return start, min(max(round(last * side), start + 1), side)
