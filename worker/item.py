"""One instance on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from models.engines.engine import EngineInfo
from models.errors import Reason, Unprocessable
from models.requests import InferenceRequest
from models.store.manifest import Manifest
from models.tasks import Task
from worker.engine_set import Generation
from worker.findings import Finding
from worker.rendering import MadeOutput
from worker.stages import Prepared


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, and who found it: the version in service may be another by the time that it is recorded."""

    manifest: Manifest
    engine: EngineInfo
    finding: Finding


@dataclass(slots=True)
class Item:
    """An instance in hand.

    Attributes:
        submitted_at: monotonic seconds.
        generation: engines that it is prepared for and inferred by; released once it is inferred or refused.
        outputs: by the task whose answer they tell.
        reports: that it was not analysed.
        waiting_for: tasks whose outputs are still being made.
        postponed: why it cannot be settled now; it is then left pending, whatever was found.
    """

    request: InferenceRequest
    submitted_at: float
    generation: Generation
    prepared: Prepared | None = None
    answers: dict[Task, Answer] = field(default_factory=dict)
    outputs: dict[Task, tuple[MadeOutput, ...]] = field(default_factory=dict)
    reports: tuple[MadeOutput, ...] = ()
    waiting_for: int = 0
    refusal: Unprocessable | None = None
    inferred_at: datetime | None = None
    postponed: Reason | None = None
