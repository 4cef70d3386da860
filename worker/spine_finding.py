"""The answer of task `landmarks`: landmarks in the original image, what is measured on them, who should look at it.

A landmark beyond the image is left where the network put it: clipped to the border it would be a place that nobody
found, and the angles on it would look sound. Its vertebra is flagged instead. Whether the image shows a spine at all is
not asked: a network answers for whatever it is shown, and routing alone keeps other images away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Outputs
from models.errors import Reason, Unprocessable
from models.pixels.placement import Placement
from models.spine.cobb import CobbAngle
from models.spine.corners import ImageSide
from models.spine.measures import SpineMeasures, implausible, measure_spine
from models.spine.schemas import LandmarkSchema, SpineView, schema_of_labels
from models.spine.slips import Slip, SlipKind
from models.spine.spacing import Spacing
from models.store.manifest import Manifest
from worker.source_image import SourceImage

_ROUNDING: Final = 1e-4
"""How far a confidence may lie outside [0, 1], and a spread below 0."""
_BORDER: Final = 1.0
"""Pixels of the input by which a landmark may lie beyond the image: a decoder of heatmaps rounds to such."""


class ReviewReason(StrEnum):
    """Why a person should look at a finding, beside what `models.spine.measures.implausible` says. Stored as text."""

    LOW_CONFIDENCE = "low_confidence"
    BEYOND_IMAGE = "beyond_image"
    OTHER_VIEW = "other_view"
    """View Position says another view than the one that the landmarks are of."""


@dataclass(frozen=True, eq=False)
class LandmarkFinding:
    """Answer of task `landmarks` for one instance.

    Attributes:
        schema: of the landmarks.
        landmarks: ``(K, 2) float64``, x and y in pixels of the original, NaN where there is none; possibly beyond it.
        confidence: ``(K,) float64`` in [0, 1].
        spread: ``(K,) float64``, the standard deviation of a landmark's place, pixels of the original.
        measures: angles, heights and slips on these landmarks; none where the header says another view.
        rows, columns: of the original, pixels.
        spacing: what a pixel of the original measures; None when the header does not say it.
        anterior: side of the image at which the patient's front is; None on a frontal view and where it is not known.
        flagged: vertebrae that a person should look at, from top to bottom.
        review_reasons: why a person should look at the finding, each once; none when nobody need.
    """

    schema: LandmarkSchema
    landmarks: NDArray[np.float64]
    confidence: NDArray[np.float64]
    spread: NDArray[np.float64]
    measures: SpineMeasures
    rows: int
    columns: int
    spacing: Spacing | None
    anterior: ImageSide | None
    flagged: tuple[str, ...]
    review_reasons: tuple[str, ...]

    @property
    def curves(self) -> tuple[CobbAngle, ...]:
        """The angles of curves that have a length: one that begins and ends with the same vertebra tells nothing."""
        return tuple(angle for angle in self.measures.cobb if angle.upper_vertebra != angle.lower_vertebra)

    @property
    def slips(self) -> tuple[Slip, ...]:
        """The vertebrae that do lie off the next one, from top to bottom."""
        return tuple(slip for slip in self.measures.slips if slip.kind is not SlipKind.NORMAL)

    @property
    def review(self) -> bool:
        """Whether a person should look at it."""
        return bool(self.review_reasons)

    @property
    def score(self) -> float | None:
        """The mean confidence of the landmarks, in [0, 1]: no measure of illness, but of how sure the network is."""
        return float(self.confidence.mean())

    @cached_property
    def vertebra_confidence(self) -> Mapping[str, float]:
        """The least confidence of each vertebra's landmarks, in [0, 1]."""
        return {
            name: float(self.confidence[list(self.schema.landmarks_of(name))].min()) for name in self.schema.vertebrae
        }

    @property
    def review_words(self) -> tuple[str, ...]:
        """The reasons in words, one after the other."""
        words = []
        for reason in self.review_reasons:
            of = f" ({_shortened(self.flagged)})" if reason == ReviewReason.LOW_CONFIDENCE else ""
            words.append(reason.replace("_", " ") + of)
        return tuple(words)

    @property
    def description(self) -> str:
        """The answer in words of ASCII, for Derivation Description."""
        parts = [
            f"Cobb {angle.curve} {angle.degrees:.1f} deg {angle.upper_vertebra}-{angle.lower_vertebra}"
            for angle in self.curves
        ]
        parts += map(slip_words, self.slips)
        if not parts:
            parts.append("no slip" if self.measures.slips else "no angle or slip measured")
        if self.review:
            parts.append(f"for review: {', '.join(self.review_words)}")
        return ", ".join(parts)


