"""Measurement groups of our reports (PS3.16 TID 1501 and 1410), as every task of ours fills them.

A group says what was found, where, by which algorithm (TID 4019), with which numbers. Numbers are written twice, as a
decimal string of at most 16 characters and as the very double that the records hold (Floating Point Value), so that a
reader gets the number of the database back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    CoordinatesForMeasurement,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from worker.outputs import common_modules as common
from worker.outputs import uids
from worker.outputs.common_modules import OutputOrder

_CACHED: Final = 4096
"""Content items that are the same in every report, and are made once in a process."""

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, slots=True)
class Site:
    """Where a finding is.

    Attributes:
        location: the anatomic structure.
        side: of the patient.
        modifier: which part it plays.
    """

    location: Code
    side: Code | None = None
    modifier: Code | None = None


@lru_cache(_CACHED)
def concept(code: Code) -> CodedConcept:
    """Give a code as a dataset; nobody may change it."""
    return CodedConcept(*code)


@lru_cache(_CACHED)
def _site(site: Site) -> FindingSite:
    side, modifier = (None if code is None else concept(code) for code in (site.side, site.modifier))
    return FindingSite(concept(site.location), laterality=side, topographical_modifier=modifier)


@lru_cache(_CACHED)
def _answer(name: Code, value: Code) -> QualitativeEvaluation:
    return QualitativeEvaluation(concept(name), concept(value))


@dataclass(frozen=True, slots=True)
class Number:
    """A measured number, with its unit."""

    name: Code
    value: float
    unit: Code


@dataclass(frozen=True, eq=False)
class GroupMaker:
    """Makes the groups of one report.

    Attributes:
        order: the report is of.
    """

    order: OutputOrder

    @cached_property
    def algorithm(self) -> AlgorithmIdentification:
        """Name, version and parameters of the algorithm; the same items in each group."""
        manifest = self.order.manifest
        parameters = [f"threshold {name} {value!r}" for name, value in sorted(manifest.thresholds.items())]
        if manifest.tilt_scatter:
            parameters.append(f"scatter of tilts {manifest.tilt_scatter!r} degrees")
        engine = self.order.engine
        return AlgorithmIdentification(
            name=common.plain(f"radstream {manifest.task} {manifest.network}", 1024),
            version=common.plain(manifest.version, 1024),
            manufacturer="radstream",
            parameters=[
                *(common.plain(parameter, 1024) for parameter in parameters),
                common.plain(f"source: {engine.provider} {engine.precision}, network {engine.file_sha256}", 1024),
            ],
        )

    def group(
        self,
        name: str,
        finding: Code | None,
        *,
        sites: Sequence[Site] = (),
        numbers: Sequence[Number] = (),
        answers: Sequence[tuple[Code, Code]] = (),
        outline: NDArray[np.float64] | None = None,
        points: NDArray[np.float64] | None = None,
    ) -> Group:
        """Make a group.

        Args:
            name: of what is measured, unique in the report; other reports of the instance track it under the same UID.
            finding: what it is about.
            sites: where.
            numbers: measured.
            answers: questions and answers.
            outline: ``(N, 2)``, the corners of a region around which one walks, x and y in pixels of the source counted
                from the outer corner of its first pixel (PS3.3 C.18.6.1.1), all of them in the image.
            points: ``(N, 2)``, likewise, that the first number is measured on.
        """
        shared: dict[str, Any] = {
            "tracking_identifier": self._tracking(name),
            "finding_type": None if finding is None else concept(finding),
            "algorithm_id": self.algorithm,
            "finding_sites": [_site(site) for site in sites],
            "qualitative_evaluations": [_answer(*answer) for answer in answers],
        }
        region = None if outline is None else self._region(outline)
        coordinates = [] if points is None or region is not None else [self._coordinates(points)]
        measurements = [
            Measurement(
                name=concept(number.name),
                value=float(number.value),
                unit=concept(number.unit),
                referenced_coordinates=coordinates if place == 0 and coordinates else None,
            )
            for place, number in enumerate(numbers)
        ]
        if region is None:
            return MeasurementsAndQualitativeEvaluations(
                measurements=measurements, source_images=[self._source_of_group], **shared
            )
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=region, measurements=measurements, **shared
        )

    def _tracking(self, name: str) -> TrackingIdentifier:
        source, task = self.order.source_sop_instance_uid, self.order.task
        return TrackingIdentifier(uid=uids.tracking_uid(source, task, name), identifier=f"{task} {name}")

    @cached_property
    def _source_of_group(self) -> SourceImageForMeasurementGroup:
        return SourceImageForMeasurementGroup(common.source_class(self.order), self.order.source_sop_instance_uid)

    def _coordinates(self, points: NDArray[np.float64]) -> CoordinatesForMeasurement:
        graphic = GraphicTypeValues.POINT if len(points) == 1 else GraphicTypeValues.MULTIPOINT
        return CoordinatesForMeasurement(graphic, points, self._source_of_region)

    @cached_property
    def _source_of_region(self) -> SourceImageForRegion:
        return SourceImageForRegion(common.source_class(self.order), self.order.source_sop_instance_uid)

    def _region(self, outline: NDArray[np.float64]) -> ImageRegion | None:
        # A polyline is closed by its first point (C.18.6.1.2).
        try:
            return ImageRegion(GraphicTypeValues.POLYLINE, np.vstack([outline, outline[:1]]), self._source_of_region)
        except KeyError:
            return None  # a storage class that highdicom does not know: the corners are told as points
