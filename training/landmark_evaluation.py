"""Measures of landmarks: distances in a letterbox of 512 pixels and in mm, Cobb angles, with 95 % intervals.

The keys and their order are fixed; the same answers give the same bytes. Distances are pooled over the landmarks that
are there in the truth, so that an image counts by its landmarks. A landmark without an answer counts as one that is as
far off as the letterbox is wide: to answer nothing improves no figure. Shares and SMAPE are in percent, 0 to 100.

Cobb angles are compared with those that came with the image, not with angles of its landmarks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.spine.cobb_readings import read_cobb_angles
from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_rows import Points
from training.evaluation import DECIMALS, Floats
from training.landmark_columns import column_counts

LETTERBOX_SIDE: Final = 512
"""Pixels of the square that an image's longer side fills, in which distances are given."""

SDR_PX: Final = (6, 12, 18, 24)
"""Within these distances a landmark is said to be detected (successful detection rate)."""

HEADLINES: Final = ("mre_px", *(f"sdr_{limit}" for limit in SDR_PX), "mre_mm", "cobb_smape", "cobb_mae")
"""Measures that get an interval. The SDR and SMAPE are in percent."""

ANGLES: Final = 3
"""Cobb angles of an image in the order of the challenge's tables: the main one, then the two others. Those are not
upper and lower throughout, see `models.spine.cobb.cobb_angles`, and are compared place by place."""

_TAILS_PERCENT: Final = (2.5, 97.5)
_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class LandmarkAnswers:
    """What a network answers.

    Attributes:
        points: ``(N, K, 2) float64``, x and y in pixels of the original.
        confidence: ``(N, K)`` in [0, 1].
    """

    points: Points
    confidence: Floats


Parts = Mapping[str, tuple[Floats, Floats]]
"""Of each measure numerator and denominator per image, each ``(N)``: the measure is the quotient of their sums."""