def slip_words(slip: Slip) -> str:
    """Say in words of ASCII which way a vertebra slipped, how far, and the grade where there is one."""
    grade = "" if slip.grade is None else f" (Meyerding {slip.grade.name})"
    return f"{slip.upper_vertebra}-{slip.lower_vertebra} {slip.kind.replace('_', ' ')} {abs(slip.percent):.0f}%{grade}"


def _shortened(names: tuple[str, ...], most: int = 4) -> str:
    return " ".join(names if len(names) <= most else (*names[:most], "..."))


def locate(manifest: Manifest, outputs: Outputs, index: int, image: SourceImage) -> LandmarkFinding:
    """Read the answer of task `landmarks`.

    Args:
        manifest: of the version that ran; its labels say the schema.
        outputs: ``landmarks`` (N, K, 2) float32, x and y in pixels of the input, ``confidence`` (N, K) float32 in
            [0, 1], ``spread`` (N, K) float32, at least 0, in pixels of the input.
        index: the instance's place in the batch.
        image: with the placement of the input.

    Raises:
        Unprocessable: the network answered NaN, infinity, or a confidence or a spread out of range.
    """
    schema = schema_of_labels(manifest.labels)
    if schema is None or image.placement is None:
        raise Unprocessable(Reason.INTERNAL_ERROR, "landmarks without a schema or a placement")
    points, confidence, spread = _answer(outputs, index)
    landmarks = image.placement.to_original(points)
    beyond = _is_beyond(landmarks, image, image.placement)
    absent = confidence < np.array([manifest.thresholds.get(label, 0.0) for label in schema.labels])
    landmarks[absent] = np.nan
    doubtful = confidence < (manifest.review_confidence or 0.0)
    anterior = image.anterior if schema.view is SpineView.LATERAL else None
    measures = measure_spine(
        schema,
        landmarks,
        image_height=image.rows,
        spacing=image.spacing,
        anterior=anterior,
        view=image.view,
        tilt_scatter=manifest.tilt_scatter,
    )
    reasons = (
        *((ReviewReason.LOW_CONFIDENCE,) if (doubtful & ~absent).any() else ()),
        *((ReviewReason.BEYOND_IMAGE,) if (beyond & ~absent).any() else ()),
        *((ReviewReason.OTHER_VIEW,) if image.view not in (None, schema.view) else ()),
        *implausible(schema, landmarks),
    )
    return LandmarkFinding(
        schema=schema,
        landmarks=landmarks,
        confidence=confidence,
        # The two scales differ by the rounding to whole pixels alone.
        spread=spread / np.sqrt(image.placement.scale_x * image.placement.scale_y),
        measures=measures,
        rows=image.rows,
        columns=image.columns,
        spacing=image.spacing,
        anterior=anterior,
        flagged=_vertebrae(schema, (doubtful | beyond) & ~absent),
        review_reasons=tuple(dict.fromkeys(map(str, reasons))),
    )


def _answer(outputs: Outputs, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give landmarks, confidence and spread of one instance, rounding forgiven."""
    points, confidence, spread = (
        outputs[name][index].astype(np.float64) for name in ("landmarks", "confidence", "spread")
    )
    finite = all(np.isfinite(values).all() for values in (points, confidence, spread))
    if not finite or confidence.min() < -_ROUNDING or confidence.max() > 1 + _ROUNDING or spread.min() < -_ROUNDING:
        raise Unprocessable(Reason.INTERNAL_ERROR, "the network answered no landmarks")
    return points, np.clip(confidence, 0, 1), np.maximum(spread, 0)


def _is_beyond(landmarks: NDArray[np.float64], image: SourceImage, placement: Placement) -> NDArray[np.bool_]:
    """Say which landmarks, ``(K, 2)`` in pixels of the original, are beyond it."""
    size = np.array([image.columns, image.rows])
    border = _BORDER / np.array([placement.scale_x, placement.scale_y])
    return np.asarray(((landmarks < -border) | (landmarks > size + border)).any(axis=1))


def _vertebrae(schema: LandmarkSchema, which: NDArray[np.bool_]) -> tuple[str, ...]:
    """Give the vertebrae that own one of the landmarks."""
    return tuple(name for name in schema.vertebrae if which[list(schema.landmarks_of(name))].any())
