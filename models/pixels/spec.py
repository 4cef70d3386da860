"""What a network wants to be fed; stored in the manifest of its model version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Resize(StrEnum):
    """How an image of any shape becomes ``height x width``."""

    STRETCH = "stretch"
    """Both sides scaled on their own; the shape is not kept."""
    LETTERBOX = "letterbox"
    """Scaled by one factor, centred, padded with 0."""


class Framing(StrEnum):
    """Which part of an image becomes the input."""

    WHOLE = "whole"
    """All of it."""
    LUNGS = "lungs"
    """The lung fields where they are found, else all of it; see `models.pixels.lung_fields`."""


class InputSpec(BaseModel):
    """Shape of ``image``, the one input of every engine: ``(N, 1, height, width) float32 in [0, 1]``, 0 is black.

    Normalisation and channel replication are inside the exported graph and therefore not named here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    resize: Resize = Resize.STRETCH
    framing: Framing = Framing.WHOLE

    @property
    def needed_side(self) -> int:
        """Shorter side, pixels, that an image must be decoded to, so that resizing still takes means.

        Twice the input, and twice that where a part of the image is taken: lungs fill at least half of most films.
        """
        return (2 if self.framing is Framing.WHOLE else 4) * max(self.height, self.width)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.framing is not Framing.WHOLE and self.resize is not Resize.STRETCH:
            raise ValueError("a part of an image is always stretched")
        return self
