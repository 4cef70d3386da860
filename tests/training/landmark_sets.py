"""Sets of landmarks, and a version that always finds the same spine, so that every answer is known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx

from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import SCHEMAS
from models.store.manifest import Manifest
from models.tasks import Task
from training.datasets.landmark_rows import Points

SIZE = (256, 128)
"""Rows and columns of the images: a quarter of it, 64 x 32, is in the middle of the 64 x 64 input."""

# The straight column of `column`, moved by 10 input pixels times the mean brightness of the input, to the right and
# downwards.
LANDMARK_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
landmarks (float[N, 1, 64, 64] image)
    => (float[N, 68, 2] landmarks, float[N, 68] confidence, float[N, 68] spread)
<float[1, 68, 2] column = {COLUMN}, int64[3] one_each = {0, 1, 1}, int64[2] row = {0, 1}, float ten = {10.0},
 float[1, 68] sure = {SURE}, float[1, 68] two = {TWO}, float zero = {0.0}, int64[3] within = {1, 2, 3}>
{
    mean = ReduceMean (image, within)
    each = Reshape (mean, one_each)
    shift = Mul (each, ten)
    landmarks = Add (column, shift)
    flat = Reshape (mean, row)
    nothing = Mul (flat, zero)
    confidence = Add (sure, nothing)
    spread = Add (two, nothing)
}
"""


def column(size: tuple[int, int] = SIZE, tilts: Sequence[float] = (0.0,) * 17) -> Points:
    """Give 17 vertebrae one below the other, ``(68, 2)`` pixels; each is turned by so many degrees about its middle."""
    rows, columns = size
    corners = np.array([[-4, -1.2], [4, -1.2], [-4, 1.2], [4, 1.2]]) * rows / 64
    bodies = []
    for place, tilt in enumerate(tilts):
        angle = np.radians(tilt)
        turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        bodies.append(turned + np.array([columns / 2, (4 + 3.4 * place) * rows / 64]))
    return np.concatenate(bodies)


def write_landmark_version(directory: Path, **changes: object) -> None:
    """Write a version of task `landmarks` that finds `column` on a black image; `changes` are of the manifest."""
    points = column((64, 32)) + np.array([16, 0])
    values = {"COLUMN": points.ravel(), "SURE": np.full(68, 0.9), "TWO": np.full(68, 2.0)}
    text = LANDMARK_GRAPH
    for name, numbers in values.items():
        text = text.replace(name, ", ".join(f"{number:.6f}" for number in numbers))
    network = onnx.parser.parse_model(text)
    onnx.checker.check_model(network)
    content = network.SerializeToString()
    directory.mkdir(parents=True)
    (directory / "network.onnx").write_bytes(content)
    manifest = Manifest(
        task=Task.LANDMARKS,
        network="constant",
        version=directory.name,
        labels=SCHEMAS["aasce68"].labels,
        input_spec=InputSpec(height=64, width=64, resize=Resize.LETTERBOX),
        output_names=("landmarks", "confidence", "spread"),
        files={"network.onnx": hashlib.sha256(content).hexdigest()},
        licence="test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0",
    ).model_copy(update=changes)
    (directory / "manifest.json").write_text(manifest.model_dump_json())


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Give ``(rows, columns) uint8`` that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)


class AasceWriter:
    """Writes a set as the AASCE challenge published it, image by image."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rows: dict[str, list[tuple[str, str, str]]] = {}

    def add(
        self,
        points: Points | None = None,
        image: np.ndarray | None = None,
        *,
        name: str = "",
        split: str = "test",
        angles: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> str:
        """Write an image, its landmarks in pixels and its angles; give its name within the set.

        An image is of a person of its own, unless its name says otherwise.
        """
        number = sum(map(len, self._rows.values()))
        name = name or f"set-01-{number:03d} A AP.png"
        image = np.zeros(SIZE, np.uint8) if image is None else image
        points = column(image.shape[:2]) if points is None else points
        (self.directory / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.directory / split / name), image)
        normalised = points / image.shape[1::-1]
        self.add_row(name, [f"{value:.9f}" for value in normalised.T.ravel()], angles, split)
        return f"{split}/{name}"

    def add_row(
        self, name: str, values: Sequence[str], angles: Sequence[float] = (0.0, 0.0, 0.0), split: str = "test"
    ) -> None:
        """Name an image; `values` as they stand in the file."""
        row = (name, ",".join(values), ",".join(f"{angle:g}" for angle in angles))
        self._rows.setdefault(split, []).append(row)

    def write(self, *, angles: bool = True) -> Path:
        """Write the tables."""
        for split, rows in self._rows.items():
            for place, what in enumerate(("filenames", "landmarks", *(["angles"] if angles else []))):
                lines = "".join(f"{row[place]}\n" for row in rows)
                (self.directory / f"{split}_{what}.csv").write_text(lines)
        return self.directory
