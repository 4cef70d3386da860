"""What an instance is prepared for, of one task: goes to a decoding process with each instance.

The specs travel with the instance and are not kept by the process, so that a version which comes into service is known
to the next instance, and what was prepared for one version never reaches the engine of another.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from models.pixels.spec import InputSpec
from models.store.activation import in_canary
from models.tasks import Task


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that may answer, and what its engine wants to be fed."""

    version: str
    spec: InputSpec


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Who answers for a task.

    Attributes:
        active: answers for every study that the canary does not.
        canary_percent: how many of a hundred studies the canary answers for.
        shadow: what the version in the shadow wants to be fed; None when there is none.
    """

    active: Candidate
    canary: Candidate | None = None
    canary_percent: float = 0.0
    shadow: InputSpec | None = None

    def for_study(self, study_instance_uid: str | None) -> Candidate:
        """Give the version that answers for a study; the active one where the study is not known."""
        if self.canary is not None and in_canary(study_instance_uid, self.canary_percent):
            return self.canary
        return self.active


def pack(plans: Mapping[Task, TaskPlan]) -> bytes:
    """Give plans as they go to a decoding process, made once for many instances: making costs more than sending."""
    return pickle.dumps(dict(plans))


@lru_cache(maxsize=4)
def unpack(packed: bytes) -> Mapping[Task, TaskPlan]:
    """Give what `pack` was given; the same for the next instance. Only for bytes of this program's own processes."""
    plans: dict[Task, TaskPlan] = pickle.loads(packed)
    return plans
