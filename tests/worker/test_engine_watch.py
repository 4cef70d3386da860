"""What a worker does when ``active.json`` changes: with a real store, and engines that need no network."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from models.engines.engine import EngineInfo
from models.errors import ConfigurationError
from models.store.lifecycle import promote, roll_back, set_shadow, start_canary
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion, StoreError
from models.tasks import Task
from worker.engine_set import EngineSet
from worker.engine_watch import EngineWatch
from worker.metrics import WorkerMetrics
from worker.shadow import ShadowRunner

TASK = Task.PNEUMONIA


class Loaded:
    """An engine of a version."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.info = EngineInfo("in_test", "1", "cpu", "fp32", "cd" * 32)
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Bench:
    """A store, a watch on it, and what it loaded."""

    def __init__(self, root: Path, manifest: Manifest, sessions: Any) -> None:
        self._root, self._manifest = root, manifest
        self.store = ModelStore(root / "store")
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.engines = EngineSet()
        self.shadows = ShadowRunner(sessions, self.metrics, max_batch=8, max_waiting=8)
        self.loaded: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.watch = self.new_watch()

    def new_watch(self) -> EngineWatch:
        """A watch as a worker that starts has it."""
        return EngineWatch(self.store, self.engines, self._load, self.metrics, poll_s=0.01, shadows=self.shadows)

    def _load(self, version: ModelVersion) -> Any:
        self.loaded.append(version.manifest.version)
        if version.manifest.version in self.broken:
            raise self.broken[version.manifest.version]
        return Loaded(version.manifest)

    def publish(self, *versions: str, task: Task = TASK) -> None:
        for version in versions:
            staging = self._root / f"{task}-{version}"
            staging.mkdir()
            (staging / "network.onnx").write_bytes(version.encode())
            files = {"network.onnx": hashlib.sha256(version.encode()).hexdigest()}
            told = self._manifest.model_copy(update={"version": version, "files": files, "task": task})
            (staging / "manifest.json").write_text(told.model_dump_json())
            self.store.publish(task, staging)

    def serving(self, task: Task = TASK) -> tuple[str | None, str | None, str | None]:
        """Active, canary and shadow version, as instances get them."""
        engines = self.engines.current.tasks.get(task)
        shadow = self.shadows._engines.get(task)
        canary = engines.canary if engines else None
        return (
            engines.active.manifest.version if engines else None,
            canary.manifest.version if canary else None,
            shadow.manifest.version if shadow else None,
        )

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def swaps(self, outcome: str) -> float:
        return self.sample("radstream_worker_swaps_total", task="pneumonia", outcome=outcome) or 0

    def refused(self, version: str) -> float | None:
        return self.sample("radstream_worker_engine_refused", task="pneumonia", version=version)

    def running(self) -> set[tuple[str, str]]:
        """Versions and roles that the metrics show."""
        (metric,) = [each for each in self.registry.collect() if each.name == "radstream_worker_engine_info"]
        return {(sample.labels["version"], sample.labels["role"]) for sample in metric.samples}


@pytest.fixture
def bench(tmp_path: Path, manifest: Manifest, sqlite_sessions: Any) -> Any:
    bench = Bench(tmp_path, manifest, sqlite_sessions)
    bench.publish("1", "2", "3")
    promote(bench.store, TASK, "1")
    bench.watch.load_first()
    yield bench
    bench.shadows.stop(5)


def test_a_worker_starts_with_what_the_store_says(bench: Bench) -> None:
    assert bench.serving() == ("1", None, None)
    assert bench.running() == {("1", "active")}
    assert bench.swaps("swapped") == 0


def test_nothing_is_read_again_while_nothing_changes(bench: Bench) -> None:
    before = bench.engines.current
    for _ in range(3):
        bench.watch.look()
    assert bench.loaded == ["1"]
    assert bench.engines.current is before


def test_a_promoted_version_takes_over_and_the_former_is_closed(bench: Bench) -> None:
    old = bench.engines.current.tasks[TASK].active
    held = bench.engines.hold()
    promote(bench.store, TASK, "2")
    bench.watch.look()
    assert bench.serving() == ("2", None, None)
    assert not old.closed  # type: ignore[attr-defined]  # the test's engine
    bench.engines.release(held)
    bench.watch.look()
    assert old.closed  # type: ignore[attr-defined]  # the test's engine
    assert bench.running() == {("2", "active")}
    roll_back(bench.store, TASK)
    bench.watch.look()
    assert bench.serving() == ("1", None, None)
    assert bench.swaps("swapped") == 2


