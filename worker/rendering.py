"""Makes the outputs of one instance, in a decoding process: those of a finding, or the report that there is none.

Each kind of output is made on its own: one that fails takes no other with it. The finding stands in the records
whatever becomes of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import EngineInfo
from models.errors import Reason, Unprocessable
from models.pixels.header import read_header
from models.records.outputs import OutputKind
from models.store.manifest import Manifest
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs.common_modules import OutputOrder
from worker.outputs.files import WrittenOutput
from worker.outputs.loop_guard import is_own_output
from worker.outputs.parametric_map import write_parametric_map
from worker.outputs.presentation_state import write_presentation_state
from worker.outputs.secondary_capture import write_secondary_capture
from worker.overlay import OverlayCaption, draw_overlay
from worker.spine_finding import LandmarkFinding
from worker.spine_overlay import draw_spine_overlay
from worker.stages import StageTimes
from worker.zone_overlay import draw_zone_overlay


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """The outputs to make of one finding.

    Attributes:
        display: ``(h, w) uint8``, the image as a person would see it; None where no kind needs it.
        kinds: the kinds wanted; one that the finding has nothing for is not made.
    """

    source_path: str
    source_sop_instance_uid: str
    revision: int
    display: NDArray[np.uint8] | None
    manifest: Manifest
    engine: EngineInfo
    finding: Finding
    outbox: str
    kinds: frozenset[OutputKind]


@dataclass(frozen=True, slots=True)
class MadeOutput:
    """An output on disk, not yet in the records."""

    kind: OutputKind
    written: WrittenOutput


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became of an order.

    Attributes:
        outputs: at most one of each kind.
        failed: name of the error, by the kind that could not be made.
    """

    outputs: tuple[MadeOutput, ...]
    failed: Mapping[OutputKind, str]
    times: StageTimes


@singledispatch
def draw(finding: Finding, display: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """Draw a finding on ``(h, w) uint8``: the picture of a Secondary Capture, ``(H, W, 3) uint8`` RGB."""
    raise TypeError(f"no picture is known for {type(finding).__name__}")


@draw.register
def _draw_classification(finding: Classification, display: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    caption = OverlayCaption(
        task=manifest.task.value,
        label=finding.label,
        positive_label=finding.positive_label,
        probability=finding.probability,
        threshold=finding.threshold,
        version=manifest.version,
    )
    return draw_overlay(display, finding.cam, caption)


@draw.register
def _draw_congestion(finding: CongestionFinding, display: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    return draw_zone_overlay(display, finding, manifest.version)


@draw.register
def _draw_landmarks(finding: LandmarkFinding, display: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    return draw_spine_overlay(display, finding, manifest.version)


def render(order: RenderOrder) -> Rendered:
    """Make the outputs of one finding and write them to the outbox.

    Raises:
        Unprocessable: the source file is gone or its header cannot be read.
    """
    times = StageTimes()
    with times.measure("write_output"):
        output = OutputOrder(
            header=read_header(Path(order.source_path)),
            manifest=order.manifest,
            engine=order.engine,
            source_sop_instance_uid=order.source_sop_instance_uid,
            revision=order.revision,
            finding=order.finding,
        )
    made: list[MadeOutput] = []
    failed: dict[OutputKind, str] = {}
    for kind, make in _MAKERS.items():
        if kind not in order.kinds:
            continue
        try:
            written = make(order, output, tuple(made), times)
        except Exception as error:
            # A border: whatever stops one kind must not stop the others. The caller logs it; here nothing is logged.
            failed[kind] = type(error).__name__
            continue
        if written is not None:
            made.append(MadeOutput(kind, written))
    return Rendered(tuple(made), failed, times)


def _make_secondary_capture(
    order: RenderOrder, output: OutputOrder, made: tuple[MadeOutput, ...], times: StageTimes
) -> WrittenOutput | None:
    if order.display is None:
        return None
    with times.measure("overlay"):
        picture = draw(order.finding, order.display, order.manifest)
    with times.measure("write_output"):
        return write_secondary_capture(output, picture, Path(order.outbox))


def _make_structured_report(
    order: RenderOrder, output: OutputOrder, made: tuple[MadeOutput, ...], times: StageTimes
) -> WrittenOutput | None:
    # Here, so that a process which makes no reports does not load highdicom.
    from worker.outputs.structured_report import write_structured_report

    overlays = [each.written for each in made if each.kind is OutputKind.SECONDARY_CAPTURE]
    with times.measure(OutputKind.STRUCTURED_REPORT.value):
        return write_structured_report(output, overlays, Path(order.outbox))


def _make_parametric_map(
    order: RenderOrder, output: OutputOrder, made: tuple[MadeOutput, ...], times: StageTimes
) -> WrittenOutput | None:
    with times.measure(OutputKind.PARAMETRIC_MAP.value):
        return write_parametric_map(output, Path(order.outbox))


def _make_presentation_state(
    order: RenderOrder, output: OutputOrder, made: tuple[MadeOutput, ...], times: StageTimes
) -> WrittenOutput | None:
    with times.measure(OutputKind.PRESENTATION_STATE.value):
        return write_presentation_state(output, Path(order.outbox))


_Maker = Callable[[RenderOrder, OutputOrder, tuple[MadeOutput, ...], StageTimes], WrittenOutput | None]

_MAKERS: Final[Mapping[OutputKind, _Maker]] = {
    OutputKind.SECONDARY_CAPTURE: _make_secondary_capture,
    OutputKind.STRUCTURED_REPORT: _make_structured_report,
    OutputKind.PARAMETRIC_MAP: _make_parametric_map,
    OutputKind.PRESENTATION_STATE: _make_presentation_state,
}
"""In the order in which they are made: a report names the overlay that was made before it."""


@dataclass(frozen=True, slots=True)
class RefusalOrder:
    """The report to make of an instance that was not analysed.

    Attributes:
        skipped: whether nothing was wrong with it, else its analysis failed.
    """

    source_path: str
    source_sop_instance_uid: str
    calling_ae_title: str
    revision: int
    reason: Reason
    skipped: bool
    own_ae_titles: frozenset[str]
    outbox: str


def report_refusal(order: RefusalOrder) -> Rendered:
    """Write the report of an instance that was not analysed to the outbox; none of an output of ours.

    Raises:
        OSError: the outbox cannot be written.
        Unprocessable: the source file is gone, its header cannot be read, or it is not of the instance.
    """
    # A report of our own reports would come back and be reported, and so on for ever.
    if order.reason is Reason.OWN_OUTPUT or order.calling_ae_title in order.own_ae_titles:
        return Rendered((), {}, StageTimes())
    from worker.outputs.not_analysed_report import NotAnalysedOrder, write_not_analysed_report

    times = StageTimes()
    with times.measure("not_analysed_report"):
        header = read_header(Path(order.source_path))
        if is_own_output(header):
            return Rendered((), {}, times)
        if str(header.get("SOPInstanceUID", "")) != order.source_sop_instance_uid:
            raise Unprocessable(Reason.UID_MISMATCH)
        report = NotAnalysedOrder(header, order.source_sop_instance_uid, order.revision, order.reason, order.skipped)
        written = write_not_analysed_report(report, Path(order.outbox))
    return Rendered((MadeOutput(OutputKind.STRUCTURED_REPORT, written),), {}, times)
