"""The landmark schemas: which points a network gives, in which order, and what a mirror image does to them.

Every schema is a column of vertebrae, each with four corners **of the image**: top-left, top-right, bottom-left,
bottom-right. S1 has its superior endplate alone. A landmark is named ``<vertebra>:<corner>``; the labels of a model
version are these names, so that the labels say the schema.

Landmarks are arrays ``(K, 2) float64``, x to the right and y downwards, in pixels counted from the top-left corner of
the top-left pixel, whose centre is therefore (0.5, 0.5): the coordinates of SCOORD (PS3.3 C.18.6.1.1), which scale with
the image. NaN stands for a landmark that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from models.errors import ConfigurationError


class Corner(StrEnum):
    """A corner of a vertebra in the image, in the fixed order."""

    TOP_LEFT = "top_left"
    TOP_RIGHT = "top_right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"

    @property
    def mirrored(self) -> Corner:
        """The corner that this one becomes when the image is flipped horizontally."""
        return CORNERS[CORNERS.index(self) ^ 1]


CORNERS: Final = tuple(Corner)
_TOP: Final = CORNERS[:2]


class SpineView(StrEnum):
    """From where the spine is looked at."""

    FRONTAL = "frontal"
    """AP or PA. A mirror image is a possible image."""
    LATERAL = "lateral"
    """A mirror image would swap front and back, and is never trained on."""


@dataclass(frozen=True)
class LandmarkSchema:
    """One schema.

    Attributes:
        name: as on the command line.
        view: that its images show.
        vertebrae: from top to bottom. ``V1`` and so on where the levels are not known.
        has_levels: whether the vertebrae are named levels (T1 … S1). Nothing is graded without them.
        has_sacrum: whether the last vertebra has its top corners alone.
    """

    name: str
    view: SpineView
    vertebrae: tuple[str, ...]
    has_levels: bool
    has_sacrum: bool = False

    @cached_property
    def points(self) -> tuple[tuple[str, Corner], ...]:
        """Vertebra and corner of each landmark, in order."""
        return tuple(
            (vertebra, corner)
            for vertebra in self.vertebrae
            for corner in (_TOP if self.has_sacrum and vertebra == self.vertebrae[-1] else CORNERS)
        )

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the landmarks, in order."""
        return tuple(f"{vertebra}:{corner}" for vertebra, corner in self.points)

    def __len__(self) -> int:
        """How many landmarks there are."""
        return len(self.points)

    @cached_property
    def mirrored_order(self) -> tuple[int, ...]:
        """Index by it along the axis of landmarks after a horizontal flip. Views that are never flipped have it too."""
        places = {point: place for place, point in enumerate(self.points)}
        return tuple(places[vertebra, corner.mirrored] for vertebra, corner in self.points)

    def landmarks_of(self, vertebra: str) -> tuple[int, ...]:
        """Give the places of a vertebra's landmarks, in the order of the corners."""
        return tuple(place for place, (name, _) in enumerate(self.points) if name == vertebra)


_THORACIC: Final = tuple(f"T{number}" for number in range(1, 13))
_LUMBAR: Final = tuple(f"L{number}" for number in range(1, 6))

SCHEMAS: Final[dict[str, LandmarkSchema]] = {
    schema.name: schema
    for schema in (
        LandmarkSchema("generic40", SpineView.LATERAL, tuple(f"V{number}" for number in range(1, 11)), False),
        LandmarkSchema("buu_ap20", SpineView.FRONTAL, _LUMBAR, True),
        LandmarkSchema("buu_la22", SpineView.LATERAL, (*_LUMBAR, "S1"), True, has_sacrum=True),
        LandmarkSchema("aasce68", SpineView.FRONTAL, (*_THORACIC, *_LUMBAR), True),
    )
}
"""Every schema by name."""


def landmark_schema(name: str) -> LandmarkSchema:
    """Look a schema up.

    Raises:
        ConfigurationError: none has this name.
    """
    try:
        return SCHEMAS[name]
    except KeyError:
        raise ConfigurationError(f"landmark schema {name}: unknown; known are {', '.join(sorted(SCHEMAS))}") from None


def schema_of_labels(labels: Sequence[str]) -> LandmarkSchema | None:
    """Give the schema whose landmarks are so named, in this order; None when there is none."""
    return next((schema for schema in SCHEMAS.values() if schema.labels == tuple(labels)), None)
