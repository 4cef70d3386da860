"""Built engines beside a version: keys, what is never loaded, and that one appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_version import write_version

from models.engines.built import (
    Check,
    EngineKey,
    EngineManifest,
    Proof,
    Speed,
    choose,
    chosen_engine,
    engines_of,
    find_engine,
    publish_engine,
    rivals_of,
    unreadable_engines,
)
from models.store.store import ModelVersion, StoreError, open_version

NETWORK = b"not really a graph"
NETWORK_SHA256 = hashlib.sha256(NETWORK).hexdigest()
KEY = EngineKey(NETWORK_SHA256, "tensorrt", "11.0.0", "fp16", "sm_90")
PLAN = b"not really a plan"


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return write_version(tmp_path, NETWORK)


def proof(value: float = 0.001) -> Proof:
    check = Check(name="probability: largest difference", value=value, bound=0.01)
    return Proof(images=64, golden_sha256="0" * 64, checks=(check,))


def described(key: EngineKey = KEY, content: bytes | None = PLAN, **changes: Any) -> EngineManifest:
    fields: dict[str, Any] = {
        "network_sha256": key.network_sha256,
        "provider": key.provider,
        "provider_version": key.provider_version,
        "precision": key.precision,
        "device": key.device,
        "file": None if content is None else key.file_name,
        "file_sha256": None if content is None else hashlib.sha256(content).hexdigest(),
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "build_s": 1.5,
        "proof": proof(),
    }
    return EngineManifest(**(fields | changes))


def test_the_digest_is_the_hash_of_the_parts_as_canonical_json() -> None:
    key = EngineKey("a" * 64, "onnxruntime", "1.32.0", "int8", "cpu")
    canonical = (
        '{"device":"cpu","network_sha256":"' + "a" * 64 + '","precision":"int8",'
        '"provider":"onnxruntime","provider_version":"1.32.0"}'
    )
    assert key.digest == hashlib.sha256(canonical.encode()).hexdigest()[:32]
    assert key.file_name == f"{key.digest}.onnx"
    assert KEY.file_name == f"{KEY.digest}.plan"


@pytest.mark.parametrize("part", ["network_sha256", "provider", "provider_version", "precision", "device"])
def test_every_part_changes_the_digest(part: str) -> None:
    changes: dict[str, Any] = {part: "other"}
    assert replace(KEY, **changes).digest != KEY.digest


def test_a_published_engine_is_found_with_its_content(version: ModelVersion) -> None:
    path = publish_engine(version, described(), PLAN)
    assert path == version.directory / "engines" / f"{KEY.digest}.json"
    found = find_engine(version, KEY)
    assert found is not None
    assert found.content == PLAN
    assert found.path == version.directory / "engines" / f"{KEY.digest}.plan"
    assert found.manifest == described()
    assert engines_of(version) == (described(),)


def test_engines_are_no_part_of_the_version(version: ModelVersion) -> None:
    publish_engine(version, described(), PLAN)
    assert open_version(version.directory).manifest == version.manifest


@pytest.mark.parametrize(
    "foreign",
    [{"device": "sm_89"}, {"provider_version": "11.1.0"}, {"provider": "tensorrt_rtx"}, {"precision": "int8"}],
)
def test_an_engine_of_another_key_is_never_found(version: ModelVersion, foreign: dict[str, Any]) -> None:
    publish_engine(version, described(), PLAN)
    assert find_engine(version, replace(KEY, **foreign)) is None


def test_an_engine_under_the_name_of_another_key_is_refused(version: ModelVersion) -> None:
    path = publish_engine(version, described(), PLAN)
    wanted = replace(KEY, device="sm_89")
    path.rename(path.with_name(f"{wanted.digest}.json"))
    with pytest.raises(StoreError, match=f"has the key {KEY.digest}"):
        find_engine(version, wanted)
    assert engines_of(version) == ()


def test_an_engine_of_another_network_is_neither_published_nor_found(version: ModelVersion) -> None:
    other = replace(KEY, network_sha256="b" * 64)
    with pytest.raises(StoreError, match="another network"):
        publish_engine(version, described(other), PLAN)
    folder = version.directory / "engines"
    folder.mkdir()
    (folder / f"{other.digest}.json").write_text(described(other).model_dump_json())
    assert find_engine(version, other) is None
    assert engines_of(version) == ()
    assert "another network" in unreadable_engines(version)[0]


def test_a_changed_engine_file_is_refused(version: ModelVersion) -> None:
    path = publish_engine(version, described(), PLAN).with_suffix(".plan")
    path.write_bytes(PLAN + b" ")
    with pytest.raises(StoreError, match=f"{path.name}: its SHA-256 is not"):
        find_engine(version, KEY)


def test_a_missing_engine_file_is_refused(version: ModelVersion) -> None:
    publish_engine(version, described(), PLAN).with_suffix(".plan").unlink()
    with pytest.raises(StoreError, match=r"\.plan: cannot be read"):
        find_engine(version, KEY)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"file": "../../secret"}', "\udcff"])
def test_a_json_that_cannot_be_read_is_passed_over_with_a_reason(version: ModelVersion, content: str) -> None:
    publish_engine(version, described(), PLAN)
    wrong = version.directory / "engines" / f"{'0' * 32}.json"
    wrong.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert engines_of(version) == (described(),)
    (reason,) = unreadable_engines(version)
    assert reason.startswith(f"{wrong}: not the manifest of an engine")


def test_a_version_without_engines_has_none(version: ModelVersion) -> None:
    assert engines_of(version) == ()
    assert unreadable_engines(version) == ()
    assert find_engine(version, KEY) is None


def test_an_engines_folder_that_is_a_file_is_no_crash(version: ModelVersion) -> None:
    (version.directory / "engines").write_text("")
    assert engines_of(version) == ()
    with pytest.raises(StoreError, match="cannot be written"):
        publish_engine(version, described(), PLAN)


@pytest.mark.parametrize("value", [0.02, float("nan"), float("inf")])
def test_what_is_not_proven_is_no_manifest(value: float) -> None:
    with pytest.raises(ValidationError, match=r"not proven: probability: largest difference is .* at most 0\.01"):
        described(proof=proof(value))


def test_a_file_of_another_name_is_no_manifest() -> None:
    with pytest.raises(ValidationError, match="not named after the key"):
        described(file="../network.onnx")


def test_content_other_than_described_is_not_published(version: ModelVersion) -> None:
    with pytest.raises(StoreError, match="file_sha256"):
        publish_engine(version, described(), PLAN + b" ")
    assert engines_of(version) == ()


def test_no_json_stands_when_the_engine_file_cannot_be_written(
    version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_engine(version, described(), PLAN)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StoreError, match="No space left"):
            publish_engine(version, described(content=b"newer"), b"newer")
    assert engines_of(version) == ()
    assert sorted(path.suffix for path in (version.directory / "engines").iterdir()) == [".plan"]


def test_fp32_of_onnxruntime_has_no_file(version: ModelVersion) -> None:
    key = EngineKey(NETWORK_SHA256, "onnxruntime", "1.32.0", "fp32", "cpu")
    publish_engine(version, described(key, None), None)
    found = find_engine(version, key)
    assert found is not None
    assert (found.path, found.content) == (None, None)


def test_choosing_marks_one_engine_of_its_provider_release_and_device(version: ModelVersion) -> None:
    faster, slower = replace(KEY, precision="int8"), KEY
    other = replace(KEY, device="sm_89")
    for key, marked in ((faster, False), (slower, True), (other, True)):
        publish_engine(version, described(key, chosen=marked), PLAN)
    choose(version, faster)
    assert {engine.key: engine.chosen for engine in engines_of(version)} == {faster: True, slower: False, other: True}
    chosen = chosen_engine(rivals_of(version, KEY))
    assert chosen is not None
    assert chosen.key == faster


def test_of_two_marked_engines_the_faster_is_taken() -> None:
    engines = [
        described(replace(KEY, precision=precision), chosen=True, speeds=(Speed(batch=8, images_per_s=speed),))
        for precision, speed in (("fp32", 20.0), ("int8", 30.0), ("fp16", 10.0))
    ]
    chosen = chosen_engine(engines)
    assert chosen is not None
    assert chosen.precision == "int8"
    assert chosen_engine([engine.model_copy(update={"chosen": False}) for engine in engines]) is None


def test_an_engine_that_is_not_there_cannot_be_chosen(version: ModelVersion) -> None:
    with pytest.raises(StoreError, match="no such engine"):
        choose(version, KEY)


def test_the_json_can_be_read_by_a_person(version: ModelVersion) -> None:
    document = json.loads(publish_engine(version, described(), PLAN).read_text())
    assert document["proof"]["checks"][0]["name"] == "probability: largest difference"
    assert document["precision"] == "fp16"
