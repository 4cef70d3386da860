"""`python -m training` promote, rollback, shadow and gc: what they print, change, remove and refuse."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_version import TASK, publish_version

from models.engines.built import Check, EngineManifest, Proof, publish_engine
from models.store.activation import Activation
from models.store.store import ModelStore
from training.__main__ import main
from training.garbage import unused_versions

Run = Callable[..., int]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    for version in ("1", "2", "3", "4", "5", "6"):
        publish_version(store, tmp_path / version, b"network of " + version.encode(), version=version)
    return store


@pytest.fixture
def run(store: ModelStore) -> Run:
    return lambda *arguments: main([*arguments, "--store", str(store.root)])


def test_a_version_is_tried_promoted_and_rolled_back(
    store: ModelStore, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ("--task", "pneumonia")
    assert run("promote", *task, "--version", "1") == 0
    assert run("promote", *task, "--version", "2", "--canary", "12.5") == 0
    assert run("shadow", *task, "--version", "3") == 0
    assert run("promote", *task, "--version", "2") == 0
    assert run("rollback", *task) == 0
    assert run("shadow", *task, "--off") == 0
    assert capsys.readouterr().out.splitlines() == [
        "pneumonia: active 1, nothing before",
        "pneumonia: active 1, canary 2 for 12.5% of the studies, nothing before",
        "pneumonia: active 1, canary 2 for 12.5% of the studies, shadow 3, nothing before",
        "pneumonia: active 2, shadow 3, before: 1",
        "pneumonia: active 1, shadow 3, nothing before",
        "pneumonia: active 1, nothing before",
    ]
    assert store.activation(TASK) == Activation(active="1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("promote", "--version", "9"), "no version 9; there are: 1, 2, 3"),
        (("promote", "--version", "2", "--canary", "5"), "promote one first"),
        (("rollback",), "no version served before now; promote one"),
        (("shadow", "--version", "2"), "promote one first"),
        (("gc", "--keep", "-1"), "--keep: must be 0 or more"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    store: ModelStore, run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    assert run(*arguments, "--task", "pneumonia") == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert len(captured.err.splitlines()) == 1
    assert store.activation(TASK) == Activation()
    assert len(store.versions(TASK)) == 6


def test_list_shows_every_role(store: ModelStore, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("promote", "--version", "2"), ("promote", "--version", "4", "--canary", "25")):
        run(*command, "--task", "pneumonia")
    run("shadow", "--task", "pneumonia", "--version", "6")
    capsys.readouterr()
    assert run("list", "--json") == 0
    rows = {row["version"]: row["serves"] for row in json.loads(capsys.readouterr().out)["versions"]}
    assert rows == {"1": "", "2": "active", "3": "", "4": "canary 25%", "5": "", "6": "shadow"}


# gc


def test_versions_with_a_role_served_lately_or_new_stay_and_the_others_go(
    store: ModelStore, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("3", "2", "1"):
        run("promote", "--task", "pneumonia", "--version", version)
    capsys.readouterr()
    # 1 serves, 2 served before it, 6 is the newest.
    assert run("gc", "--keep", "1", "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[:-1]] == [f"would remove pneumonia version {n}" for n in (3, 4, 5)]
    assert len(store.versions(TASK)) == 6
    run("shadow", "--task", "pneumonia", "--version", "4")
    capsys.readouterr()
    assert run("gc", "--task", "pneumonia", "--keep", "1") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told[:-1]] == [f"removed pneumonia version {n}" for n in (3, 5)]
    assert told[-1] == "removed 0.0 MB"
    assert store.versions(TASK) == ("1", "2", "4", "6")
    assert [path.name for path in (store.root / TASK).glob(".rem*")] == []
    assert store.open(TASK).manifest.version == "1"


def test_without_any_to_keep_the_one_that_serves_stays(store: ModelStore, run: Run) -> None:
    run("promote", "--task", "pneumonia", "--version", "2")
    assert run("gc", "--keep", "0") == 0
    assert store.versions(TASK) == ("2",)


def test_what_a_crash_left_half_removed_goes_with_the_next_run(store: ModelStore, run: Run) -> None:
    (store.root / TASK / "1").rename(store.root / TASK / ".removing-1")
    assert run("gc", "--keep", "9") == 0
    assert not (store.root / TASK / ".removing-1").exists()


def test_more_to_keep_than_there_are_keeps_all(store: ModelStore) -> None:
    assert unused_versions(store, TASK, 99) == ()
    assert unused_versions(store, TASK, 6) == ()
    assert unused_versions(store, TASK, 4) == ("1", "2")


def _engine(network_sha256: str, precision: str, content: bytes) -> EngineManifest:
    manifest = EngineManifest(
        network_sha256=network_sha256,
        provider="onnxruntime",
        provider_version="1",
        precision=precision,  # type: ignore[arg-type]  # a word of the closed set
        device="cpu",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        build_s=1,
        proof=Proof(images=1, golden_sha256="ab" * 32, checks=(Check(name="difference", value=0, bound=1),)),
    )
    digest = hashlib.sha256(content).hexdigest()
    return manifest.model_copy(update={"file": manifest.key.file_name, "file_sha256": digest})


def test_engine_files_of_another_network_go_and_those_of_this_one_stay(
    store: ModelStore, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("promote", "--task", "pneumonia", "--version", "6")
    version = store.open(TASK, "6")
    engine = _engine(version.manifest.files["network.onnx"], "int8", b"engine")
    json_path = publish_engine(version, engine, b"engine")
    folder = json_path.parent
    foreign = _engine("cd" * 32, "int8", b"foreign")
    (folder / f"{foreign.key.digest}.json").write_text(foreign.model_dump_json())
    (folder / f"{foreign.key.digest}.onnx").write_bytes(b"foreign")
    (folder / "orphan.plan").write_bytes(b"orphan")
    (folder / ".just-begun").write_bytes(b"being written")
    (folder / "unreadable.json").write_text("{")
    long_ago = time.time() - 7200
    os.utime(folder / "orphan.plan", (long_ago, long_ago))
    capsys.readouterr()
    assert run("list") == 0
    assert "onnxruntime int8" in capsys.readouterr().out
    assert run("gc", "--keep", "9") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    left = {".just-begun", "unreadable.json", json_path.name, engine.file}
    assert {path.name for path in folder.iterdir()} == left
