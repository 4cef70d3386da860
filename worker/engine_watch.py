"""Watches the model store and brings what its ``active.json`` files say into service, beside the feed.

A version is loaded and warmed while the former one serves, and then takes over for the instances that come after. One
that cannot be loaded is refused: it is logged and counted, the former goes on, and nothing is tried again until
``active.json`` or a file of that version changes. A store that is away changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from models.engines.built import unreadable_engines
from models.engines.engine import Engine
from models.errors import ConfigurationError
from models.store.activation import ACTIVE_NAME, Activation
from models.store.store import ModelStore, ModelVersion, StoreError
from models.tasks import Task
from models.telemetry import get_logger
from worker.engine_set import EngineSet, TaskEngines
from worker.metrics import WorkerMetrics
from worker.shadow import ShadowRunner, load_with_low_priority

log = get_logger("worker.engine_watch")

_LABELS: Final = ("task", "version", "provider", "precision", "role")
"""Of the metric that says what runs."""

Load = Callable[[ModelVersion], Engine]
Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, inode, time of change and size of files: differs once one of them was written or replaced."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    engine: Engine
    stamp: Stamp

    @property
    def version(self) -> str:
        return self.engine.manifest.version


@dataclass(frozen=True, slots=True)
class _Roles:
    """What runs for one task; without an active version nothing does."""

    active: _Loaded | None = None
    canary: _Loaded | None = None
    canary_percent: float = 0.0
    shadow: _Loaded | None = None

    def named(self) -> dict[str, _Loaded]:
        """Engines by role."""
        roles = {"active": self.active, "canary": self.canary, "shadow": self.shadow}
        return {role: loaded for role, loaded in roles.items() if loaded is not None}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a version does not run, and its files when it was tried; None has it tried again."""

    stamp: Stamp | None
    reason: str


