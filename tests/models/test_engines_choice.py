"""Which of several built engines ONNX Runtime runs: never a foreign one, never a broken one, else the chosen one."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_version import write_version

from models.engines.built import Check, EngineKey, EngineManifest, Proof, publish_engine
from models.engines.cpu import CPU, CPU_WITH_BYTE_PRODUCTS, cpu_device
from models.engines.onnx_runtime import engine_key
from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.store.store import ModelVersion, StoreError

# The second class has the probability FACTOR times the mean of the image.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
small (float[N, 1, 8, 8] image) => (float[N, 2] probability)
<int64[3] axes = {1, 2, 3}, int64[1] one = {1}, float unit = {1.0}, float factor = {FACTOR}>
{
    mean = ReduceMean <keepdims = 0> (image, axes)
    scaled = Mul (mean, factor)
    positive = Unsqueeze (scaled, one)
    negative = Sub (unit, positive)
    probability = Concat <axis = 1> (negative, positive)
}
"""
WHITE = np.ones((1, 1, 8, 8), np.float32)


def graph(factor: float) -> bytes:
    content: bytes = onnx.parser.parse_model(GRAPH.replace("FACTOR", str(factor))).SerializeToString()
    return content


FP32, INT8 = graph(1.0), graph(0.5)


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return write_version(tmp_path, FP32, output_names=("probability",))


def publish(version: ModelVersion, key: EngineKey, content: bytes = INT8, *, chosen: bool = True) -> Path:
    manifest = EngineManifest(
        network_sha256=key.network_sha256,
        provider=key.provider,
        provider_version=key.provider_version,
        precision=key.precision,  # type: ignore[arg-type]
        device=key.device,
        file=key.file_name,
        file_sha256=hashlib.sha256(content).hexdigest(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        build_s=1,
        proof=Proof(images=1, golden_sha256="0" * 64, checks=(Check(name="none", value=0, bound=0),)),
        chosen=chosen,
    )
    return publish_engine(version, manifest, content).with_name(key.file_name)


def test_the_chosen_engine_runs_and_says_what_it_is(version: ModelVersion) -> None:
    publish(version, engine_key(version, "int8"))
    engine = load_engine(version, threads=1)
    assert engine.run(WHITE)["probability"].tolist() == [[0.5, 0.5]]
    assert (engine.info.precision, engine.info.device) == ("int8", "cpu")
    assert engine.info.file_sha256 == hashlib.sha256(INT8).hexdigest()
    assert load_engine(version, threads=1, precision="fp32").run(WHITE)["probability"].tolist() == [[0, 1]]


def test_an_engine_that_was_not_chosen_runs_only_when_asked_for(version: ModelVersion) -> None:
    publish(version, engine_key(version, "int8"), chosen=False)
    assert load_engine(version, threads=1).info.precision == "fp32"
    assert load_engine(version, threads=1, precision="int8").info.precision == "int8"


@pytest.mark.parametrize("part", ["provider_version", "device"])
def test_a_foreign_engine_is_never_loaded(version: ModelVersion, part: str) -> None:
    publish(version, replace(engine_key(version, "int8"), **{part: "other"}))  # type: ignore[arg-type]
    assert load_engine(version, threads=1).info.precision == "fp32"
    with pytest.raises(StoreError, match=r"no int8 engine .* python -m training build --task pneumonia --version 1\.0"):
        load_engine(version, threads=1, precision="int8")


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_changed_engine_is_refused_with_its_path(version: ModelVersion, precision: str) -> None:
    path = publish(version, engine_key(version, "int8"))
    path.write_bytes(FP32)
    with pytest.raises(StoreError, match=f"{path}: its SHA-256"):
        load_engine(version, threads=1, precision=precision)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no graph", "cannot load it"),
        (graph(1.0).replace(b"image", b"other"), "its one input must be image"),
        (graph(float("inf")), "one finite answer"),
    ],
)
def test_an_engine_that_does_not_run_as_the_version_says_is_refused_with_its_path(
    version: ModelVersion, content: bytes, told: str
) -> None:
    path = publish(version, engine_key(version, "int8"), content)
    with pytest.raises(StoreError, match=rf"{path}: .*{told}"):
        load_engine(version, threads=1)


def test_jsons_that_cannot_be_read_do_not_keep_a_version_from_running(version: ModelVersion) -> None:
    publish(version, engine_key(version, "int8")).with_suffix(".json").write_text("{")
    assert load_engine(version, threads=1).info.precision == "fp32"
    with pytest.raises(StoreError, match="not the manifest of an engine"):
        load_engine(version, threads=1, precision="int8")


def test_an_unknown_precision_is_refused(version: ModelVersion) -> None:
    with pytest.raises(ConfigurationError, match="precision int4: unknown; known are auto, fp32, fp16, int8"):
        load_engine(version, precision="int4")


@pytest.mark.parametrize(
    ("cpuinfo", "device"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", CPU_WITH_BYTE_PRODUCTS),
        ("flags\t\t: fpu avx2 avx_vnni\n", CPU_WITH_BYTE_PRODUCTS),
        ("Features\t: fp asimd asimddp\n", CPU_WITH_BYTE_PRODUCTS),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx_vnni\n", CPU),
        ("", CPU),
    ],
)
def test_cpus_that_multiply_bytes_are_told_apart(tmp_path: Path, cpuinfo: str, device: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_device(tmp_path / "cpuinfo") == device


def test_a_host_that_does_not_tell_has_no_byte_products(tmp_path: Path) -> None:
    assert cpu_device(tmp_path / "nothing") == CPU
