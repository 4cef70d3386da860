"""Promoting, canaries, rolling back and shadows: what each leaves in ``active.json``, and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_version import TASK, publish_version

from models.store.activation import Activation, in_canary
from models.store.lifecycle import promote, roll_back, set_shadow, start_canary
from models.store.store import ModelStore, StoreError

NETWORK = b"not really a graph"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    for version in ("1", "2", "3"):
        publish_version(store, tmp_path / version, NETWORK, version=version)
    return store


def _said(store: ModelStore) -> dict[str, object]:
    told: dict[str, object] = json.loads((store.root / TASK / "active.json").read_text())
    return told


def test_the_file_names_the_roles_and_the_history(store: ModelStore) -> None:
    promote(store, TASK, "1")
    start_canary(store, TASK, "2", 12.5)
    assert _said(store) == {"active": "1", "shadow": None, "canary": "2", "canary_percent": 12.5, "previous": []}
    promote(store, TASK, "2")
    assert _said(store) == {"active": "2", "shadow": None, "canary": None, "canary_percent": 0.0, "previous": ["1"]}


def test_a_file_of_an_older_release_is_read(store: ModelStore) -> None:
    (store.root / TASK / "active.json").write_text('{"active": "1", "shadow": "2"}')
    assert store.activation(TASK) == Activation(active="1", shadow="2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"active": "1", "canary": "2"}', "canary and canary_percent go together"),
        ('{"active": "1", "canary_percent": 5}', "canary and canary_percent go together"),
        ('{"canary": "2", "canary_percent": 5}', "a canary needs an active version"),
        ('{"active": "1", "shadow": "1"}', "neither canary nor shadow"),
        ('{"active": "1", "canary": "2", "canary_percent": 101}', "canary_percent: Input should be less"),
        ('{"active": "../1"}', "active: String should match"),
        ('{"active": "1", "previous": "2"}', "previous: Input should be a valid array"),
        ('{"active": "1", "since": "today"}', "since: Extra inputs"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_with_its_place(store: ModelStore, text: str, expected: str) -> None:
    (store.root / TASK / "active.json").write_text(text)
    with pytest.raises(StoreError, match=r"active\.json") as caught:
        store.activation(TASK)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rolling_back_twice_goes_two_versions_back_and_then_there_is_none(store: ModelStore) -> None:
    for version in ("1", "2", "3"):
        promote(store, TASK, version)
    assert roll_back(store, TASK) == Activation(active="2", previous=("1",))
    assert roll_back(store, TASK) == Activation(active="1")
    with pytest.raises(StoreError, match="no version served before 1"):
        roll_back(store, TASK)
    assert store.active(TASK) == "1"


def test_rolling_back_to_a_version_of_the_history(store: ModelStore) -> None:
    for version in ("1", "2", "3"):
        promote(store, TASK, version)
    assert roll_back(store, TASK, "1") == Activation(active="1")
    with pytest.raises(StoreError, match="no version served before"):
        roll_back(store, TASK, "3")
    promote(store, TASK, "2")
    with pytest.raises(StoreError, match=r"3 did not serve before; promote it, or choose of: 1$"):
        roll_back(store, TASK, "3")


def test_a_version_that_serves_again_is_in_the_history_once(store: ModelStore) -> None:
    for version in ("1", "2", "1", "1", "3"):
        promote(store, TASK, version)
    assert store.activation(TASK).previous == ("1", "2")


def test_rolling_back_ends_a_canary_and_leaves_the_active_version(store: ModelStore) -> None:
    promote(store, TASK, "1")
    promote(store, TASK, "2")
    start_canary(store, TASK, "3", 10)
    assert roll_back(store, TASK) == Activation(active="2", previous=("1",))
    start_canary(store, TASK, "3", 10)
    assert roll_back(store, TASK, "1") == Activation(active="1")


def test_a_task_out_of_service_can_be_rolled_back_into_it(store: ModelStore) -> None:
    promote(store, TASK, "1")
    set_shadow(store, TASK, "2")
    store.activate(TASK, None)
    assert store.activation(TASK) == Activation(previous=("1",))
    assert roll_back(store, TASK).active == "1"


def test_a_version_that_cannot_be_opened_gets_no_role(store: ModelStore) -> None:
    promote(store, TASK, "1")
    (store.root / TASK / "2" / "network.onnx").write_bytes(b"other")
    for change in (
        lambda: promote(store, TASK, "2"),
        lambda: start_canary(store, TASK, "2", 5),
        lambda: set_shadow(store, TASK, "2"),
    ):
        with pytest.raises(StoreError, match="SHA-256"):
            change()
    with pytest.raises(StoreError, match="no version 9"):
        promote(store, TASK, "9")
    assert store.activation(TASK) == Activation(active="1")


def test_a_version_that_was_damaged_while_it_serves_does_not_hinder_the_others(store: ModelStore) -> None:
    promote(store, TASK, "1")
    promote(store, TASK, "2")
    set_shadow(store, TASK, "3")
    (store.root / TASK / "2" / "network.onnx").write_bytes(b"other")
    assert set_shadow(store, TASK, None).shadow is None
    assert roll_back(store, TASK).active == "1"


def test_roles_that_exclude_each_other_are_refused(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="no active version for a canary"):
        start_canary(store, TASK, "1", 5)
    with pytest.raises(StoreError, match="no active version to compare"):
        set_shadow(store, TASK, "1")
    promote(store, TASK, "1")
    with pytest.raises(StoreError, match="cannot be the canary"):
        start_canary(store, TASK, "1", 5)
    with pytest.raises(StoreError, match="its own shadow"):
        set_shadow(store, TASK, "1")
    for percent in (0, -1, 100, float("nan")):
        with pytest.raises(StoreError, match="more than 0 and less than 100"):
            start_canary(store, TASK, "2", percent)


def test_a_shadow_that_comes_to_serve_is_no_shadow_any_more_and_another_stays(store: ModelStore) -> None:
    promote(store, TASK, "1")
    set_shadow(store, TASK, "2")
    assert promote(store, TASK, "3").shadow == "2"
    assert promote(store, TASK, "2") == Activation(active="2", previous=("3", "1"))


def _promote_often(root: Path, versions: list[str]) -> None:
    for version in versions:
        promote(ModelStore(root), TASK, version)


def test_operators_at_the_same_moment_lose_nothing_of_the_history(store: ModelStore, tmp_path: Path) -> None:
    for number in range(10, 34):
        publish_version(store, tmp_path / str(number), NETWORK, version=str(number))
    context = multiprocessing.get_context("spawn")
    shares = [[str(number) for number in range(first, 34, 3)] for first in (10, 11, 12)]
    operators = [context.Process(target=_promote_often, args=(store.root, share)) for share in shares]
    for operator in operators:
        operator.start()
    for operator in operators:
        operator.join()
    activation = store.activation(TASK)
    served = [*reversed(activation.previous), activation.active]
    assert sorted(served, key=str) == [str(number) for number in range(10, 34)]
    for share in shares:
        assert [version for version in served if version in share] == share, "each operator's own order"


# Which studies a canary answers for


def test_a_larger_percentage_keeps_the_studies_and_adds_some() -> None:
    studies = [f"1.2.840.{number}" for number in range(2000)]
    shares = {percent: {uid for uid in studies if in_canary(uid, percent)} for percent in (0, 1, 10, 50, 99.5)}
    assert shares[0] == set()
    assert shares[1] < shares[10] < shares[50] < shares[99.5]
    # Of 2000 studies 10 in a hundred are 200, give or take four standard deviations of 13.4.
    assert 146 <= len(shares[10]) <= 254
    assert 910 <= len(shares[50]) <= 1090


def test_the_same_studies_are_chosen_in_every_process_and_release() -> None:
    # `printf 1.2.3 | sha256sum` begins with c47f5b18, which is 76.7568 % of 2**32.
    assert in_canary("1.2.3", 76.757)
    assert not in_canary("1.2.3", 76.756)


def test_without_a_study_there_is_no_canary() -> None:
    assert not in_canary(None, 99)