class EngineWatch:
    """Keeps an engine set and the versions in the shadow as the store says."""

    def __init__(
        self,
        store: ModelStore,
        engines: EngineSet,
        load: Load,
        metrics: WorkerMetrics,
        *,
        poll_s: float,
        shadows: ShadowRunner | None = None,
    ) -> None:
        self._store = store
        self._engines = engines
        self._load = load
        self._metrics = metrics
        self._poll_s = poll_s
        self._shadows = shadows
        self._roles: dict[Task, _Roles] = {}
        self._seen: dict[Task, Stamp] = {}
        self._refused: dict[tuple[Task, str], _Refusal] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine-watch", daemon=True)

    def load_first(self) -> None:
        """Bring every task into service that has an active version; for the start of a worker.

        Where the active version cannot be loaded, the last one that served before it and can be loaded serves, as it
        does in a worker that was running when it was promoted.

        Raises:
            ConfigurationError: no task has an active version.
            StoreError: ``active.json`` is wrong, or none of the versions of a task can be loaded.
        """
        for task in Task:
            self._seen[task] = _stamp(self._store.root / task / ACTIVE_NAME)
            activation = self._store.activation(task)
            self._roles[task] = self._roles_for(task, activation)
            if activation.active is not None and self._roles[task].active is None:
                self._roles[task] = self._fall_back(task, activation)
        if not any(roles.active for roles in self._roles.values()):
            raise ConfigurationError("RADSTREAM_MODEL_STORE: no task has an active model version there")
        self._serve()

    def start(self) -> None:
        """Watch from a thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End watching; the engines stay as they are."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def look(self) -> None:
        """Look once whether something changed, and follow it."""
        changed = [task for task in Task if self._look_at(task)]
        if changed:
            self._serve()
        for engine in self._engines.close_retired():
            log.info("engine_closed", task=engine.manifest.task.value, version=engine.manifest.version)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self.look()
            except Exception as error:
                # The thread must live: without it the worker would serve on and never hear of a rollback.
                log.error("engine_watch_failed", exc_info=error)

    def _look_at(self, task: Task) -> bool:
        """Follow ``active.json`` of one task; True when something else is to run than before."""
        stamp = _stamp(self._store.root / task / ACTIVE_NAME)
        if stamp != self._seen.get(task):
            self._try_again(task)
        elif not self._is_mended(task):
            return False
        before = self._roles.get(task, _Roles())
        if not stamp and before.active is not None:
            # Out of service is {"active": null}; a missing file is a store that is not mounted, or a slip.
            self._refuse(task, "", stamp, f"{ACTIVE_NAME} is missing")
        else:
            try:
                self._roles[task] = self._roles_for(task, self._store.activation(task))
            except StoreError as error:
                self._refuse(task, "", stamp, str(error))
        self._seen[task] = stamp
        after = self._roles.get(task, _Roles())
        self._count(task, before, after)
        return after != before

    def _is_mended(self, task: Task) -> bool:
        """Whether a file of a refused version changed, so that it is worth another try."""
        return any(
            version and _stamp_of(self._store, task, version) != refusal.stamp
            for (refused, version), refusal in self._refused.items()
            if refused is task
        )

    def _try_again(self, task: Task) -> None:
        for (refused, version), refusal in self._refused.items():
            if refused is task:
                self._refused[task, version] = replace(refusal, stamp=None)

    def _roles_for(self, task: Task, activation: Activation) -> _Roles:
        """Load what is named and not there yet; what cannot be loaded leaves its place to what served before."""
        before = self._roles.get(task, _Roles())
        self._forget_refusals(task, activation)
        if activation.active is None:
            return _Roles()
        serving = {loaded.version: loaded for loaded in (before.active, before.canary) if loaded is not None}
        active = self._loaded(task, activation.active, serving) or before.active
        canary = self._loaded(task, activation.canary, serving) if activation.canary else None
        if active is None or canary is None or canary.version == active.version:
            canary = None
        shadow = None
        if self._shadows is not None and activation.shadow and active is not None:
            known = {} if before.shadow is None else {before.shadow.version: before.shadow}
            shadow = self._loaded(task, activation.shadow, known, shadow=True)
        return _Roles(active, canary, activation.canary_percent if canary else 0.0, shadow)

    def _fall_back(self, task: Task, activation: Activation) -> _Roles:
        for version in activation.previous:
            loaded = self._loaded(task, version, {})
            self._forget_refusals(task, activation)
            if loaded is not None:
                log.error("older_version_serves", task=task.value, version=version, instead_of=activation.active)
                return _Roles(loaded)
        raise StoreError(self._refused[task, str(activation.active)].reason)

    def _loaded(
        self, task: Task, version: str, known: Mapping[str, _Loaded], *, shadow: bool = False
    ) -> _Loaded | None:
        """Give the engine of a version: the one that runs, else a new one, None where it cannot be loaded."""
        # Before the files are read: who changes them meanwhile is noticed.
        stamp = _stamp_of(self._store, task, version)
        if version in known and known[version].stamp == stamp:
            return known[version]
        refusal = self._refused.get((task, version))
        if refusal is not None and refusal.stamp == stamp:
            return None
        try:
            opened = self._store.open(task, version)
            for reason in unreadable_engines(opened):
                log.warning("engine_passed_over", task=task.value, version=version, reason=reason)
            engine = load_with_low_priority(lambda: self._load(opened)) if shadow else self._load(opened)
        except Exception as error:
            # A version is data from elsewhere: whatever it does to a provider, memory included, the feed goes on.
            expected = isinstance(error, ConfigurationError)
            reason = str(error) if expected else f"{self._store.root / task / version}: {type(error).__name__}"
            self._refuse(task, version, stamp, reason, error)
            return None
        self._forget_refusal(task, version)
        log.info("engine_loaded", task=task.value, version=version, provider=engine.info.provider)
        return _Loaded(engine, stamp)

    def _refuse(self, task: Task, version: str, stamp: Stamp, reason: str, error: Exception | None = None) -> None:
        self._refused[task, version] = _Refusal(stamp, reason)
        self._metrics.engine_refused.labels(task.value, version).set(1)
        self._metrics.swaps.labels(task.value, "refused").inc()
        serving = self._roles.get(task, _Roles()).active
        log.error(
            "engine_refused",
            task=task.value,
            version=version or None,
            reason=reason,
            serving=serving.version if serving else None,
            exc_info=None if isinstance(error, ConfigurationError) else error,
        )

    def _forget_refusals(self, task: Task, activation: Activation) -> None:
        """Let go of refused versions that nobody asks for any more, and of a file that could not be read."""
        for refused, version in list(self._refused):
            if refused is task and version not in activation.named:
                self._forget_refusal(task, version)

    def _forget_refusal(self, task: Task, version: str) -> None:
        if self._refused.pop((task, version), None) is not None:
            self._metrics.engine_refused.remove(task.value, version)

    # Bringing into service

    def _serve(self) -> None:
        """Let the engines of all tasks answer for the instances that come from now on."""
        tasks: dict[Task, TaskEngines] = {}
        shadows: dict[Task, Engine] = {}
        for task, roles in self._roles.items():
            if roles.active is not None:
                canary = None if roles.canary is None else roles.canary.engine
                tasks[task] = TaskEngines(roles.active.engine, canary, roles.canary_percent)
            if roles.shadow is not None:
                shadows[task] = roles.shadow.engine
        if self._shadows is not None:
            self._shadows.serve(shadows)
        specs = {task: engine.manifest.input_spec for task, engine in shadows.items()}
        self._engines.swap(tasks, specs)
        self._show()

    def _show(self) -> None:
        """Say in the metrics what runs."""
        gauge = self._metrics.engine_info
        shown = {
            (task.value, loaded.version, loaded.engine.info.provider, loaded.engine.info.precision, role)
            for task, roles in self._roles.items()
            for role, loaded in roles.named().items()
        }
        for labels in shown:
            gauge.labels(*labels).set(1)
        for sample in [sample for metric in gauge.collect() for sample in metric.samples]:
            if tuple(sample.labels[name] for name in _LABELS) not in shown:
                gauge.remove(*(sample.labels[name] for name in _LABELS))

    def _count(self, task: Task, before: _Roles, after: _Roles) -> None:
        for role in ("active", "canary"):
            was, now = before.named().get(role), after.named().get(role)
            if was is now:
                continue
            self._metrics.swaps.labels(task.value, "withdrawn" if now is None else "swapped").inc()
            log.info(
                "engine_withdrawn" if now is None else "engine_swapped",
                task=task.value,
                role=role,
                version=now.version if now else None,
                was=was.version if was else None,
            )


def _stamp_of(store: ModelStore, task: Task, version: str) -> Stamp:
    directory = store.root / task / version
    try:
        return _stamp(*sorted(path for path in directory.rglob("*") if not path.is_dir()))
    except OSError:
        return ()


def _stamp(*paths: Path) -> Stamp:
    found = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            continue
        found.append((str(path), state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(found)
