"""Engines that take over from one another while instances hold them, and who answers for a study."""

from __future__ import annotations

from typing import Any

import pytest

from models.pixels.spec import InputSpec
from models.store.activation import in_canary
from models.tasks import Task
from worker.engine_set import EngineSet, TaskEngines
from worker.task_plan import Candidate, TaskPlan, unpack

SMALL, LARGE = InputSpec(height=8, width=8), InputSpec(height=32, width=32)
STUDIES = [f"1.2.{number}" for number in range(200)]


@pytest.fixture
def make(manifest: Any) -> Any:
    """Make an engine that knows only its version and whether it was closed."""

    class Known:
        def __init__(self, version: str) -> None:
            self.manifest = manifest.model_copy(update={"version": version})
            self.closed = 0

        def close(self) -> None:
            self.closed += 1

    return Known


def _swap(engines: EngineSet, engine: Any, **others: Any) -> None:
    engines.swap({Task.PNEUMONIA: TaskEngines(engine, **others)})


def test_an_engine_is_closed_once_when_the_last_instance_that_holds_it_is_through(make: Any) -> None:
    engines, old, new = EngineSet(), make("1"), make("2")
    _swap(engines, old)
    first, second = engines.hold(), engines.hold()
    _swap(engines, new)
    third = engines.hold()
    assert first.tasks[Task.PNEUMONIA].active is old
    assert third.tasks[Task.PNEUMONIA].active is new
    engines.release(first)
    assert engines.close_retired() == []
    engines.release(second)
    assert engines.close_retired() == [old]
    assert engines.close_retired() == []
    assert (old.closed, new.closed) == (1, 0)


def test_an_engine_that_came_back_or_changed_its_role_stays_open(make: Any) -> None:
    engines, one, two = EngineSet(), make("1"), make("2")
    _swap(engines, one)
    _swap(engines, one, canary=two, canary_percent=10.0)
    held = engines.hold()
    _swap(engines, two)
    _swap(engines, one)
    engines.release(held)
    assert engines.close_retired() == [two]
    _swap(engines, one)
    assert engines.close_retired() == []
    assert one.closed == 0


def test_a_task_out_of_service_has_no_plan_and_its_engine_goes(make: Any) -> None:
    engines, engine = EngineSet(), make("1")
    _swap(engines, engine)
    engines.swap({})
    assert engines.hold().plans == {}
    assert engines.close_retired() == [engine]


def test_the_end_closes_everything_held_or_not(make: Any) -> None:
    engines, one, two = EngineSet(), make("1"), make("2")
    _swap(engines, one)
    engines.hold()
    _swap(engines, two)
    engines.close()
    assert (one.closed, two.closed) == (1, 1)


def test_an_engine_is_found_by_the_version_that_an_instance_was_prepared_for(make: Any) -> None:
    one, two = make("1"), make("2")
    serving = TaskEngines(one, two, 10)
    assert serving.named("1") is one
    assert serving.named("2") is two
    with pytest.raises(KeyError):
        serving.named("3")


def test_the_plan_names_versions_specs_and_the_shadow(make: Any) -> None:
    engines, one, two = EngineSet(), make("1"), make("2")
    spec = one.manifest.input_spec
    engines.swap({Task.PNEUMONIA: TaskEngines(one, two, 10)}, {Task.PNEUMONIA: LARGE, Task.CSI: LARGE})
    expected = TaskPlan(Candidate("1", spec), Candidate("2", spec), 10, LARGE)
    assert engines.hold().plans == {Task.PNEUMONIA: expected}
    assert unpack(engines.current.packed_plans) == engines.current.plans


def test_the_canary_answers_for_its_studies_and_the_active_version_for_the_rest() -> None:
    plan = TaskPlan(Candidate("1", SMALL), Candidate("2", LARGE), 25)
    chosen = {uid: plan.for_study(uid) for uid in STUDIES}
    assert {candidate.version for candidate in chosen.values()} == {"1", "2"}
    assert all((candidate.version == "2") == in_canary(uid, 25) for uid, candidate in chosen.items())
    assert all((candidate.spec == LARGE) == (candidate.version == "2") for candidate in chosen.values())
    assert plan.for_study(None).version == "1"


def test_without_a_canary_the_active_version_answers_for_every_study() -> None:
    plan = TaskPlan(Candidate("1", SMALL))
    assert {plan.for_study(uid).version for uid in STUDIES} == {"1"}
