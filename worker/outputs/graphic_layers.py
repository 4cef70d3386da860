"""Graphic layers in a presentation state: Graphic Annotation and Graphic Layer Modules (PS3.3 C.10.5 and C.10.7).

Lines and words have a dark rim, so that they show on bright and on dark film, where a viewer follows their styles; one
that does not has the colour of their layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from worker.outputs import common_modules as common
from worker.outputs.annotations import Label, Layer
from worker.outputs.common_modules import OutputOrder

_BLACK: Final = (0, 32896, 32896)
_DASHES: Final = 0x00FF
"""Line Pattern (0070,0259): eight units on, eight off."""
_LONGEST_TEXT: Final = 1024


def add_layers(dataset: Dataset, order: OutputOrder, layers: Sequence[Layer]) -> None:
    """Add layers and what is on them, the lowest first.

    Args:
        dataset: to add to.
        order: names the image that they belong to.
        layers: at least one; none is empty.
    """
    dataset.GraphicLayerSequence = [_layer(number, layer) for number, layer in enumerate(layers, 1)]
    dataset.GraphicAnnotationSequence = [_annotation(order, layer) for layer in layers]


def _layer(number: int, layer: Layer) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = layer.name, number
    item.GraphicLayerRecommendedDisplayGrayscaleValue = layer.grey
    item.GraphicLayerRecommendedDisplayCIELabValue = list(layer.colour)
    item.GraphicLayerDescription = layer.description
    return item


def _annotation(order: OutputOrder, layer: Layer) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = [common.image_reference(order)]
    annotation.GraphicLayer = layer.name
    if layer.lines:
        annotation.GraphicObjectSequence = [_graphic(line, layer) for line in layer.lines]
    if layer.labels:
        annotation.TextObjectSequence = [_text(label, layer) for label in layer.labels]
    return annotation


def _graphic(line: NDArray[np.float64], layer: Layer) -> Dataset:
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = len(line)
    graphic.GraphicData = [float(value) for value in line.ravel()]
    graphic.GraphicType = "POLYLINE"
    if len(line) > 2 and (line[0] == line[-1]).all():
        graphic.GraphicFilled = "N"  # type 1C, of closed lines
    style = Dataset()
    style.PatternOnColorCIELabValue, style.PatternOnOpacity = list(layer.colour), 1.0
    style.LineThickness = 1.0
    style.LineDashingStyle = "DASHED" if layer.dashed else "SOLID"
    if layer.dashed:
        style.LinePattern = _DASHES
    _add_rim(style)
    graphic.LineStyleSequence = [style]
    return graphic


def _text(label: Label, layer: Layer) -> Dataset:
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "PIXEL"
    text.UnformattedTextValue = common.plain("\r\n".join(label.lines), _LONGEST_TEXT)
    text.BoundingBoxTopLeftHandCorner = [label.left, label.top]
    text.BoundingBoxBottomRightHandCorner = [label.right, label.bottom]
    text.BoundingBoxTextHorizontalJustification = label.justification.value
    style = Dataset()
    style.CSSFontName = "sans-serif"
    style.TextColorCIELabValue = list(layer.colour)
    style.HorizontalAlignment, style.VerticalAlignment = label.justification.value, "TOP"
    style.Underlined = style.Bold = style.Italic = "N"
    _add_rim(style)
    text.TextStyleSequence = [style]
    return text


def _add_rim(style: Dataset) -> None:
    style.ShadowStyle = "OUTLINED"
    style.ShadowOffsetX = style.ShadowOffsetY = 0.0
    style.ShadowColorCIELabValue, style.ShadowOpacity = list(_BLACK), 1.0
