"""One instance on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from models.engines.engine import EngineInfo
from models.errors import Unprocessable
from models.requests import InferenceRequest
from models.store.manifest import Manifest
from models.tasks import Task
from worker.engine_set import Generation
from worker.findings import Finding
from worker.stages import Prepared, Rendered


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
        waiting_for: outputs that are still being made.
    """

    request: InferenceRequest
    submitted_at: float
    generation: Generation
    prepared: Prepared | None = None
    answers: dict[Task, Answer] = field(default_factory=dict)
    rendered: dict[Task, Rendered] = field(default_factory=dict)
    waiting_for: int = 0
    refusal: Unprocessable | None = None
    inferred_at: datetime | None = None
