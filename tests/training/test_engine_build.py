"""`python -m training build`: real INT8 of a small network, the gate, the choice by speed, and clear refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from engine_sets import write_brightness_version

from models.engines.built import EngineKey, Speed, engines_of
from models.engines.onnx_runtime import OnnxRuntimeEngine
from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.store.store import ModelStore, ModelVersion, open_version
from models.tasks import Task
from training import engine_build
from training.__main__ import main
from training.engine_build import default_threads


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return write_brightness_version(tmp_path / "store", tmp_path / "staging")


def arguments(version: ModelVersion, data: Path | None, *more: str, precision: str = "int8") -> list[str]:
    where = [] if data is None else ["--data-dir", str(data)]
    return [
        *("build", "--task", "pneumonia", "--provider", "onnxruntime", "--precision", precision, "--images", "12"),
        *("--store", str(version.directory.parents[1]), "--batches", "2", "--threads", "1", *where, *more),
    ]


def inject_speed(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let what is built be so many times as fast as the reference, which answers 100 images per second."""

    def measure(engine: Any, reference: Any, images: Any, batches: Any, threads: Any) -> list[Speed]:
        return [Speed(batch=2, threads=threads, images_per_s=100 * ratio, reference_images_per_s=100)]

    monkeypatch.setattr(engine_build, "measure_speeds", measure)


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One convolution of what is built has one and a half times its weights."""
    real = engine_build.with_single_weights

    def disturb(proto: ModelProto) -> ModelProto:
        single = real(proto)
        tensor = next(tensor for tensor in single.graph.initializer if tensor.name == "weight6")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), "weight6"))
        return single

    monkeypatch.setattr(engine_build, "with_single_weights", disturb)


def test_int8_is_built_proven_timed_and_published(
    version: ModelVersion, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in version.directory.iterdir()}
    assert main(arguments(version, class_folders, "--json", str(tmp_path / "out.json"))) == 0
    assert {path: path.read_bytes() for path in before} == before  # the version is as it was published
    engines = {engine.precision: engine for engine in engines_of(open_version(version.directory))}
    assert set(engines) == {"fp32", "int8"}
    int8 = engines["int8"]
    assert (int8.provider, int8.file) == ("onnxruntime", int8.key.file_name)
    assert {check.name for check in int8.proof.checks} == {
        *("probability: largest difference", "probability: mean difference", "probability: answers that changed"),
        *("cam: least correlation", "cam: mean correlation", "accuracy: fall", "roc_auc: fall"),
    }
    assert int8.proof.measured["accuracy: before"] == 1.0
    assert [(speed.batch, speed.threads) for speed in int8.speeds] == [(2, 1)]
    assert engines["fp32"].speeds[0].images_per_s == int8.speeds[0].reference_images_per_s
    assert sum(engine.chosen for engine in engines.values()) == 1
    printed = capsys.readouterr().out
    assert "probability: largest difference" in printed
    assert printed.splitlines()[-1].endswith(f"{int8.key.digest}.json")
    assert [document["precision"] for document in json.loads((tmp_path / "out.json").read_text())] == ["fp32", "int8"]

    content = onnx.load(str(version.directory / "engines" / int8.key.file_name))
    quantised = [node for node in content.graph.node if node.op_type == "DequantizeLinear"]
    assert quantised
    image = np.random.default_rng(0).random((3, 1, 24, 24), dtype=np.float32)
    engine = load_engine(version, threads=1, precision="int8")
    assert (engine.info.precision, engine.info.file_sha256) == ("int8", int8.file_sha256)
    reference = OnnxRuntimeEngine(version, threads=1).run(image)
    apart = np.abs(engine.run(image)["probability"] - reference["probability"]).max()
    assert 0 < apart < 0.05


@pytest.mark.usefixtures("disturbed")
def test_disturbed_weights_are_refused_and_nothing_is_published(
    version: ModelVersion,
    class_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inject_speed(monkeypatch, 2.0)
    assert main(arguments(version, class_folders)) == 1
    assert not (version.directory / "engines").exists()
    printed = capsys.readouterr()
    assert "nothing is published: probability: largest difference is" in printed.err
    assert "must be at most 0.2" in printed.err
    assert "FAILS" in printed.out


def test_the_faster_engine_is_chosen_and_taken_and_building_again_replaces_the_choice(
    version: ModelVersion, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_engine(version, threads=1).info.precision == "fp32"  # nothing was built
    for ratio, chosen in ((1.5, "int8"), (0.8, "fp32")):
        inject_speed(monkeypatch, ratio)
        assert main(arguments(version, class_folders)) == 0
        assert [engine.precision for engine in engines_of(version) if engine.chosen] == [chosen]
        assert load_engine(version, threads=1).info.precision == chosen
    assert load_engine(version, threads=1, precision="int8").info.precision == "int8"
    assert len(engines_of(version)) == 2


def test_fp32_of_onnxruntime_is_the_network_itself(
    version: ModelVersion, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject_speed(monkeypatch, 1.0)
    assert main(arguments(version, class_folders, precision="fp32")) == 0
    (engine,) = engines_of(version)
    assert (engine.precision, engine.file, engine.chosen) == ("fp32", None, True)
    assert {check.value for check in engine.proof.checks if check.name.startswith("probability")} == {0.0}


def test_a_plan_that_cannot_run_here_is_written_apart_and_never_to_the_store(
    version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[bytes] = []

    def build_plan(content: bytes, **options: Any) -> SimpleNamespace:
        given.append(content)
        return SimpleNamespace(content=b"a plan", provider_version="1.7", device="sm_89", batches=(1, 8, 32))

    plans = pytest.importorskip("training.tensorrt_plan")
    monkeypatch.setattr(plans, "build_plan", build_plan)
    store = version.directory.parents[1]
    asked = ["build", "--task", "pneumonia", "--provider", "tensorrt_rtx", "--precision", "fp16", "--store", str(store)]
    assert main([*asked, "--unproven", str(tmp_path / "plans")]) == 0
    path = tmp_path / "plans" / "pneumonia-1.0.0-tensorrt_rtx-fp16.plan"
    assert path.read_bytes() == b"a plan"
    printed = capsys.readouterr()
    assert "not run" in printed.err
    assert printed.out.strip() == str(path)
    assert not (version.directory / "engines").exists()
    halved = onnx.load_from_string(given[0])
    assert {node.op_type for node in halved.graph.node if "Cast" in node.op_type}


def plan_arguments(version: ModelVersion, data: Path, *more: str) -> list[str]:
    where = ["--store", str(version.directory.parents[1]), "--data-dir", str(data), "--images", "4", *more]
    return ["build", "--task", "pneumonia", "--provider", "tensorrt", "--precision", "fp32", *where]


def test_a_plan_that_was_proven_on_its_gpu_is_published_with_its_profile(
    version: ModelVersion, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control flow only: ONNX Runtime stands in for the GPU."""
    plans = pytest.importorskip("training.tensorrt_plan")
    built = SimpleNamespace(content=b"a plan", provider_version="11.0", device="sm_90", batches=(1, 4, 16))
    monkeypatch.setattr(plans, "build_plan", lambda content, **options: built)
    monkeypatch.setattr(engine_build, "_check_runs_here", lambda provider: None)
    opened = lambda version, candidate, threads: OnnxRuntimeEngine(version, threads=1)  # noqa: E731
    monkeypatch.setattr(engine_build, "open_candidate", opened)
    inject_speed(monkeypatch, 3.0)
    assert main(plan_arguments(version, class_folders, "--batches", "16,1,4")) == 0
    (engine,) = engines_of(version)
    assert engine.key == EngineKey(version.manifest.files["network.onnx"], "tensorrt", "11.0", "fp32", "sm_90")
    assert (engine.profile_batches, engine.chosen) == ((1, 4, 16), True)
    assert (version.directory / "engines" / engine.key.file_name).read_bytes() == b"a plan"
    assert load_engine(version, threads=1).info.precision == "fp32"  # of onnxruntime, whose engine this is not


