"""The stage that runs in decoding processes before inference: prepare an instance for its engines.

What comes after it there is in `worker.rendering`. Both take and give plain data, hold no state but what `initialise`
put there, and never see Redis or the database. A codec that crashes or hangs takes one process of the pool with it,
never the worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.errors import Reason, Skipped, Unprocessable
from models.pixels.header import read_header
from models.pixels.limits import PixelLimits
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec
from models.records.outputs import OutputKind
from models.requests import InferenceRequest
from models.tasks import Task
from worker.outputs.loop_guard import is_own_output
from worker.routing import Routing
from worker.source import IdentityPolicy, SourceFacts, read_facts
from worker.source_image import SourceImage
from worker.task_plan import TaskPlan, unpack


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every preparation needs; given to each decoding process once, when it starts.

    Attributes:
        own_ae_titles: senders whose objects are always our own outputs.
        overlay_max_side: longest side of the display image, pixels; 0 when no overlays are made.
        kinds: of outputs that any destination wants.
        reports_refusals: whether any wants a report of instances that were not analysed.
    """

    routing: Routing
    identity: IdentityPolicy
    limits: PixelLimits
    own_ae_titles: frozenset[str]
    overlay_max_side: int
    kinds: frozenset[OutputKind] = frozenset()
    reports_refusals: bool = False


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
class OtherInput:
    """What a version other than the one that is to answer is fed.

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
        display: ``(h, w) uint8``, the image as a person would see it; None when no overlays are made.
        shadows: for versions in the shadow, by task; the same array as in `inputs` where both want the same.
        fallbacks: for the active version of tasks that a canary is to answer, where it wants something else.
    """

    facts: SourceFacts | None
    refusal: Unprocessable | None
    times: StageTimes
    inputs: dict[Task, NDArray[np.float32]] = field(default_factory=dict)
    image: SourceImage | None = None
    display: NDArray[np.uint8] | None = None
    versions: dict[Task, str] = field(default_factory=dict)
    shadows: dict[Task, OtherInput] = field(default_factory=dict)
    fallbacks: dict[Task, OtherInput] = field(default_factory=dict)


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
    if OutputKind.STRUCTURED_REPORT in context.kinds or context.reports_refusals:
        # Now, not with the first instance in hand: highdicom takes a third of a second to load.
        import worker.outputs.not_analysed_report  # noqa: F401


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
            others = {task: plans[task].active.spec for task in tasks if plans[task].active.spec != specs[task]}
        with times.measure("decode"):
            smallest_side = _smallest_side((*specs.values(), *others.values()), _context)
            radiograph = Radiograph.read(Path(path), _context.limits, smallest_side=smallest_side)
        with times.measure("resize"):
            inputs = {task: radiograph.to_input(spec) for task, spec in specs.items()}
            image = SourceImage.of(radiograph, specs)
            fallbacks = {task: _for_fallback(radiograph, task, spec) for task, spec in others.items()}
            display = radiograph.to_display(_context.overlay_max_side) if _context.overlay_max_side else None
        versions = {task: candidate.version for task, candidate in chosen.items()}
        shadows = _for_shadows(radiograph, inputs, image, specs, plans)
        return Prepared(facts, None, times, inputs, image, display, versions, shadows, fallbacks)
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


def _for_fallback(radiograph: Radiograph, task: Task, spec: InputSpec) -> OtherInput:
    """Make what the active version is fed where a canary that wants another input fails."""
    return OtherInput(spec, radiograph.to_input(spec), SourceImage.of(radiograph, {task: spec}))


def _for_shadows(
    radiograph: Radiograph,
    inputs: Mapping[Task, NDArray[np.float32]],
    image: SourceImage,
    specs: Mapping[Task, InputSpec],
    plans: Mapping[Task, TaskPlan],
) -> dict[Task, OtherInput]:
    """Make what versions in the shadow are fed: for most, what the version that answers is fed.

    The image was decoded for the versions that answer. A shadow that needs finer detail than that is left out: it would
    either be judged by what it never was trained on, or change what the others see.
    """
    shadows: dict[Task, OtherInput] = {}
    for task, spec in specs.items():
        wanted = plans[task].shadow
        if wanted == spec:
            shadows[task] = OtherInput(spec, inputs[task], image)
        elif wanted is not None and (not radiograph.halvings or min(radiograph.stored.shape) >= wanted.needed_side):
            try:
                image_of_shadow = SourceImage.of(radiograph, {task: wanted})
                shadows[task] = OtherInput(wanted, radiograph.to_input(wanted), image_of_shadow)
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
