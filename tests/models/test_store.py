"""The model store: what it refuses to open, that versions are immutable, and that activation is atomic."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.pixels.spec import InputSpec
from models.store.activation import Activation
from models.store.manifest import Manifest
from models.store.store import ModelStore, StoreError, open_version
from models.tasks import Task

FILES = {"network.onnx": b"not really a graph", "report/metrics.json": b"{}"}


def stage(directory: Path, version: str = "1.0.0", task: Task = Task.PNEUMONIA) -> Path:
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    manifest = Manifest(
        task=task,
        network="none",
        version=version,
        labels=("NORMAL", "PNEUMONIA"),
        input_spec=InputSpec(height=8, width=8),
        output_names=("probability", "cam"),
        files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
        licence="test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0",
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return directory


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        store.publish(Task.PNEUMONIA, stage(tmp_path / version, version))
    return store


def test_an_empty_store_has_no_versions_and_nothing_active(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "nowhere")
    assert store.versions(Task.CSI) == ()
    assert store.activation(Task.CSI) == Activation(active=None, shadow=None)
    with pytest.raises(StoreError, match="no active version"):
        store.open(Task.CSI)


def test_versions_are_listed_in_order_of_their_numbers(store: ModelStore) -> None:
    assert store.versions(Task.PNEUMONIA) == ("1.0.0", "1.9.0", "1.10.0")


def test_published_files_are_there_byte_for_byte(store: ModelStore) -> None:
    version = store.open(Task.PNEUMONIA, "1.9.0")
    assert {name: (version.directory / name).read_bytes() for name in FILES} == FILES
    assert version.network_path.name == "network.onnx"
    assert version.manifest.version == "1.9.0"


def test_a_version_is_never_replaced(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="stands already"):
        store.publish(Task.PNEUMONIA, tmp_path / "1.0.0")


def test_publishing_leaves_nothing_behind_when_it_fails(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StoreError, match="No space left"):
        store.publish(Task.PNEUMONIA, stage(tmp_path / "new", "2.0.0"))
    assert sorted(path.name for path in (store.root / "pneumonia").iterdir()) == ["1.0.0", "1.10.0", "1.9.0"]


def test_publishing_refuses_what_the_manifest_does_not_list(store: ModelStore, tmp_path: Path) -> None:
    staging = stage(tmp_path / "new", "2.0.0")
    (staging / "extra.bin").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"extra\.bin: not listed"):
        store.publish(Task.PNEUMONIA, staging)


def test_publishing_refuses_another_task(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="task csi, not pneumonia"):
        store.publish(Task.PNEUMONIA, stage(tmp_path / "new", "2.0.0", Task.CSI))


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_noticed(store: ModelStore, name: str) -> None:
    path = store.root / "pneumonia" / "1.0.0" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{name}.*SHA-256"):
        store.open(Task.PNEUMONIA, "1.0.0")


def test_a_missing_file_is_noticed(store: ModelStore) -> None:
    (store.root / "pneumonia/1.0.0/report/metrics.json").unlink()
    with pytest.raises(StoreError, match="missing"):
        store.open(Task.PNEUMONIA, "1.0.0")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"task": "pneumonia"}', "\x00"])
def test_a_broken_manifest_is_one_clear_line(store: ModelStore, text: str) -> None:
    path = store.root / "pneumonia/1.0.0/manifest.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json: not a manifest") as caught:
        store.open(Task.PNEUMONIA, "1.0.0")
    assert "\n" not in str(caught.value)


def test_a_version_under_another_name_is_refused(store: ModelStore) -> None:
    directory = store.root / "pneumonia"
    (directory / "1.0.0").rename(directory / "3.0.0")
    with pytest.raises(StoreError, match=r"says that it is pneumonia 1\.0\.0"):
        store.open(Task.PNEUMONIA, "3.0.0")


@pytest.mark.parametrize("name", ["9.9.9", "..", "../csi/1.0.0", ".publishing-x", "/etc"])
def test_an_unknown_version_is_refused_with_the_known_ones(store: ModelStore, name: str) -> None:
    with pytest.raises(StoreError, match=r"there are: 1\.0\.0, 1\.9\.0, 1\.10\.0"):
        store.open(Task.PNEUMONIA, name)


def test_activating_names_version_and_shadow_and_rolls_back(store: ModelStore) -> None:
    store.activate(Task.PNEUMONIA, "1.9.0", shadow="1.10.0")
    assert (store.active(Task.PNEUMONIA), store.shadow(Task.PNEUMONIA)) == ("1.9.0", "1.10.0")
    assert store.open(Task.PNEUMONIA).manifest.version == "1.9.0"
    store.activate(Task.PNEUMONIA, "1.0.0")
    assert (store.active(Task.PNEUMONIA), store.shadow(Task.PNEUMONIA)) == ("1.0.0", None)
    store.activate(Task.PNEUMONIA, None)
    assert store.active(Task.PNEUMONIA) is None


def test_a_damaged_version_cannot_be_activated(store: ModelStore) -> None:
    store.activate(Task.PNEUMONIA, "1.0.0")
    (store.root / "pneumonia/1.9.0/network.onnx").write_bytes(b"other")
    with pytest.raises(StoreError):
        store.activate(Task.PNEUMONIA, "1.9.0")
    assert store.active(Task.PNEUMONIA) == "1.0.0"


def test_a_crash_before_the_rename_keeps_the_old_activation(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.activate(Task.PNEUMONIA, "1.0.0")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="Input/output"):
        store.activate(Task.PNEUMONIA, "1.9.0")
    assert store.active(Task.PNEUMONIA) == "1.0.0"
    assert [path.name for path in (store.root / "pneumonia").glob(".active*")] == []


def test_a_reader_never_sees_a_half_written_activation(store: ModelStore) -> None:
    seen: set[str | None] = set()
    failures: list[Exception] = []
    stop = threading.Event()
    store.activate(Task.PNEUMONIA, "1.0.0")

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(store.active(Task.PNEUMONIA))
            except StoreError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(100):
        store.activate(Task.PNEUMONIA, ("1.9.0", "1.10.0")[turn % 2])
    stop.set()
    reader.join()
    assert failures == []
    assert seen <= {"1.0.0", "1.9.0", "1.10.0"}


@pytest.mark.parametrize("text", ["", "null", '{"active": 3}', '{"activ": "1.0.0"}'])
def test_a_wrong_activation_file_is_not_read_as_nothing_active(store: ModelStore, text: str) -> None:
    (store.root / "pneumonia/active.json").write_text(text)
    with pytest.raises(StoreError, match=r"active\.json"):
        store.active(Task.PNEUMONIA)


def test_files_that_no_manifest_lists_do_no_harm(store: ModelStore) -> None:
    directory = store.root / "pneumonia/1.0.0"
    (directory / "engines").mkdir()
    (directory / "engines/abc.plan").write_bytes(b"built here")
    assert open_version(directory).manifest.version == "1.0.0"


def test_the_store_needs_no_heavy_library() -> None:
    code = "import json, sys, models.store.store; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "cv2", "onnxruntime", "onnx", "numpy"} & set(json.loads(output))
