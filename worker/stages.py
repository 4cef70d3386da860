"""The stages that run in decoding processes: prepare an instance for its engines, and make its outputs.

They take and give plain data, hold no state but what `initialise` put there, and never see Redis or the database.
A codec that crashes or hangs takes one process of the pool with it, never the worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.engines.engine import EngineInfo
from models.errors import Reason, Skipped, Unprocessable
from models.pixels.header import read_header
from models.pixels.limits import PixelLimits
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec
from models.requests import InferenceRequest
from models.store.manifest import Manifest
from models.tasks import Task
from worker.findings import Classification, CongestionFinding, Finding
from worker.outputs.loop_guard import is_own_output
from worker.outputs.secondary_capture import SecondaryCaptureOrder, write_secondary_capture
from worker.overlay import OverlayCaption, draw_overlay
from worker.routing import Routing
from worker.source import IdentityPolicy, SourceFacts, read_facts
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding
from worker.spine_overlay import draw_spine_overlay
from worker.task_plan import TaskPlan, unpack
from worker.zone_overlay import draw_zone_overlay


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every preparation needs; given to each decoding process once, when it starts.

    Attributes:
        own_ae_titles: senders whose objects are always our own outputs.
        overlay_max_side: longest side of the display image, pixels; 0 when no outputs are made.
    """

    routing: Routing
    identity: IdentityPolicy
    limits: PixelLimits
    own_ae_titles: frozenset[str]
    overlay_max_side: int


@dataclass(slots=True)
class StageTimes:
    """Wall and CPU seconds by stage name."""

    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str, *, whole_process: bool = False) -> Iterator[None]:
        """Add what happens inside to `stage`; `whole_process` counts the CPU of all threads, an engine's own too."""
        clock = time.process_time if whole_process else time.thread_time
        wall, cpu = time.perf_counter(), clock()
        try:
            yield
        finally:
            self.wall_s[stage] = self.wall_s.get(stage, 0.0) + time.perf_counter() - wall
            self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + clock() - cpu


