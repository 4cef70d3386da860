"""Outputs of every kind, made by the real builders from made sources.

Each source, time, version and answer differs from the others in every value that could be passed on. So what is the
same in all outputs is fixed, what is the source's was copied, and the rest was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from deploy.conformance.summary_samples import summary_order
from models.engines.engine import EngineInfo
from models.errors import Reason
from models.pixels.lung_fields import WHOLE_IMAGE, Frame, LungFields
from models.pixels.placement import Placement
from models.pixels.spacing import read_spacing
from models.pixels.spec import Framing, InputSpec
from models.records.outputs import OutputKind
from models.spine.corners import ImageSide
from models.spine.schemas import LandmarkSchema, SpineView, landmark_schema
from models.store.manifest import Manifest
from models.tasks import Task
from models.zones import CLASS_NAMES, ZONES
from worker.findings import Finding, classify, grade
from worker.outputs import common_modules as common
from worker.outputs import secondary_capture
from worker.outputs.common_modules import OutputOrder
from worker.outputs.copied_attributes import ENUMERATED, Presence
from worker.outputs.files import WrittenOutput
from worker.outputs.not_analysed_report import NotAnalysedOrder, build_not_analysed_report
from worker.outputs.parametric_map import build_parametric_map
from worker.outputs.presentation_state import build_presentation_state
from worker.outputs.secondary_capture import build_secondary_capture
from worker.outputs.structured_report import build_structured_report
from worker.outputs.study_summary_report import build_study_summary
from worker.source_image import SourceImage
from worker.spine_finding import locate

COPIED: Final[Mapping[str, Presence]] = {
    **common.PATIENT_ATTRIBUTES,
    "PatientIdentityRemoved": Presence.OPTIONAL,
    **common.STUDY_ATTRIBUTES,
    **common.SERIES_ATTRIBUTES,
    **secondary_capture.IMAGE_ATTRIBUTES,
    **common.COMPRESSION_ATTRIBUTES,
}
"""What outputs copy from their source as it stands."""

BARE: Final = 2
"""The variant whose source has nothing but what an instance must have."""
VARIANTS: Final = (0, 1, BARE)

_SOURCE_CLASSES: Final = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
_TERMS: Final[Mapping[str, tuple[str, str]]] = {
    "PatientOrientation": (r"L\F", r"P\F"),
    "TimezoneOffsetFromUTC": ("+0100", "-0330"),
    "LossyImageCompressionMethod": ("ISO_10918_1", "ISO_15444_1"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "BodyPartExamined": ("LEG", "CHEST"),
}
_SIDES: Final = ("Laterality", "ImageLaterality")
"""Not in the second variant, whose body part has no side."""
_OF_VR: Final[Mapping[str, tuple[str, str]]] = {
    "DA": ("19610203", "19720304"),
    "TM": ("101112", "131415"),
    "AS": ("065Y", "054Y"),
    "DS": ("1.25", "2.5"),
    "PN": ("Made^One", "Made^Two"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One output, and the source that it was made from.

    Attributes:
        content: what it tells of.
        variant: of the source; one of `VARIANTS`.
    """

    kind: OutputKind
    content: str
    variant: int
    source: Dataset
    dataset: Dataset


@cache
def samples() -> tuple[Sample, ...]:
    """Give outputs of every kind, task and variant."""
    return tuple(_samples())


def samples_of(kind: OutputKind) -> list[Sample]:
    """Give those of one kind."""
    return [sample for sample in samples() if sample.kind is kind]


