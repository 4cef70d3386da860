"""From the outputs of an engine to findings in the words of the records: one reader per kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Outputs
from models.errors import Reason, Unprocessable
from models.pixels.lung_fields import WHOLE_IMAGE, Frame
from models.pixels.spec import Framing
from models.store.manifest import Manifest
from models.tasks import Task
from models.zones import ZONES, Congestion, HeartFailureClass, Zone, grade_zones, heart_failure_class, mean_csi
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding, locate

_ROUNDING: Final = 1e-4
"""How far a probability may lie outside [0, 1]."""
_ROUNDING_OF_SUM: Final = 1e-2
"""How far the five of a zone may be from 1 together, which half precision needs."""
_LARGEST_SCORE: Final = float(Congestion.SEVERE)


@dataclass(frozen=True, slots=True)
class Classification:
    """Answer of a two-class task for one instance.

    Attributes:
        label: the label decided for.
        positive: `probability` reaches `threshold`.
        probability: of the positive label, in [0, 1].
        cam: ``(h, w) float32 in [0, 1]``, Grad-CAM of the positive label; None when the graph gives none.
    """

    label: str
    positive_label: str
    positive: bool
    probability: float
    threshold: float
    cam: NDArray[np.float32] | None

    @property
    def score(self) -> float | None:
        """The answer as one number in [0, 1]."""
        return self.probability

    @property
    def description(self) -> str:
        """The answer in words, for Derivation Description."""
        return f"{self.positive_label} {self.probability:.3f}, threshold {self.threshold:.3f}"


@dataclass(frozen=True, slots=True)
class GradedZone:
    """Answer for one zone.

    Attributes:
        score: 0 to 3; None when the zone is ungradable.
        probability: of the class called, in [0, 1].
        expected_score: mean of the graded classes, in [0, 3]; None when the zone is ungradable.
    """

    zone: Zone
    score: int | None
    probability: float
    expected_score: float | None


@dataclass(frozen=True, slots=True)
class PixelFrame:
    """A rectangle in pixels of the original image, beyond which it may reach; `right` and `bottom` are behind it."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, frame: Frame, rows: int, columns: int) -> PixelFrame:
        """Give a rectangle in parts of an image in its pixels."""
        return cls(
            round(frame.left * columns),
            round(frame.top * rows),
            round(frame.right * columns),
            round(frame.bottom * rows),
        )


@dataclass(frozen=True, slots=True)
class CongestionFinding:
    """Answer of task `csi` for one instance.

    Attributes:
        zones: all six in their fixed order.
        mean_csi: of the gradable zones, in [0, 3]; None when there are none.
        heart_failure_class: by the mean; None when there is none.
        frame: what the zones divide into three rows and two columns, in parts of the image.
        pixel_frame: the same in pixels of the original.
        lungs_found: whether `frame` is that of the lungs, else it is the whole image; None when the model version does
            not look for them.
        cams: ``(6, h, w) float32 in [0, 1]``, one map over `frame` per zone; None when the graph gives none.
    """

    zones: tuple[GradedZone, ...]
    mean_csi: float | None
    heart_failure_class: HeartFailureClass | None
    frame: Frame
    pixel_frame: PixelFrame
    lungs_found: bool | None
    cams: NDArray[np.float32] | None

    @property
    def gradable_zones(self) -> int:
        """How many zones have a score."""
        return sum(zone.score is not None for zone in self.zones)

    @property
    def score(self) -> float | None:
        """The answer as one number in [0, 1]: the part that the mean is of the largest; None when there is no mean."""
        return None if self.mean_csi is None else self.mean_csi / _LARGEST_SCORE

    @property
    def description(self) -> str:
        """The answer in words, for Derivation Description."""
        mean = "no zone gradable" if self.mean_csi is None else f"mean CSI {self.mean_csi:.2f}"
        scores = (f"{zone.zone} {'ungradable' if zone.score is None else zone.score}" for zone in self.zones)
        worst = () if self.heart_failure_class is None else (f"heart failure class {self.heart_failure_class}",)
        place = ("zones on the image grid, lungs not found",) if self.lungs_found is False else ()
        return ", ".join((mean, *scores, *worst, *place))


Finding = Classification | CongestionFinding | LandmarkFinding