@dataclass(frozen=True, slots=True)
class ShadowInput:
    """What a version in the shadow is fed.

    Attributes:
        array: ``(H, W) float32 in [0, 1]`` as `spec` has it.
        image: what the reader of its answer must know.
    """

    spec: InputSpec
    array: NDArray[np.float32]
    image: SourceImage


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one instance in preparation.

    Attributes:
        facts: None when not even the header could be read.
        refusal: why nothing is inferred; None when `inputs` holds an array per task.
        inputs: ``(H, W) float32 in [0, 1]`` by task.
        versions: that each of the inputs is for.
        image: what the readers of the answers must know of it; None when there is a refusal.
        display: ``(h, w) uint8``, the image as a person would see it; None when no outputs are made.
        shadows: for versions in the shadow, by task; the same array as in `inputs` where both want the same.
    """

    facts: SourceFacts | None
    refusal: Unprocessable | None
    times: StageTimes
    inputs: dict[Task, NDArray[np.float32]] = field(default_factory=dict)
    image: SourceImage | None = None
    display: NDArray[np.uint8] | None = None
    versions: dict[Task, str] = field(default_factory=dict)
    shadows: dict[Task, ShadowInput] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """One Secondary Capture to make from a prepared and inferred instance."""

    source_path: str
    source_sop_instance_uid: str
    revision: int
    display: NDArray[np.uint8]
    manifest: Manifest
    engine: EngineInfo
    finding: Finding
    outbox: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """An output on disk, not yet in the records."""

    task: Task
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str
    times: StageTimes


_context: StageContext | None = None


def initialise(context: StageContext) -> None:
    """Set up a decoding process."""
    global _context
    _context = context
    import logging
    import warnings

    # pydicom warns with element values; a decoding process has nothing else to say.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import cv2

    cv2.setNumThreads(1)  # the pool is the parallelism


def prepare(path: str, request: InferenceRequest, packed_plans: bytes) -> Prepared:
    """Read, route and decode one spool file.

    Args:
        path: of the Part 10 file in the spool.
        request: what the SCP said of it.
        packed_plans: of `worker.task_plan.pack`, who answers for the served tasks; a task without a plan has no active
            model version.

    Returns:
        Its facts and either the inputs of its tasks or the refusal; never raises for a bad instance.
    """
    if _context is None:
        raise RuntimeError("initialise was not called")
    times, plans = StageTimes(), unpack(packed_plans)
    facts = None
    try:
        with times.measure("read"):
            header = _open(path, request)
            facts = read_facts(header, _context.identity)
            tasks = _route(header, request, _context, plans)
            chosen = {task: plans[task].for_study(facts.study_instance_uid) for task in tasks}
            specs = {task: candidate.spec for task, candidate in chosen.items()}
        with times.measure("decode"):
            smallest_side = _smallest_side(specs.values(), _context)
            radiograph = Radiograph.read(Path(path), _context.limits, smallest_side=smallest_side)
        with times.measure("resize"):
            inputs = {task: radiograph.to_input(spec) for task, spec in specs.items()}
            image = SourceImage.of(radiograph, specs)
            display = radiograph.to_display(_context.overlay_max_side) if _context.overlay_max_side else None
        versions = {task: candidate.version for task, candidate in chosen.items()}
        shadows = _for_shadows(radiograph, inputs, image, specs, plans)
        return Prepared(facts, None, times, inputs, image, display, versions, shadows)
    except Unprocessable as refusal:
        return Prepared(facts, refusal, times)
    except MemoryError:
        return Prepared(facts, Unprocessable(Reason.TOO_LARGE, "no memory to decode it"), times)
    except Exception as error:
        # The border of a process that reads hostile input: whatever a parser raises becomes a recorded reason.
        return Prepared(facts, Unprocessable(Reason.MALFORMED_DATASET, type(error).__name__), times)


def _open(path: str, request: InferenceRequest) -> Dataset:
    try:
        header = read_header(Path(path))
    except FileNotFoundError as error:
        raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error
    uid = str(header.get("SOPInstanceUID", ""))
    if not uid:
        raise Unprocessable(Reason.MALFORMED_DATASET, "SOPInstanceUID is missing")
    if uid != request.sop_instance_uid:
        raise Unprocessable(Reason.UID_MISMATCH, "SOPInstanceUID differs from the C-STORE request")
    return header


def _for_shadows(
    radiograph: Radiograph,
    inputs: Mapping[Task, NDArray[np.float32]],
    image: SourceImage,
    specs: Mapping[Task, InputSpec],
    plans: Mapping[Task, TaskPlan],
) -> dict[Task, ShadowInput]:
    """Make what versions in the shadow are fed: for most, what the version that answers is fed.

    The image was decoded for the versions that answer. A shadow that needs finer detail than that is left out: it would
    either be judged by what it never was trained on, or change what the others see.
    """
    shadows: dict[Task, ShadowInput] = {}
    for task, spec in specs.items():
        wanted = plans[task].shadow
        if wanted == spec:
            shadows[task] = ShadowInput(spec, inputs[task], image)
        elif wanted is not None and (not radiograph.halvings or min(radiograph.stored.shape) >= wanted.needed_side):
            try:
                image_of_shadow = SourceImage.of(radiograph, {task: wanted})
                shadows[task] = ShadowInput(wanted, radiograph.to_input(wanted), image_of_shadow)
            except Exception:
                continue  # nothing of a shadow may touch the instance; that it is missing is counted
    return shadows


def _route(
    header: Dataset, request: InferenceRequest, context: StageContext, plans: Mapping[Task, TaskPlan]
) -> tuple[Task, ...]:
    if request.calling_ae_title in context.own_ae_titles or is_own_output(header):
        raise Skipped(Reason.OWN_OUTPUT)
    tasks = context.routing.tasks_for(header)
    served = tuple(task for task in tasks if task in plans)
    if not served:
        raise Skipped(Reason.NO_ACTIVE_VERSION, ", ".join(tasks))
    return served


def _smallest_side(specs: Iterable[InputSpec], context: StageContext) -> int:
    """Detail that codecs may leave out: finer than the inputs need and than three quarters of the display."""
    sides = [spec.needed_side for spec in specs]
    return max(0, *sides, context.overlay_max_side * 3 // 4)


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
    """Draw the overlay of one finding and write its Secondary Capture to the outbox.

    Raises:
        OSError: the outbox cannot be written.
        Unprocessable: the source file is gone or its header cannot be read.
    """
    times = StageTimes()
    manifest, finding = order.manifest, order.finding
    with times.measure("overlay"):
        picture = draw(finding, order.display, manifest)
    with times.measure("write_output"):
        written = write_secondary_capture(
            SecondaryCaptureOrder(
                header=read_header(Path(order.source_path)),
                rgb=picture,
                manifest=manifest,
                engine=order.engine,
                source_sop_instance_uid=order.source_sop_instance_uid,
                revision=order.revision,
                finding=finding.description,
            ),
            Path(order.outbox),
        )
    return Rendered(
        manifest.task,
        written.sop_class_uid,
        written.sop_instance_uid,
        written.series_instance_uid,
        written.file_name,
        times,
    )