def _samples() -> Iterator[Sample]:
    for variant in VARIANTS:
        source, now = _source(variant), _now(variant)
        for content, answer in _ANSWERS.items():
            order = _order(answer, source, variant)
            picture = np.full((320 + variant, 200 + variant, 3), variant, np.uint8)
            capture = build_secondary_capture(order, picture, now)
            capture.add_new("PixelData", "OB", picture.tobytes())  # as `write_secondary_capture` adds it
            overlay = WrittenOutput(str(capture.SOPClassUID), capture.SOPInstanceUID, capture.SeriesInstanceUID, "")
            made = {
                OutputKind.SECONDARY_CAPTURE: capture,
                OutputKind.STRUCTURED_REPORT: build_structured_report(order, [overlay], now),
                OutputKind.PARAMETRIC_MAP: build_parametric_map(order, now),
                OutputKind.PRESENTATION_STATE: build_presentation_state(order, now),
            }
            for kind, dataset in made.items():
                if dataset is not None:
                    yield Sample(kind, content, variant, source, dataset)
        reason = (Reason.NO_RULE_MATCHED, Reason.UNDECODABLE_PIXELS, Reason.TOO_LARGE)[variant]
        refused = NotAnalysedOrder(source, source.SOPInstanceUID, 0, reason, skipped=variant == 0)
        report = build_not_analysed_report(refused, now)
        yield Sample(OutputKind.STRUCTURED_REPORT, NOT_ANALYSED, variant, source, report)
        summary = build_study_summary(summary_order(source, variant), now)
        yield Sample(OutputKind.STUDY_SUMMARY, SUMMARY, variant, source, summary)


NOT_ANALYSED: Final = "an instance that was not analysed"
SUMMARY: Final = "a study"


def _now(variant: int) -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC) + variant * timedelta(days=41, hours=2, minutes=7)


# Sources


def _source(variant: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = _SOURCE_CLASSES[variant]
    for number, keyword in enumerate(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), 1):
        setattr(dataset, keyword, f"2.25.{variant + 1}{number}")
    dataset.Rows, dataset.Columns = 512 + variant, 256 + variant
    dataset.PhotometricInterpretation = "MONOCHROME1" if variant == 1 else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.PixelRepresentation = 16, 12, 0
    if variant != BARE:
        _fill(dataset, variant)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _fill(dataset: Dataset, variant: int) -> None:
    """Add everything that is copied or read, of another value in each variant."""
    dataset.SpecificCharacterSet = ("ISO_IR 100", "ISO_IR 192")[variant]
    dataset.InstanceNumber = 17 + variant
    for keyword in COPIED:
        if not (variant and keyword in _SIDES):
            setattr(dataset, keyword, _value(keyword, variant))
    dataset.PixelSpacing = [0.14 + variant, 0.14 + variant]
    dataset.LossyImageCompression = "01"
    if variant == 0:
        dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = "2048", "4000", "SIGMOID"
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "-5", "2", "OD"
        return
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4, 0, 16])
        table.add_new("LUTData", "US", [0, 1, 2, 65535])
        table.ModalityLUTType = "OD"
        setattr(dataset, sequence, [table])


def _value(keyword: str, variant: int) -> Any:
    vr = dictionary_VR(keyword)
    if vr == "SQ":
        item = Dataset()
        inner = "CodeMeaning" if keyword.endswith("CodeSequence") else "LocalNamespaceEntityID"
        setattr(item, inner, f"made {variant}")
        return [item]
    if keyword in _TERMS:
        return _TERMS[keyword][variant]
    if keyword in ENUMERATED:
        return sorted(ENUMERATED[keyword])[variant]
    return _OF_VR[vr][variant] if vr in _OF_VR else f"{keyword[:12]} {variant}"


# Answers


def _order(
    answer: Callable[[SourceImage, int], tuple[Manifest, Finding]], source: Dataset, variant: int
) -> OutputOrder:
    side = (ImageSide.LEFT, ImageSide.RIGHT, None)[variant]
    frame = (Frame(0.1, 0.1, 0.9, 0.8), Frame(0.2, 0.1, 0.7, 0.9), WHOLE_IMAGE)[variant]
    image = SourceImage(
        source.Rows,
        source.Columns,
        LungFields(frame, 0.9, frame != WHOLE_IMAGE),
        Placement(1, 1, 0, 0),
        read_spacing(source),
        anterior=side,
    )
    manifest, finding = answer(image, variant)
    engine = EngineInfo(("onnxruntime", "tensorrt", "tensorrt_rtx")[variant], "1", "cpu", "fp32", f"{variant + 1:064x}")
    return OutputOrder(source, manifest, engine, source.SOPInstanceUID, 0, finding)


def _manifest(task: Task, variant: int, labels: tuple[str, ...], **more: Any) -> Manifest:
    return Manifest(
        task=task,
        network=f"network{variant}",
        version=f"{variant + 1}.0.0",
        labels=labels,
        input_spec=more.pop("input_spec", InputSpec(height=224, width=224)),
        output_names=("probability", "cam"),
        files={"network.onnx": "0" * 64},
        licence="made",
        created=_now(variant),
        radstream_version="0",
        **more,
    )


