"""The engines in service, and how one takes over from another while instances are on their way.

Every state of the set is a generation that is never changed. An instance holds the generation under which it was
submitted until it is inferred, so it is answered by the very engines that it was prepared for; an engine is closed when
no generation that has it is current or held. Swapping is naming another generation as the current one: nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from models.engines.engine import Engine
from models.pixels.spec import InputSpec
from models.tasks import Task
from worker.task_plan import Candidate, TaskPlan, pack


@dataclass(frozen=True, slots=True)
class TaskEngines:
    """The engines that answer for one task.

    Attributes:
        canary_percent: how many of a hundred studies the canary answers for.
    """

    active: Engine
    canary: Engine | None = None
    canary_percent: float = 0.0

    def named(self, version: str) -> Engine:
        """Give the engine of the version that an instance was prepared for.

        Raises:
            KeyError: neither is of this version.
        """
        for engine in self.engines:
            if engine.manifest.version == version:
                return engine
        raise KeyError(version)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Both, or the one."""
        return (self.active,) if self.canary is None else (self.active, self.canary)


class Generation:
    """One state of the set.

    Attributes:
        tasks: engines by task in service.
        plans: who answers, as decoding processes are told it.
        packed_plans: the same as it is sent to them.
    """

    __slots__ = ("holders", "packed_plans", "plans", "tasks")

    def __init__(self, tasks: Mapping[Task, TaskEngines], shadows: Mapping[Task, InputSpec]) -> None:
        self.tasks = dict(tasks)
        self.plans = {task: _plan(engines, shadows.get(task)) for task, engines in tasks.items()}
        self.packed_plans = pack(self.plans)
        self.holders = 0  # changed by the set alone, under its lock

    @property
    def engines(self) -> list[Engine]:
        """Every engine of it."""
        return [engine for engines in self.tasks.values() for engine in engines.engines]


class EngineSet:
    """The engines of one worker; may be used from any thread."""

    def __init__(
        self, tasks: Mapping[Task, TaskEngines] | None = None, shadows: Mapping[Task, InputSpec] | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._current = Generation(tasks or {}, shadows or {})
        self._former: list[Generation] = []

    @property
    def current(self) -> Generation:
        """The generation that the next instance will hold."""
        return self._current

    def hold(self) -> Generation:
        """Give the current generation, whose engines stay open until it is released."""
        with self._lock:
            self._current.holders += 1
            return self._current

    def release(self, generation: Generation) -> None:
        """Let go of a generation; whoever closes retired engines may then close those of it."""
        with self._lock:
            generation.holders -= 1

    def swap(self, tasks: Mapping[Task, TaskEngines], shadows: Mapping[Task, InputSpec] | None = None) -> None:
        """Let other engines answer for every instance that is submitted from now on.

        Args:
            tasks: all that serve from now on; those that go on are the same objects as before.
            shadows: what versions in the shadow want to be fed.
        """
        generation = Generation(tasks, shadows or {})
        with self._lock:
            self._former.append(self._current)
            self._current = generation

    def close_retired(self) -> list[Engine]:
        """Close the engines that no instance needs any more; give them."""
        with self._lock:
            left = [generation for generation in self._former if generation.holders == 0]
            self._former = [generation for generation in self._former if generation.holders > 0]
            needed = {id(engine) for held in (self._current, *self._former) for engine in held.engines}
        retired = {id(engine): engine for generation in left for engine in generation.engines}
        closed = [engine for identity, engine in retired.items() if identity not in needed]
        for engine in closed:
            engine.close()
        return closed

    def close(self) -> None:
        """Close every engine, held or not; for the end of the worker."""
        with self._lock:
            generations, self._former = [self._current, *self._former], []
        for engine in {id(each): each for generation in generations for each in generation.engines}.values():
            engine.close()


def _plan(engines: TaskEngines, shadow: InputSpec | None) -> TaskPlan:
    canary = None if engines.canary is None else _candidate(engines.canary)
    return TaskPlan(_candidate(engines.active), canary, engines.canary_percent, shadow)


def _candidate(engine: Engine) -> Candidate:
    return Candidate(engine.manifest.version, engine.manifest.input_spec)