def test_every_role_is_filled_and_a_canary_that_is_promoted_is_not_loaded_again(bench: Bench) -> None:
    start_canary(bench.store, TASK, "2", 10)
    set_shadow(bench.store, TASK, "3")
    bench.watch.look()
    assert bench.serving() == ("1", "2", "3")
    plan = bench.engines.current.plans[TASK]
    assert (plan.canary_percent, plan.shadow) == (10, plan.active.spec)
    assert bench.running() == {("1", "active"), ("2", "canary"), ("3", "shadow")}
    canary = bench.engines.current.tasks[TASK].canary
    start_canary(bench.store, TASK, "2", 50)
    bench.watch.look()
    assert bench.engines.current.plans[TASK].canary_percent == 50
    promote(bench.store, TASK, "2")
    bench.watch.look()
    assert bench.serving() == ("2", None, "3")
    assert bench.engines.current.tasks[TASK].active is canary
    assert bench.loaded == ["1", "2", "3"]
    assert bench.swaps("withdrawn") == 1, "the canary"


def test_tasks_come_into_service_and_go_out_of_it(bench: Bench) -> None:
    bench.publish("1", task=Task.CSI)
    promote(bench.store, Task.CSI, "1")
    bench.watch.look()
    assert bench.serving(Task.CSI) == ("1", None, None)
    bench.store.activate(TASK, None)
    bench.watch.look()
    assert bench.serving() == (None, None, None)
    assert set(bench.engines.current.plans) == {Task.CSI}
    bench.store.activate(Task.CSI, None)
    bench.watch.look()
    assert bench.engines.current.plans == {}, "nothing serves; every instance is skipped as such"


@pytest.mark.parametrize("error", [StoreError("network.onnx: does not run"), MemoryError(), RuntimeError("secret")])
def test_a_version_that_cannot_be_loaded_is_refused_loudly_once_and_the_former_goes_on(
    bench: Bench, error: Exception
) -> None:
    bench.broken["2"] = error
    before = bench.engines.current.tasks[TASK].active
    promote(bench.store, TASK, "2")
    with capture_logs() as logs:
        for _ in range(3):
            bench.watch.look()
    assert bench.serving() == ("1", None, None)
    assert bench.engines.current.tasks[TASK].active is before
    assert bench.loaded == ["1", "2"], "tried once"
    (told,) = [entry for entry in logs if entry["event"] == "engine_refused"]
    assert (told["log_level"], told["task"], told["version"], told["serving"]) == ("error", "pneumonia", "2", "1")
    assert ("does not run" in told["reason"]) == isinstance(error, StoreError)
    assert "secret" not in told["reason"]
    assert (bench.refused("2"), bench.swaps("refused"), bench.swaps("swapped")) == (1, 1, 0)
    roll_back(bench.store, TASK)
    bench.watch.look()
    assert bench.refused("2") is None
    assert bench.loaded == ["1", "2"], "the version that never ceased to serve is not loaded again"


def test_a_refused_version_is_tried_again_when_it_is_promoted_again_or_its_files_change(bench: Bench) -> None:
    bench.broken["2"] = StoreError("no plan for this GPU")
    promote(bench.store, TASK, "2")
    bench.watch.look()
    promote(bench.store, TASK, "2")
    bench.watch.look()
    assert bench.loaded == ["1", "2", "2"]
    del bench.broken["2"]
    bench.watch.look()
    assert bench.serving() == ("1", None, None)
    (bench.store.root / TASK / "2" / "engines").mkdir()
    (bench.store.root / TASK / "2" / "engines" / "new.plan").write_bytes(b"built meanwhile")
    bench.watch.look()
    assert bench.serving() == ("2", None, None)
    assert bench.refused("2") is None


def test_promoting_the_serving_version_again_takes_the_engines_that_were_built_since(bench: Bench) -> None:
    old = bench.engines.current.tasks[TASK].active
    promote(bench.store, TASK, "1")
    bench.watch.look()
    assert bench.loaded == ["1"], "nothing was built"
    (bench.store.root / TASK / "1" / "engines").mkdir()
    (bench.store.root / TASK / "1" / "engines" / "new.json").write_text("{}")
    bench.watch.look()
    assert bench.loaded == ["1"], "building alone brings nothing into service"
    promote(bench.store, TASK, "1")
    bench.watch.look()
    assert bench.loaded == ["1", "1"]
    assert bench.serving() == ("1", None, None)
    bench.watch.look()
    assert old.closed  # type: ignore[attr-defined]  # the test's engine
    assert bench.store.activation(TASK).previous == ()