def _two_classes(task: Task) -> Callable[[SourceImage, int], tuple[Manifest, Finding]]:
    def answer(image: SourceImage, variant: int) -> tuple[Manifest, Finding]:
        labels = ("NORMAL", "PNEUMONIA" if task is Task.PNEUMONIA else "ABNORMAL")
        thresholds = {labels[1]: 0.5 + variant / 100}
        manifest = _manifest(task, variant, labels, positive_label=labels[1], thresholds=thresholds)
        probability = (0.91, 0.92, 0.13)[variant]
        outputs = {
            "probability": np.array([[1 - probability, probability]], np.float32),
            "cam": _map(variant)[np.newaxis],
        }
        return manifest, classify(manifest, outputs, 0)

    return answer


def _zones(image: SourceImage, variant: int) -> tuple[Manifest, Finding]:
    probability = np.full((1, len(ZONES), len(CLASS_NAMES)), 0.05 - variant / 100, np.float32)
    for place in range(len(ZONES)):
        # Of all classes, and in the last variant none that has a score.
        called = len(CLASS_NAMES) - 1 if variant == BARE else (place + variant) % len(CLASS_NAMES)
        probability[0, place, called] += 1 - probability[0, place].sum()
    outputs = {"probability": probability, "cam": np.stack([_map(variant)] * len(ZONES))[np.newaxis]}
    framing = Framing.WHOLE if variant == BARE else Framing.LUNGS
    manifest = _manifest(Task.CSI, variant, CLASS_NAMES, input_spec=InputSpec(height=24, width=24, framing=framing))
    return manifest, grade(manifest, outputs, 0, image)


def _spine(schema: LandmarkSchema) -> Callable[[SourceImage, int], tuple[Manifest, Finding]]:
    def answer(image: SourceImage, variant: int) -> tuple[Manifest, Finding]:
        manifest = _manifest(Task.LANDMARKS, variant, schema.labels, review_confidence=0.5, tilt_scatter=1.5)
        confidence = np.full((1, len(schema)), (0.9, 0.8, 0.7)[variant], np.float32)
        if variant != 0:
            confidence[0, 2] = 0.1
        outputs = {
            "landmarks": _column(schema, variant)[np.newaxis],
            "confidence": confidence,
            "spread": np.full((1, len(schema)), 1.5, np.float32),
        }
        # A frontal film has no front.
        seen = image if schema.view is SpineView.LATERAL else replace(image, anterior=None)
        return manifest, locate(manifest, outputs, 0, seen)

    return answer


def _column(schema: LandmarkSchema, variant: int) -> NDArray[np.float32]:
    """Give a column of boxes ``(K, 2)`` with a bend and two slips, one to either side."""
    points = []
    for vertebra, corner in schema.points:
        place = schema.vertebrae.index(vertebra)
        shift = {1: 9.0, 3: -9.0 - variant}.get(place, 0.0)
        across = 20.0 if corner.value.endswith("right") else -20.0
        down = 8.0 if corner.value.startswith("bottom") else -8.0
        tilt = np.sin(place * 6.0 / len(schema.vertebrae)) * (0.2 + variant / 50)
        points.append((128 + shift + across, 40 + 25 * place + down + across * tilt))
    return np.array(points, np.float32)


def _map(variant: int) -> NDArray[np.float32]:
    ramp = np.linspace(0, 1, (7 + variant) * (6 + variant), dtype=np.float32)
    return ramp.reshape(7 + variant, 6 + variant)


_ANSWERS: Final[Mapping[str, Callable[[SourceImage, int], tuple[Manifest, Finding]]]] = {
    Task.PNEUMONIA.value: _two_classes(Task.PNEUMONIA),
    Task.NORMALITY.value: _two_classes(Task.NORMALITY),
    Task.CSI.value: _zones,
    f"{Task.LANDMARKS.value}, frontal": _spine(landmark_schema("buu_ap20")),
    f"{Task.LANDMARKS.value}, lateral": _spine(landmark_schema("buu_la22")),
}
"""By what is told; each task is there."""