def landmark_metrics(
    images: Sequence[LandmarkImage],
    points: Points,
    schema: LandmarkSchema,
    *,
    spacings: Floats | None = None,
    tilt_scatter: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure landmarks against those of the set.

    Args:
        images: ``N`` with their true landmarks.
        points: ``(N, K, 2)``, x and y that were answered, in pixels of each original.
        schema: of the landmarks.
        spacings: ``(N, 2)``, mm between rows and between columns of each original, NaN where unknown; None knows none.
        tilt_scatter: degrees, with which Cobb angles are read; None measures them on the landmarks as they lie.
        bootstrap: number of replicates of the intervals; 0 leaves them empty.
        seed: of the resampling of persons.

    Returns:
        A JSON object with the keys ``mre_px, sdr_6, sdr_12, sdr_18, sdr_24, mre_mm, cobb_smape, cobb_mae,
        per_vertebra, columns, angles_as_landmarks_lie, n, landmarks, with_spacing, with_angles, intervals`` in this
        order. ``mre_px`` is the mean radial error in a letterbox of 512 pixels, ``sdr_*`` the percentage of landmarks
        at most so many of these pixels off. ``cobb_smape`` is the mean over images of the summed differences of the
        three angles over their sums, in percent; ``cobb_mae`` the mean difference of all angles in degrees.
        ``columns`` counts films by the names of their bodies, see `training.landmark_columns.ColumnCounts`.
        ``angles_as_landmarks_lie`` has ``cobb_smape`` and ``cobb_mae`` without a scatter, where there is one. What is
        of nothing is None.
    """
    read = _angle_parts(images, points, schema, tilt_scatter)
    as_they_lie = _angle_parts(images, points, schema, None) if tilt_scatter else None
    parts = {**_distance_parts(images, points, spacings), **read}
    columns = column_counts(images, points, schema)
    once = np.ones((1, len(images)))
    return {
        **_at_once(parts, once),
        "per_vertebra": _per_vertebra(radial_errors_px(images, points), schema),
        "columns": None if columns is None else columns._asdict(),
        "angles_as_landmarks_lie": None if as_they_lie is None else _at_once(as_they_lie, once),
        "n": len(images),
        "landmarks": int(_visible(images, points).sum()),
        "with_spacing": int((parts["mre_mm"][1] > 0).sum()),
        "with_angles": int(parts["cobb_smape"][1].sum()),
        "intervals": _intervals(parts, [image.person for image in images], bootstrap, seed) if bootstrap else {},
    }


def letterbox_scales(images: Sequence[LandmarkImage]) -> Floats:
    """Give letterbox pixels per original pixel, ``(N)``."""
    return np.array([LETTERBOX_SIDE / max(image.size) for image in images], np.float64)


def radial_errors_px(images: Sequence[LandmarkImage], points: Points) -> Floats:
    """Give how far each landmark is off, ``(N, K)`` letterbox pixels; NaN where the truth has none."""
    distance = _distances(images, points, np.ones((len(images), 2))) * letterbox_scales(images)[:, np.newaxis]
    return np.where(_visible(images, points) & np.isnan(distance), float(LETTERBOX_SIDE), distance)


def image_errors_px(images: Sequence[LandmarkImage], points: Points) -> Floats:
    """Give the mean radial error of each image, ``(N)`` letterbox pixels; NaN where it has no landmark."""
    errors = radial_errors_px(images, points)
    there = np.isfinite(errors)
    return _divided(np.where(there, errors, 0).sum(axis=1), there.sum(axis=1))


def given_angles(images: Sequence[LandmarkImage]) -> Floats:
    """Give the Cobb angles that came with each image, ``(N, 3)`` degrees in their order; NaN without."""
    nothing = (math.nan,) * ANGLES
    return np.array([image.angles or nothing for image in images], np.float64).reshape(-1, ANGLES)


def measured_angles(
    images: Sequence[LandmarkImage], points: Points, schema: LandmarkSchema, tilt_scatter: float | None = None
) -> Floats:
    """Measure Cobb angles on landmarks ``(N, K, 2)``: ``(N, 3)`` degrees in the same order, NaN where there is none.

    Args:
        images: of them.
        points: the landmarks, pixels of each original.
        schema: of the landmarks.
        tilt_scatter: degrees, see `models.spine.cobb_readings`; None measures them as they lie.
    """
    measured = np.full((len(images), ANGLES), math.nan)
    for row, image in enumerate(images):
        angles = read_cobb_angles(schema, points[row], image.size[0], tilt_scatter)
        degrees = [angle.degrees for angle in angles]
        measured[row, : len(degrees)] = degrees
    return measured


def _visible(images: Sequence[LandmarkImage], points: Points) -> NDArray[np.bool_]:
    return np.array([image.visible for image in images]).reshape(points.shape[:2])


def _distances(images: Sequence[LandmarkImage], points: Points, per_pixel: Floats) -> Floats:
    """Give distances ``(N, K)`` in units of which a pixel has ``(N, 2)``, of x and of y."""
    truth = np.array([image.points for image in images]).reshape(points.shape)
    apart = (points - truth) * per_pixel[:, np.newaxis]
    distances: Floats = np.hypot(apart[..., 0], apart[..., 1])
    return distances


def _distance_parts(images: Sequence[LandmarkImage], points: Points, spacings: Floats | None) -> Parts:
    errors = radial_errors_px(images, points)
    there = np.isfinite(errors)
    count = there.sum(axis=1).astype(np.float64)
    shares = {
        f"sdr_{limit}": (_PERCENT * (there & (errors <= limit)).sum(axis=1).astype(np.float64), count)
        for limit in SDR_PX
    }
    return {
        "mre_px": (np.where(there, errors, 0).sum(axis=1), count),
        **shares,
        "mre_mm": _parts_in_mm(images, points, spacings),
    }


def _parts_in_mm(images: Sequence[LandmarkImage], points: Points, spacings: Floats | None) -> tuple[Floats, Floats]:
    if spacings is None:
        spacings = np.full((len(images), 2), math.nan)
    distances = _distances(images, points, spacings[:, ::-1])  # x runs along the columns
    widest = np.array([[max(image.size)] for image in images]) * spacings.mean(axis=1, keepdims=True)
    errors = np.where(np.isnan(distances), widest, distances)
    counted = _visible(images, points) & np.isfinite(errors)
    return np.where(counted, errors, 0).sum(axis=1), counted.sum(axis=1).astype(np.float64)


def _angle_parts(
    images: Sequence[LandmarkImage], points: Points, schema: LandmarkSchema, tilt_scatter: float | None
) -> Parts:
    given = given_angles(images)
    measured = measured_angles(images, points, schema, tilt_scatter)
    # Angles that cannot be measured are no angles: an answer that lacks a vertebra does not improve the figures.
    count = np.asarray(np.isfinite(given).all(axis=1)).astype(np.float64)
    given, measured = np.nan_to_num(given, nan=0.0), np.nan_to_num(measured, nan=0.0)
    apart = np.asarray(np.abs(given - measured).sum(axis=1)) * count
    together = np.asarray((given + measured).sum(axis=1))
    # Straight spines that are found to be straight have no error: nothing of nothing is 0 here.
    smape: Floats = np.divide(_PERCENT * apart, together, out=np.zeros(len(apart)), where=together > 0)
    return {"cobb_smape": (smape, count), "cobb_mae": (apart / ANGLES, count)}


def _at_once(parts: Parts, once: Floats) -> dict[str, float | None]:
    """Give the measures, rounded, of a sample in which each image stands once."""
    return {name: _rounded(float(values[0])) for name, values in _quotients(parts, once).items()}


def _quotients(parts: Parts, times: Floats) -> dict[str, Floats]:
    """Give the measures, each ``(R)``, of samples in which image n stands ``times[r, n]`` times."""
    return {name: _divided(times @ part, times @ whole) for name, (part, whole) in parts.items()}


def _per_vertebra(errors: Floats, schema: LandmarkSchema) -> dict[str, Any]:
    """Give mean radial error and SDR of each vertebra, of errors ``(N, K)``."""
    figures = {}
    for vertebra in schema.vertebrae:
        own = errors[:, list(schema.landmarks_of(vertebra))]
        own = own[np.isfinite(own)]
        shares = {f"sdr_{limit}": _mean(_PERCENT * (own <= limit).astype(np.float64)) for limit in SDR_PX}
        figures[vertebra] = {"mre_px": _mean(own), **shares, "landmarks": len(own)}
    return figures


def _intervals(parts: Parts, groups: Sequence[str], replicates: int, seed: int) -> dict[str, list[float | None]]:
    """Give the 2.5th and 97.5th percentile of every headline over resampled persons (Efron's percentile bootstrap)."""
    random = np.random.default_rng(seed)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    chosen = random.integers(0, len(names), (replicates, len(names)))
    drawn = np.stack([np.bincount(row, minlength=len(names)) for row in chosen])  # how often each person was drawn
    measured = _quotients(parts, drawn[:, member].astype(np.float64))
    return {
        name: [_rounded(float(end)) for end in np.nanpercentile(measured[name], _TAILS_PERCENT)]
        if np.isfinite(measured[name]).any()
        else [None, None]
        for name in HEADLINES
    }


def _divided(part: Floats, whole: NDArray[np.generic]) -> Floats:
    """Divide; something of nothing is NaN."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(part), math.nan), where=np.asarray(whole) > 0)
    return quotient


def _mean(values: Floats) -> float | None:
    return _rounded(float(values.mean())) if len(values) else None


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DECIMALS)
