"""Sets of zone scores, and a version that grades a zone by its brightness, so that every answer is known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx

from models.pixels.spec import InputSpec
from models.store.manifest import Manifest
from models.tasks import Task
from models.zones import CLASS_NAMES

# Brightness b of a zone, in [0, 1], gives the classes next to 4 b a share each: 0 is normal, 1/4 mild, 1 ungradable.
ZONE_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
zones (float[N, 1, 24, 16] image) => (float[N, 6, 5] probability, float[N, 6, 3, 2] cam)
<int64[3] column = {0, 6, 1}, int64[4] grid = {0, 6, 3, 2}, float four = {4.0}, float one = {1.0},
 float[1, 1, 5] classes = {0.0, 1.0, 2.0, 3.0, 4.0}, float[1, 6, 6] places = {PLACES}>
{
    pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (image)
    brightness = Reshape (pooled, column)
    score = Mul (brightness, four)
    difference = Sub (score, classes)
    distance = Abs (difference)
    nearness = Sub (one, distance)
    probability = Relu (nearness)
    placed = Mul (brightness, places)
    cam = Reshape (placed, grid)
}
"""


def write_csi_version(directory: Path, **changes: object) -> None:
    """Write a version of task `csi` that grades a zone by its brightness; `changes` are of the manifest."""
    places = ", ".join(f"{float(place == zone)}" for zone in range(6) for place in range(6))
    network = onnx.parser.parse_model(ZONE_GRAPH.replace("PLACES", places))
    onnx.checker.check_model(network)
    content = network.SerializeToString()
    directory.mkdir(parents=True)
    (directory / "network.onnx").write_bytes(content)
    manifest = Manifest(
        task=Task.CSI,
        network="brightness",
        version=directory.name,
        labels=CLASS_NAMES,
        input_spec=InputSpec(height=24, width=16),
        output_names=("probability", "cam"),
        files={"network.onnx": hashlib.sha256(content).hexdigest()},
        licence="test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0",
    ).model_copy(update=changes)
    (directory / "manifest.json").write_text(manifest.model_dump_json())


def zone_picture(classes: Sequence[int], size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """Draw six zones, ``(rows, columns) uint8``, that the version of `csi_store` calls by these classes."""
    grid = np.array(classes, np.float64).reshape(3, 2) / 4
    rows, columns = size[0] // 3, size[1] // 2
    return np.rint(255 * np.kron(grid, np.ones((rows, columns)))).astype(np.uint8)


class ZoneSetWriter:
    """Writes a set with Brixia scores, or in the format of the CSI, image by image."""

    BRIXIA_ORDER = (0, 2, 4, 1, 3, 5)  # A, B, C are the right lung downwards, D, E, F the left

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "images").mkdir(parents=True)
        self._rows: list[tuple[str, str, Sequence[Sequence[int]]]] = []

    def add(self, shown: Sequence[int], *readers: Sequence[int], person: str = "") -> str:
        """Write an image whose zones show these classes, and what readers said; give its name in the table."""
        name = f"images/i{len(self._rows):02d}.png"
        cv2.imwrite(str(self.directory / name), zone_picture(shown))
        self.add_row(name, *readers, person=person)
        return name

    def add_row(self, name: str, *readers: Sequence[int], person: str = "") -> None:
        """Name an image."""
        self._rows.append((name, person or f"p{len(self._rows)}", readers))

    def write_brixia(self, readers: str = "SJ") -> Path:
        """Write ``scores.csv``; `readers` are the columns that it has."""
        lines = [",".join(["file", *(f"{reader}-{letter}" for reader in readers for letter in "ABCDEF"), "patient"])]
        for name, person, said in self._rows:
            given = [[str(grades[place]) for place in self.BRIXIA_ORDER] for grades in said]
            given += [[""] * 6 for _ in range(len(readers) - len(given))]
            lines.append(",".join([name, *(cell for cells in given for cell in cells), person]))
        (self.directory / "scores.csv").write_text("\n".join(lines) + "\n")
        return self.directory

    def write_csi(self) -> Path:
        """Write ``labels.csv`` of the first reader; 4 is left empty."""
        lines = ["FileID;right_sup;left_sup;right_mid;left_mid;right_inf;left_inf;patient"]
        for name, person, said in self._rows:
            cells = ["" if grade == 4 else str(grade) for grade in said[0]]
            lines.append(";".join([Path(name).stem, *cells, person]))
        (self.directory / "labels.csv").write_text("\n".join(lines) + "\n")
        return self.directory
