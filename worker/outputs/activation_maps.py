"""The Grad-CAM maps that a finding brings, and the part of the image that each of them covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from models.pixels.lung_fields import WHOLE_IMAGE, Frame
from models.pixels.resize import fitted_size
from models.pixels.spec import Framing, InputSpec, Resize
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs import common_modules as common


@dataclass(frozen=True, slots=True, eq=False)
class ActivationMap:
    """One map.

    Attributes:
        label: what it explains, at most 16 characters of ASCII.
        values: ``(h, w) float32 in [0, 1]``, relative to the hottest place.
        frame: what its outer edges enclose, in parts of the image; it may reach beyond the image.
    """

    label: str
    values: NDArray[np.float32]
    frame: Frame


@singledispatch
def activation_maps(finding: Finding, spec: InputSpec, shape: tuple[int, int]) -> tuple[ActivationMap, ...]:
    """Give the maps of a finding, all of one size and over one frame; none where it brings none.

    Args:
        finding: that brings them.
        spec: of the input of the version that answered.
        shape: rows and columns of the original.
    """
    return ()


@activation_maps.register
def _of_classification(finding: Classification, spec: InputSpec, shape: tuple[int, int]) -> tuple[ActivationMap, ...]:
    # Where a lung frame lay, a two-class finding does not say: such a map has no place.
    if finding.cam is None or spec.framing is not Framing.WHOLE:
        return ()
    return (
        ActivationMap(common.plain(finding.positive_label, 16), _contiguous(finding.cam), _frame_of_input(spec, shape)),
    )


@activation_maps.register
def _of_congestion(finding: CongestionFinding, spec: InputSpec, shape: tuple[int, int]) -> tuple[ActivationMap, ...]:
    if finding.cams is None:
        return ()
    return tuple(
        ActivationMap(zone.zone.value, _contiguous(cam), finding.frame)
        for zone, cam in zip(finding.zones, finding.cams, strict=True)
    )


def _contiguous(cam: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(cam, np.float32)


def _frame_of_input(spec: InputSpec, shape: tuple[int, int]) -> Frame:
    """Give what the input shows, its padding included, in parts of the image."""
    if spec.resize is Resize.STRETCH:
        return WHOLE_IMAGE
    rows, columns = fitted_size(shape, spec)
    left, top = (spec.width - columns) // 2, (spec.height - rows) // 2
    return Frame(-left / columns, -top / rows, (spec.width - left) / columns, (spec.height - top) / rows)
