"""The manifest of a model version: everything a worker must know to serve it and a reader to judge it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.pixels.spec import InputSpec
from models.tasks import Task


class Manifest(BaseModel):
    """``manifest.json`` of ``<store>/<task>/<version>/``.

    Attributes:
        labels: class names in the order of the ``probability`` output's last axis; of task `landmarks` the names of
            the landmarks, which say the schema.
        positive_label: for two-class tasks, the label that `thresholds` speaks of.
        thresholds: decision thresholds by label, in [0, 1]; of task `landmarks` the confidence from which a landmark
            is taken to be there, 0 where it always is.
        review_confidence: of task `landmarks`, in [0, 1]: a vertebra of which a landmark is less confident is flagged
            for review; None flags none.
        tilt_scatter: of task `landmarks`, degrees: the standard deviation of the tilts of vertebrae with which Cobb
            angles are read, see `models.spine.cobb_readings`; None measures them on the landmarks as they lie.
        output_names: of the graph; ``probability`` (N, C) float32 sums to 1; ``cam`` (N, h, w) float32 in [0, 1]. Of
            task `csi` each has the axis of the six zones behind N: (N, 6, 5) and (N, 6, h, w). Of task `landmarks`
            ``landmarks`` (N, K, 2) float32, x and y in pixels of the input, ``confidence`` (N, K) float32 in [0, 1] and
            ``spread`` (N, K) float32, the standard deviation of a landmark's place in pixels of the input.
        files: sha256 hex digest by path relative to the version's directory, manifest excluded.
        metrics: measured figures by split name, e.g. ``{"validation": {"roc_auc": ...}}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(1, ge=1, le=1)
    task: Task
    network: str
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    labels: tuple[str, ...]
    positive_label: str | None = None
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    review_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    tilt_scatter: Annotated[float, Field(ge=0, le=20)] | None = None
    input_spec: InputSpec
    output_names: tuple[str, ...]
    files: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    licence: str
    created: datetime
    radstream_version: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = set(self.thresholds) - set(self.labels)
        if unknown:
            raise ValueError(f"thresholds for unknown labels: {', '.join(sorted(unknown))}")
        if self.positive_label is not None and self.positive_label not in self.labels:
            raise ValueError("positive_label is not one of the labels")
        if "network.onnx" not in self.files:
            raise ValueError("files has no network.onnx")
        return self
