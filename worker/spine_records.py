"""A finding of task `landmarks` as rows of the records; see `models.records.spine` for what they say."""

from __future__ import annotations

import math

from models.records.base import Base
from models.records.spine import CobbFinding, HeightFinding, Landmark, SlipFinding, SpineSummary, VertebraFinding
from worker.spine_finding import LandmarkFinding


def rows_of_spine(finding: LandmarkFinding, inference_id: int) -> list[Base]:
    """Give every row that a finding is recorded as."""
    return [
        _summary(finding, inference_id),
        *_vertebrae(finding, inference_id),
        *_landmarks(finding, inference_id),
        *_measures(finding, inference_id),
    ]


def _summary(finding: LandmarkFinding, inference_id: int) -> SpineSummary:
    spacing = finding.spacing
    return SpineSummary(
        inference_id=inference_id,
        landmark_schema=finding.schema.name,
        view=finding.schema.view,
        anterior=finding.anterior,
        mean_confidence=finding.score,
        review=finding.review,
        review_reasons=",".join(finding.review_reasons) or None,
        row_mm=spacing and spacing.row_mm,
        column_mm=spacing and spacing.column_mm,
        spacing_source=spacing and spacing.source,
    )


def _vertebrae(finding: LandmarkFinding, inference_id: int) -> list[Base]:
    return [
        VertebraFinding(inference_id=inference_id, vertebra=name, confidence=confidence, review=name in finding.flagged)
        for name, confidence in finding.vertebra_confidence.items()
    ]


def _landmarks(finding: LandmarkFinding, inference_id: int) -> list[Base]:
    rows: list[Base] = []
    places = zip(finding.schema.points, finding.landmarks, finding.confidence, finding.spread, strict=True)
    for (vertebra, corner), (x, y), confidence, spread in places:
        there = math.isfinite(x)  # PostgreSQL has a NaN, SQLite has none: neither is to tell one
        rows.append(
            Landmark(
                inference_id=inference_id,
                vertebra=vertebra,
                corner=corner,
                x=float(x) if there else None,
                y=float(y) if there else None,
                confidence=float(confidence),
                spread=float(spread),
            )
        )
    return rows


def _measures(finding: LandmarkFinding, inference_id: int) -> list[Base]:
    angles = [
        CobbFinding(
            inference_id=inference_id,
            curve=angle.curve,
            degrees=angle.degrees,
            upper_vertebra=angle.upper_vertebra,
            lower_vertebra=angle.lower_vertebra,
        )
        for angle in finding.measures.cobb
    ]
    heights = [
        HeightFinding(
            inference_id=inference_id,
            part=height.part,
            upper_vertebra=height.upper_vertebra,
            lower_vertebra=height.lower_vertebra,
            left_px=height.left_px,
            right_px=height.right_px,
            left_mm=height.left_mm,
            right_mm=height.right_mm,
        )
        for height in finding.measures.heights
    ]
    slips = [
        SlipFinding(
            inference_id=inference_id,
            upper_vertebra=slip.upper_vertebra,
            lower_vertebra=slip.lower_vertebra,
            kind=slip.kind,
            percent=slip.percent,
            offset_px=slip.offset_px,
            offset_mm=slip.offset_mm,
            angle_degrees=slip.angle_degrees,
            grade=None if slip.grade is None else int(slip.grade),
        )
        for slip in finding.measures.slips
    ]
    return [*angles, *heights, *slips]