def read_finding(manifest: Manifest, outputs: Outputs, index: int, image: SourceImage) -> Finding:
    """Read the answer of one instance out of a batch's outputs, as the task of the version needs it.

    Args:
        manifest: of the version that ran.
        outputs: of the whole batch.
        index: the instance's place in the batch.
        image: that instance's image.

    Raises:
        Unprocessable: the network answered what is no probability, or the task has no reader.
    """
    reader = _READERS.get(manifest.task)
    if reader is None:
        raise Unprocessable(Reason.INTERNAL_ERROR, f"{manifest.task} is not served")
    return reader(manifest, outputs, index, image)


def classify(manifest: Manifest, outputs: Outputs, index: int) -> Classification:
    """Read the answer of a two-class task.

    Args:
        manifest: of the version that ran; names labels, positive label and threshold.
        outputs: ``probability`` (N, 2) float32 and, where the graph has it, ``cam`` (N, h, w) float32.
        index: the instance's place in the batch.

    Raises:
        Unprocessable: the network answered NaN or a value outside [0, 1].
    """
    positive_label = manifest.positive_label or manifest.labels[-1]
    place = manifest.labels.index(positive_label)
    probability = float(outputs["probability"][index, place])
    if not -_ROUNDING <= probability <= 1 + _ROUNDING:  # also false for NaN
        raise Unprocessable(Reason.INTERNAL_ERROR, "the network answered no probability")
    probability = min(max(probability, 0.0), 1.0)
    threshold = manifest.thresholds.get(positive_label, 0.5)
    positive = probability >= threshold
    label = positive_label if positive else next(name for name in manifest.labels if name != positive_label)
    cam = outputs["cam"][index] if "cam" in outputs else None
    return Classification(label, positive_label, positive, probability, threshold, cam)


def grade(manifest: Manifest, outputs: Outputs, index: int, image: SourceImage) -> CongestionFinding:
    """Read the answer of task `csi`.

    Args:
        manifest: of the version that ran; its framing says what the zones divide.
        outputs: ``probability`` (N, 6, 5) float32, which sums to 1 over the classes, and, where the graph has it,
            ``cam`` (N, 6, h, w) float32.
        index: the instance's place in the batch.
        image: with lung fields where the framing is that of the lungs.

    Raises:
        Unprocessable: the network answered NaN, a value outside [0, 1], or values that do not sum to 1.
    """
    zones = _graded_zones(outputs["probability"][index])
    mean = mean_csi(
        {zone.zone: Congestion.UNGRADABLE if zone.score is None else Congestion(zone.score) for zone in zones}
    )
    seeks_lungs = manifest.input_spec.framing is Framing.LUNGS
    fields = image.lung_fields if seeks_lungs else None
    frame = fields.frame if fields is not None else WHOLE_IMAGE
    return CongestionFinding(
        zones=zones,
        mean_csi=mean,
        heart_failure_class=heart_failure_class(mean),
        frame=frame,
        pixel_frame=PixelFrame.of(frame, image.rows, image.columns),
        lungs_found=(fields is not None and fields.found) if seeks_lungs else None,
        cams=outputs["cam"][index] if "cam" in outputs else None,
    )


def _graded_zones(probability: NDArray[np.float32]) -> tuple[GradedZone, ...]:
    """Give the six zones of ``(6, 5)`` probabilities."""
    in_range = ((probability >= -_ROUNDING) & (probability <= 1 + _ROUNDING)).all()  # also false for NaN
    if not in_range or np.abs(probability.sum(axis=-1) - 1).max() > _ROUNDING_OF_SUM:
        raise Unprocessable(Reason.INTERNAL_ERROR, "the network answered no probability")
    graded = grade_zones(np.clip(probability, 0, 1))
    zones = []
    for place, zone in enumerate(ZONES):
        called, certainty = int(graded.called[place]), float(graded.certainty[place])
        is_gradable = called != Congestion.UNGRADABLE
        expected = min(float(graded.expected[place]), _LARGEST_SCORE) if is_gradable else None  # rounding
        zones.append(GradedZone(zone, called if is_gradable else None, certainty, expected))
    return tuple(zones)


Reader = Callable[[Manifest, Outputs, int, SourceImage], Finding]


def _read_classification(manifest: Manifest, outputs: Outputs, index: int, image: SourceImage) -> Classification:
    return classify(manifest, outputs, index)


_READERS: Final[Mapping[Task, Reader]] = {
    Task.PNEUMONIA: _read_classification,
    Task.NORMALITY: _read_classification,
    Task.CSI: grade,
    Task.LANDMARKS: locate,
}
