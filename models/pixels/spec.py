"""What a network wants to be fed; stored in the manifest of its model version."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Resize(StrEnum):
    """How an image of any shape becomes ``height x width``."""

    STRETCH = "stretch"
    """Both sides scaled on their own; the shape is not kept."""
    LETTERBOX = "letterbox"
    """Scaled by one factor, centred, padded with 0."""


class InputSpec(BaseModel):
    """Shape of ``image``, the one input of every engine: ``(N, 1, height, width) float32 in [0, 1]``, 0 is black.

    Normalisation and channel replication are inside the exported graph and therefore not named here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    resize: Resize = Resize.STRETCH