def test_built_engines_that_cannot_be_read_are_named_in_the_log_and_the_version_serves(bench: Bench) -> None:
    folder = bench.store.root / TASK / "2" / "engines"
    folder.mkdir()
    (folder / "torn.json").write_text("{")
    promote(bench.store, TASK, "2")
    with capture_logs() as logs:
        bench.watch.look()
    assert bench.serving() == ("2", None, None)
    (told,) = [entry for entry in logs if entry["event"] == "engine_passed_over"]
    assert (told["log_level"], told["task"], told["version"]) == ("warning", "pneumonia", "2")
    assert "torn.json: not the manifest of an engine" in told["reason"]


def test_files_that_were_changed_after_publication_are_refused(bench: Bench) -> None:
    promote(bench.store, TASK, "2")
    (bench.store.root / TASK / "2" / "network.onnx").write_bytes(b"other")
    bench.watch.look()
    assert bench.serving() == ("1", None, None)
    assert bench.loaded == ["1"], "never given to a provider"
    assert bench.refused("2") == 1


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_canary_or_shadow_that_cannot_be_loaded_leaves_the_active_version_alone(bench: Bench, role: str) -> None:
    bench.broken["2"] = StoreError("broken")
    if role == "canary":
        start_canary(bench.store, TASK, "2", 10)
    else:
        set_shadow(bench.store, TASK, "2")
    bench.watch.look()
    assert bench.serving() == ("1", None, None)
    assert bench.refused("2") == 1
    set_shadow(bench.store, TASK, "3")
    bench.watch.look()
    assert bench.serving() == ("1", None, "3")


@pytest.mark.parametrize("text", ["", "{", '{"active": 3}', None])
def test_an_activation_that_cannot_be_read_changes_nothing(bench: Bench, text: str | None) -> None:
    path = bench.store.root / TASK / "active.json"
    good = path.read_bytes()
    path.unlink()
    if text is not None:
        path.write_text(text)
    with capture_logs() as logs:
        bench.watch.look()
        bench.watch.look()
    assert bench.serving() == ("1", None, None)
    assert [entry["event"] for entry in logs] == ["engine_refused"]
    assert bench.refused("") == 1
    path.write_bytes(good)
    bench.watch.look()
    assert bench.refused("") is None
    assert bench.serving() == ("1", None, None)
    assert bench.loaded == ["1"]


def test_a_store_that_is_away_changes_nothing(bench: Bench) -> None:
    os.rename(bench.store.root, bench.store.root.with_name("away"))
    bench.watch.look()
    assert bench.serving() == ("1", None, None)
    os.rename(bench.store.root.with_name("away"), bench.store.root)
    bench.watch.look()
    assert bench.serving() == ("1", None, None)


def test_a_worker_that_starts_while_a_broken_version_is_active_serves_the_one_before(bench: Bench) -> None:
    promote(bench.store, TASK, "2")
    promote(bench.store, TASK, "3")
    bench.broken = {"2": StoreError("broken"), "3": StoreError("broken too")}
    bench.new_watch().load_first()
    assert bench.serving() == ("1", None, None)
    assert (bench.refused("3"), bench.refused("2")) == (1, None), "the one that should serve"


def test_a_worker_whose_versions_are_all_broken_does_not_start(bench: Bench) -> None:
    bench.broken["1"] = StoreError("cannot load it")
    with pytest.raises(StoreError, match="cannot load it"):
        bench.new_watch().load_first()


def test_a_store_without_active_versions_is_refused(bench: Bench, tmp_path: Path) -> None:
    watch = EngineWatch(ModelStore(tmp_path / "none"), EngineSet(), bench._load, bench.metrics, poll_s=1)
    with pytest.raises(ConfigurationError, match="RADSTREAM_MODEL_STORE"):
        watch.load_first()


def test_the_thread_follows_by_itself_and_ends(bench: Bench, eventually: Callable[..., None]) -> None:
    bench.watch.start()
    promote(bench.store, TASK, "2")
    eventually(lambda: bench.serving() == ("2", None, None))
    eventually(lambda: bench.swaps("swapped") == 1)
    bench.watch.stop(5)
    assert "engine-watch" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_survives_what_nobody_thought_of(
    bench: Bench, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [OSError("once")]
    activation = bench.store.activation

    def failing(task: Task) -> Any:
        if faults:
            raise faults.pop()
        return activation(task)

    monkeypatch.setattr(bench.store, "activation", failing)
    bench.watch.start()
    promote(ModelStore(bench.store.root), TASK, "2")
    eventually(lambda: bench.serving() == ("2", None, None))
    assert faults == []
    bench.watch.stop(5)
