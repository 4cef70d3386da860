"""Engines that answer by how grey an image is."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from models.engines.engine import EngineInfo, Outputs
from models.store.manifest import Manifest
from models.zones import ZONE_COLUMNS, ZONE_ROWS, ZONES

SIDE = 16
"""Of the image that `MeanEngine` takes, pixels."""


class MeanEngine:
    """An engine whose probability of pneumonia is the mean of the image, and whose map is the image."""

    def __init__(self, manifest: Manifest, info: EngineInfo) -> None:
        self.manifest = manifest
        self.info = info
        self.batches: list[int] = []
        self.closed = False
        self.failures: list[Exception] = []

    def run(self, image: NDArray[np.float32]) -> Outputs:
        """Answer, or raise what the test put into `failures`."""
        assert image.dtype == np.float32
        assert image.shape[1:] == (1, SIDE, SIDE)
        self.batches.append(len(image))
        if self.failures:
            raise self.failures.pop(0)
        positive = image.mean(axis=(1, 2, 3))
        return {"probability": np.stack([1 - positive, positive], axis=1), "cam": image[:, 0, ::2, ::2].copy()}

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


# Of six zones each is severe by its mean grey, else normal; its map is the image where the zone is.
ZONES_BY_GREY = """
<ir_version: 10, opset_import: ["" : 18]>
zones (float[N, 1, 24, 24] image) => (float[N, 6, 5] probability, float[N, 6, 12, 12] cam)
<int64[3] list = {-1, 6, 1}, float unit = {1.0}>
{
    means = AveragePool <kernel_shape = [8, 12], strides = [8, 12]> (image)
    severe = Reshape (means, list)
    normal = Sub (unit, severe)
    other = Sub (severe, severe)
    probability = Concat <axis = 2> (normal, other, other, severe, other)
    small = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (image)
    cam = Mul (small, places)
}
"""


def places_of_zones(height: int, width: int) -> NDArray[np.float32]:
    """``(6, height, width)``: 1 where a zone is, else 0."""
    places = np.zeros((len(ZONES), height, width), np.float32)
    rows, columns = height // ZONE_ROWS, width // ZONE_COLUMNS
    for number in range(len(ZONES)):
        row, column = divmod(number, ZONE_COLUMNS)
        places[number, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = 1
    return places


def network_by_grey() -> bytes:
    """Give the graph of six zones."""
    graph = onnx.parser.parse_model(ZONES_BY_GREY)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(places_of_zones(12, 12)[np.newaxis], "places"))
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString()
    return content
