"""Which of the attributes that say what a pixel measures is believed (PS3.3 10.7.1, C.8.11.4, C.8.11.5)."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from models.pixels.spacing import read_spacing
from models.spine.spacing import SpacingSource


def header(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def read(**elements: Any) -> tuple[float, float, SpacingSource] | None:
    spacing = read_spacing(header(**elements))
    return None if spacing is None else (round(spacing.row_mm, 9), round(spacing.column_mm, 9), spacing.source)


DETECTOR = {"ImagerPixelSpacing": [0.2, 0.2]}


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, None),
        # 10.7.1.3: rows first.
        ({"PixelSpacing": [0.30, 0.25]}, (0.30, 0.25, SpacingSource.PIXEL_SPACING)),
        (DETECTOR, (0.2, 0.2, SpacingSource.IMAGER_PIXEL_SPACING)),
        # 10.7.1.1: equal is not calibrated, and 0.2 may have been written 0.20001.
        ({"PixelSpacing": [0.2, 0.20001]} | DETECTOR, (0.2, 0.2, SpacingSource.IMAGER_PIXEL_SPACING)),
        (
            {"PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "GEOMETRY"} | DETECTOR,
            (0.2, 0.2, SpacingSource.IMAGER_PIXEL_SPACING),
        ),
        ({"PixelSpacing": [0.16, 0.16]} | DETECTOR, (0.16, 0.16, SpacingSource.PIXEL_SPACING_CORRECTED)),
        (
            {"PixelSpacing": [0.16, 0.16], "PixelSpacingCalibrationType": "GEOMETRY"} | DETECTOR,
            (0.16, 0.16, SpacingSource.CALIBRATED_GEOMETRY),
        ),
        (
            {"PixelSpacing": [0.16, 0.16], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.16, 0.16, SpacingSource.CALIBRATED_FIDUCIAL),
        ),
        (
            {"PixelSpacing": [0.16, 0.16], "PixelSpacingCalibrationType": "GUESSED"},
            (0.16, 0.16, SpacingSource.PIXEL_SPACING),
        ),
        # At the detector divided by the magnification, unless Pixel Spacing was corrected already.
        (
            DETECTOR | {"EstimatedRadiographicMagnificationFactor": "1.25"},
            (0.16, 0.16, SpacingSource.IMAGER_PIXEL_SPACING_CORRECTED),
        ),
        (
            {"PixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 1.25} | DETECTOR,
            (0.16, 0.16, SpacingSource.IMAGER_PIXEL_SPACING_CORRECTED),
        ),
        (
            {"PixelSpacing": [0.17, 0.17], "EstimatedRadiographicMagnificationFactor": 1.25} | DETECTOR,
            (0.17, 0.17, SpacingSource.PIXEL_SPACING_CORRECTED),
        ),
        (
            {"PixelSpacing": [0.17, 0.17], "EstimatedRadiographicMagnificationFactor": 1.25},
            (0.17, 0.17, SpacingSource.PIXEL_SPACING),
        ),
        (
            {"NominalScannedPixelSpacing": [0.17, 0.17]},
            (0.17, 0.17, SpacingSource.NOMINAL_SCANNED_PIXEL_SPACING),
        ),
        (
            {"NominalScannedPixelSpacing": [0.17, 0.17], "PixelSpacing": [0.15, 0.15]},
            (0.15, 0.15, SpacingSource.PIXEL_SPACING_CORRECTED),
        ),
        (
            {"NominalScannedPixelSpacing": [0.17, 0.17], "PixelSpacing": [0.17, 0.17]},
            (0.17, 0.17, SpacingSource.NOMINAL_SCANNED_PIXEL_SPACING),
        ),
    ],
)
def test_rules(elements: dict[str, Any], expected: tuple[float, float, SpacingSource] | None) -> None:
    assert read(**elements) == expected


@pytest.mark.parametrize("factor", [0, 1, 0.8, -1.2, 50, "1e400"])
def test_a_magnification_that_cannot_be_corrects_nothing(factor: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(EstimatedRadiographicMagnificationFactor=factor, **DETECTOR)
    assert found == (0.2, 0.2, SpacingSource.IMAGER_PIXEL_SPACING)


@pytest.mark.parametrize(
    "value",
    [
        b"0\\0",
        b"0.2\\0",
        b"-0.2\\-0.2",
        b"0.0001\\0.0001",
        b"143\\143",
        b"0.1\\0.9",
        b"0.2",
        b"0.2\\0.2\\0.2",
        b"0,2\\0,2",
        b"nan\\nan",
        b"inf\\inf",
        b"1e400\\1e400",
        b"\\",
        b"",
        b"mm\\mm",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"])
def test_a_malformed_or_absurd_spacing_is_passed_over(keyword: str, value: bytes) -> None:
    dataset = header(ImagerPixelSpacing=[0.2, 0.2])
    dataset[keyword] = _raw(keyword, value)
    found = read_spacing(dataset)
    assert (found is None) == (keyword == "ImagerPixelSpacing")
    assert found is None or found.source is SpacingSource.IMAGER_PIXEL_SPACING
    if found is not None:
        del dataset.ImagerPixelSpacing
        assert read_spacing(dataset) is None


def _raw(keyword: str, value: bytes) -> RawDataElement:
    """An element as it comes from the wire: pydicom converts it when it is read."""
    return RawDataElement(Tag(keyword), "DS", len(value), value, 0, False, True)