def test_without_a_gpu_a_plan_is_not_even_begun(
    version: ModelVersion, class_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda = pytest.importorskip("models.engines.tensorrt_cuda")

    def none(provider: str, index: int) -> None:
        raise ConfigurationError("no GPU")

    monkeypatch.setattr(cuda, "CudaBinding", none)
    assert main(plan_arguments(version, class_folders)) == 2
    assert "no GPU; a plan that is to run elsewhere is built with --unproven DIR" in capsys.readouterr().err
    assert engines_of(version) == ()


@pytest.mark.parametrize("unproven", [True, False])
def test_a_plan_that_could_not_take_a_single_image_is_refused_before_anything_is_built(
    version: ModelVersion,
    class_folders: Path,
    unproven: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("looked for a GPU or read the graph")

    monkeypatch.setattr(engine_build, "_check_runs_here", never)
    monkeypatch.setattr(engine_build, "with_single_weights", never)
    more = ["--unproven", str(tmp_path / "plans")] if unproven else []
    assert main(plan_arguments(version, class_folders, "--batches", "8,32", *more)) == 2
    told = capsys.readouterr().err
    assert "--batches: the least is 8; a plan of tensorrt must take a single image" in told
    assert "--batches 1,8" in told
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--precision", "int8"], "--data-dir: int8 is calibrated on labelled training images"),
        (["--precision", "fp32"], "--data-dir: an engine is proven on labelled training images"),
        (["--precision", "int8", "--unproven", "plans"], "--data-dir: int8 is calibrated"),
        (["--precision", "fp16", "--data-dir", "DATA"], "build int8"),
        (["--precision", "int8", "--data-dir", "nowhere"], "nowhere: no such directory"),
        (["--precision", "int8", "--data-dir", "DATA", "--version", "9.9"], "no version 9.9"),
        (["--precision", "fp32", "--unproven", "plans"], "nothing to build"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    version: ModelVersion,
    class_folders: Path,
    more: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [str(class_folders) if word == "DATA" else word for word in more]
    store = str(version.directory.parents[1])
    asked = ["build", "--task", "pneumonia", "--provider", "onnxruntime", "--images", "2", "--store", store, *filled]
    assert main(asked) == 2
    assert message in capsys.readouterr().err
    assert not (version.directory / "engines").exists()


@pytest.mark.parametrize("batches", ["0", "1,x", ""])
def test_batches_that_are_no_numbers_are_refused(batches: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["build", "--task", "csi", "--provider", "onnxruntime", "--precision", "int8", "--batches", batches]
    with pytest.raises(SystemExit, match="2"):
        main(asked)
    assert "--batches" in capsys.readouterr().err


def test_threads_are_timed_from_one_to_every_core() -> None:
    assert default_threads(1) == (1,)
    assert default_threads(2) == (1, 2)
    assert default_threads(12) == (1, 2, 4, 8, 12)


def test_a_store_without_the_task_says_so(tmp_path: Path, class_folders: Path) -> None:
    assert ModelStore(tmp_path).versions(Task.CSI) == ()
    asked = ["build", "--task", "csi", "--provider", "onnxruntime", "--precision", "int8", "--store", str(tmp_path)]
    assert main([*asked, "--data-dir", str(class_folders)]) == 2


def test_the_key_of_int8_names_this_release_and_cpu(version: ModelVersion) -> None:
    import onnxruntime

    from models.engines.cpu import cpu_device
    from models.engines.onnx_runtime import engine_key

    sha256 = version.manifest.files["network.onnx"]
    expected = EngineKey(sha256, "onnxruntime", onnxruntime.__version__, "int8", cpu_device())
    assert engine_key(version, "int8") == expected
