"""A whole spine whose landmarks and angles are known, drawn as bright boxes, and a network that finds it.

The network is none: it answers the very landmarks of the drawn spine, around the middle of what is bright. So a spine
that is drawn elsewhere, or in an image of another shape, is found where it lies, or the way there and back is wrong.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import SCHEMAS
from models.store.manifest import Manifest
from models.tasks import Task

SCHEMA = SCHEMAS["aasce68"]
SIDE = 128
UNIT_OF_INPUT = 1.0

TILTS = (0, 5, 10, 15, 12, 8, 4, 0, -4, -8, -10, -8, -6, -4, -3, -1, 0)
"""Degrees by vertebra from T1 to L5, positive where the right side of the image is lower."""
ANGLES = {"main": (25, "T4", "T11"), "upper": (15, "T1", "T4"), "lower": (10, "T11", "L5")}
"""By hand: between the vertebrae that are tilted most, and from there to the ends, as the column is straight."""

STEP, HEIGHT, WIDTH = 6.0, 4.0, 10.0
"""Between vertebrae and of each, in units; the column is 100 units high."""
CONFIDENCE, REVIEW_CONFIDENCE, SPREAD = 0.9, 0.5, 1.5


def corners(x: float = 0.0, y: float = 0.0, unit: float = 1.0) -> NDArray[np.float64]:
    """Give the landmarks ``(68, 2)`` of the spine whose middle is at x and y."""
    points = []
    for place, tilt in enumerate(TILTS):
        middle = STEP * (place - (len(TILTS) - 1) / 2)
        lower_by = WIDTH / 2 * np.tan(np.radians(tilt))
        for plate in (middle - HEIGHT / 2, middle + HEIGHT / 2):
            points += [(-WIDTH / 2, plate - lower_by), (WIDTH / 2, plate + lower_by)]
    return np.array(points) * unit + np.array([x, y])


def draw(shape: tuple[int, int], landmarks: NDArray[np.float64], grey: int = 4095) -> NDArray[np.uint16]:
    """Draw the vertebrae in grey on black."""
    film = np.zeros(shape, np.uint16)
    for box in landmarks.reshape(-1, 4, 2)[:, [0, 1, 3, 2]]:
        # OpenCV counts from the centre of the first pixel; 4 bits are a fraction.
        cv2.fillPoly(film, [np.rint((box - 0.5) * 16).astype(np.int32)], grey, shift=4)
    return film


GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
spine (float[N, 1, SIDE, SIDE] image) => (float[N, 68, 2] landmarks, float[N, 68] confidence, float[N, 68] spread)
<int64[3] axes = {1, 2, 3}, int64[2] middle_shape = {-1, 2}, int64[1] one = {1}, int64[2] list = {-1, 1},
 float least = {1.0}>
{
    grey = ReduceSum (image, axes)
    total = Max (grey, least)
    across = Mul (image, columns)
    x_sum = ReduceSum (across, axes)
    down = Mul (image, rows)
    y_sum = ReduceSum (down, axes)
    x = Div (x_sum, total)
    y = Div (y_sum, total)
    both = Concat <axis = 3> (x, y)
    flat = Reshape (both, middle_shape)
    middle = Unsqueeze (flat, one)
    landmarks = Add (middle, corners)
    brightest = ReduceMax (image, axes)
    brightness = Reshape (brightest, list)
    confidence = Mul (brightness, confidences)
    nothing = Mul (confidence, zero)
    spread = Add (nothing, spreads)
}
"""


def network() -> bytes:
    """Give the graph; confidence is that of the constant at the full brightness of the image, and less below."""
    graph = onnx.parser.parse_model(GRAPH.replace("SIDE", str(SIDE)))
    centres = np.arange(SIDE, dtype=np.float32) + 0.5
    constants = {
        "columns": centres.reshape(1, 1, 1, -1),
        "rows": centres.reshape(1, 1, -1, 1),
        "corners": corners(unit=UNIT_OF_INPUT)[np.newaxis].astype(np.float32),
        "confidences": np.full((1, len(SCHEMA)), CONFIDENCE, np.float32),
        "spreads": np.full((1, len(SCHEMA)), SPREAD, np.float32),
        "zero": np.zeros((1, 1), np.float32),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString()
    return content


def manifest_of(content: bytes, **changes: object) -> Manifest:
    """Give the manifest of a graph."""
    manifest = Manifest(
        task=Task.LANDMARKS,
        network="middle_of_the_bright",
        version="5.0.0",
        labels=SCHEMA.labels,
        review_confidence=REVIEW_CONFIDENCE,
        input_spec=InputSpec(height=SIDE, width=SIDE, resize=Resize.LETTERBOX),
        output_names=("landmarks", "confidence", "spread"),
        files={"network.onnx": hashlib.sha256(content).hexdigest()},
        licence="made by a test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0.1.0",
    )
    return manifest.model_copy(update=changes)


def write_version(directory: Path, **changes: object) -> Path:
    """Write a model version; `changes` are those of its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    content = network()
    (directory / "network.onnx").write_bytes(content)
    (directory / "manifest.json").write_text(manifest_of(content, **changes).model_dump_json(indent=2))
    return directory
