"""What the readers of an engine's answers must know of the image that was analysed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from models.pixels.attributes import read_text
from models.pixels.lung_fields import LungFields
from models.pixels.placement import Placement
from models.pixels.radiograph import Radiograph
from models.pixels.spacing import read_spacing
from models.pixels.spec import Framing, InputSpec
from models.spine.corners import ImageSide
from models.spine.schemas import SpineView
from models.spine.spacing import Spacing
from models.tasks import Task

_FRONTAL: Final = ("AP", "PA")
_LATERAL: Final = ("LL", "RL")
_VIEWS_ALONG_ROWS: Final = {
    "R": SpineView.FRONTAL,
    "L": SpineView.FRONTAL,
    "A": SpineView.LATERAL,
    "P": SpineView.LATERAL,
}
"""The view in which the rows of an image mainly run to this side of the patient."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image; made by a decoding process, read where the answers are.

    Attributes:
        rows, columns: size of the original, pixels.
        lung_fields: where the lungs are; None when no task of this instance asks for them.
        placement: where the original lies in the input of task `landmarks`; None when that task is not asked for, as
            are the others below.
        spacing: what a pixel of the original measures; None when the header does not say it.
        view: that the header says a spine is seen from; None when it says none that is known.
        anterior: side of the image at which the patient's front is; None when the header does not say it, and always
            where it says a frontal view.
    """

    rows: int
    columns: int
    lung_fields: LungFields | None = None
    placement: Placement | None = None
    spacing: Spacing | None = None
    view: SpineView | None = None
    anterior: ImageSide | None = None

    @classmethod
    def of(cls, radiograph: Radiograph, specs: Mapping[Task, InputSpec]) -> SourceImage:
        """Say what the readers of these tasks must know.

        Args:
            radiograph: that is analysed.
            specs: of the inputs of the tasks that are asked for.
        """
        seeks_lungs = any(spec.framing is Framing.LUNGS for spec in specs.values())
        lung_fields = radiograph.lung_fields if seeks_lungs else None
        of_landmarks = specs.get(Task.LANDMARKS)
        if of_landmarks is None:
            return cls(radiograph.rows, radiograph.columns, lung_fields)
        view = view_of(radiograph.header)
        return cls(
            radiograph.rows,
            radiograph.columns,
            lung_fields,
            placement=radiograph.placement(of_landmarks),
            spacing=read_spacing(radiograph.header),
            view=view,
            anterior=None if view is SpineView.FRONTAL else anterior_of(radiograph.header),
        )


def view_of(header: Dataset) -> SpineView | None:
    """Read View Position (0018,5101), else Patient Orientation (0020,0020); None when neither says a known view.

    PS3.3 C.8.11.5 has AP, PA, LL and RL, and senders write more after them.
    """
    words = (read_text(header, "ViewPosition") or "").upper().replace("_", " ").replace("-", " ").split()
    if not words:
        return _VIEWS_ALONG_ROWS.get(_along_rows(header))
    if words[0] in _FRONTAL:
        return SpineView.FRONTAL
    return SpineView.LATERAL if words[0] in _LATERAL or words[0].startswith("LAT") else None


def anterior_of(header: Dataset) -> ImageSide | None:
    """Give the side of the image at which the patient's front is, by Patient Orientation; None when it says neither."""
    return {"A": ImageSide.RIGHT, "P": ImageSide.LEFT}.get(_along_rows(header))


def _along_rows(header: Dataset) -> str:
    """Give the letter of the side of the patient to which rows mainly run, from left to right; empty when unknown.

    PS3.3 C.7.6.1.1.1: the first value is the direction of rows, its first letter the principal one.
    """
    return (read_text(header, "PatientOrientation") or "").upper()[:1]
