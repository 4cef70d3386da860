"""The TensorRT engine above its narrow binding, whose GPU is a stand-in: control flow only, nothing about CUDA.

Plans themselves are built in tests/training/test_tensorrt_plan.py.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

import stand_in_gpu
from stand_in_gpu import CAM, IMAGE, LOADED, PLAN, PROBABILITY, RELEASE, StandInGpu
from stand_in_version import write_version

from models.engines.built import Check, EngineKey, EngineManifest, Proof, Speed, network_sha256, publish_engine
from models.engines.tensorrt import TensorRTEngine
from models.engines.tensorrt_binding import LoadedPlan, TensorInfo, device_of, is_for
from models.engines.tensorrt_plans import load_tensorrt
from models.errors import Reason, Transient
from models.store.store import ModelVersion, StoreError

BUCKETS = (1, 2, 4, 6)  # of a profile up to 6 images


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return write_version(tmp_path, b"a network that these tests never run")


def key_of(version: ModelVersion, **changes: str) -> EngineKey:
    key = EngineKey(network_sha256(version), "tensorrt", RELEASE, "fp16", stand_in_gpu.CAPABILITY)
    return replace(key, **changes)


def engine_on(gpu: StandInGpu, version: ModelVersion) -> TensorRTEngine:
    return TensorRTEngine(version, key_of(version), PLAN, gpu)


def publish(version: ModelVersion, key: EngineKey, *, images_per_s: float = 1.0, chosen: bool = False) -> None:
    proof = Proof(images=1, golden_sha256="0" * 64, checks=(Check(name="difference", value=0, bound=1),))
    manifest = EngineManifest(
        network_sha256=key.network_sha256,
        provider=key.provider,
        provider_version=key.provider_version,
        precision=key.precision,
        device=key.device,
        file=key.file_name,
        file_sha256=hashlib.sha256(PLAN).hexdigest(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        build_s=1.0,
        proof=proof,
        speeds=(Speed(batch=1, images_per_s=images_per_s),),
        chosen=chosen,
    )
    publish_engine(version, manifest, PLAN)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


def assert_answers(outputs: dict[str, np.ndarray], image: np.ndarray) -> None:
    mean = image.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(outputs["probability"], np.stack([1 - mean, mean], axis=1), atol=1e-6)
    quarter = image[:, 0, 4:, :4].mean(axis=(1, 2))
    np.testing.assert_allclose(outputs["cam"][:, 1, 0], quarter, atol=1e-6)
    assert {name: array.shape for name, array in outputs.items()} == {
        "probability": (len(image), 2),
        "cam": (len(image), 2, 2),
    }


# Batches


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_a_batch_is_padded_to_its_bucket_and_the_padding_is_cut_off(version: ModelVersion, count: int) -> None:
    engine = engine_on(StandInGpu(), version)
    engine.run(np.ones((6, 1, 8, 8), np.float32))  # what lies in the memory before
    assert_answers(engine.run(images(count)), images(count))


def test_every_bucket_is_used_when_an_engine_is_loaded(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    assert [shape[0] for shape in gpu.shapes] == list(BUCKETS)
    assert engine.recorded == BUCKETS


def test_a_bucket_is_recorded_once_and_launched_from_then_on(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    first_use = ["activate", "bind", "copy_in", "enqueue", "copy_out", "synchronize"]
    record = ["begin_capture", "copy_in", "enqueue", "copy_out", "end_capture"]
    assert gpu.calls == ["activate", "load", "use_workspace", *(first_use + record) * len(BUCKETS)]
    gpu.calls.clear()
    for count in (3, 4, 3):  # other buckets' shapes were bound since this one was recorded
        assert_answers(engine.run(images(count, seed=count)), images(count, seed=count))
    assert gpu.calls == ["activate", "launch", "synchronize"] * 3


def test_a_batch_beyond_the_profile_is_run_in_parts(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    gpu.calls.clear()
    assert_answers(engine.run(images(14)), images(14))  # 6, 6 and 2
    assert gpu.calls.count("launch") == 3


def test_answers_stay_when_the_next_batch_comes(version: ModelVersion) -> None:
    engine = engine_on(StandInGpu(), version)
    outputs = engine.run(images(2))
    engine.run(images(2, seed=1))
    assert_answers(outputs, images(2))


def test_a_batch_that_is_no_contiguous_array_is_answered_alike(version: ModelVersion) -> None:
    engine = engine_on(StandInGpu(), version)
    assert_answers(engine.run(images(6)[::2]), images(6)[::2])


@pytest.mark.parametrize("failing", ["begin_capture", "end_capture"])
def test_a_plan_that_cannot_be_recorded_runs_without_graphs(version: ModelVersion, failing: str) -> None:
    gpu = StandInGpu()
    gpu.failing.add(failing)
    engine = engine_on(gpu, version)
    assert engine.recorded == ()
    gpu.calls.clear()
    assert_answers(engine.run(images(3)), images(3))
    assert gpu.calls == ["activate", "bind", "copy_in", "enqueue", "copy_out", "synchronize"], "it is not tried again"


def test_a_plan_that_says_so_is_not_recorded(version: ModelVersion) -> None:
    gpu = StandInGpu()
    gpu.capturable = False
    assert engine_on(gpu, version).recorded == ()
    assert "begin_capture" not in gpu.calls


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1, 8, 9), np.float32), np.zeros((0, 1, 8, 8), np.float32), np.zeros((1, 1, 8, 8), np.float64)],
    ids=["width", "empty", "float64"],
)
def test_a_wrong_batch_is_a_fault_of_the_caller(version: ModelVersion, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(N, 1, 8, 8\) float32"):
        engine_on(StandInGpu(), version).run(image)


def test_info_names_provider_gpu_and_plan(version: ModelVersion) -> None:
    info = engine_on(StandInGpu(), version).info
    assert (info.provider, info.provider_version, info.precision) == ("tensorrt", RELEASE, "fp16")
    assert info.device == "cuda:0 sm_86"
    assert info.file_sha256 == hashlib.sha256(PLAN).hexdigest()


# Failures and the end


@pytest.mark.parametrize("failing", ["activate", "launch", "synchronize"])
def test_a_failure_of_the_gpu_is_transient_and_the_engine_still_closes(version: ModelVersion, failing: str) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    gpu.failing.add(failing)
    with pytest.raises(Transient) as caught:
        engine.run(images(2))
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
    assert caught.value.detail == f"TensorRT failed on 2 images: {failing}: cudaErrorOfStandIn"
    engine.close()
    assert not gpu.live
    assert gpu.closed == 1


def test_an_engine_runs_on_after_a_failure_that_passed(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    gpu.failing.add("launch")
    with pytest.raises(Transient):
        engine.run(images(2))
    gpu.failing.clear()
    assert_answers(engine.run(images(2)), images(2))


def test_closing_frees_everything_once(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    assert len(gpu.live) == 5 + len(BUCKETS), "two pinned, three on the GPU, a graph each bucket"
    engine.close()
    engine.close()
    assert not gpu.live, "and the stand-in refuses to free twice"
    assert gpu.closed == 1
    with pytest.raises(Transient, match="the engine is closed"):
        engine.run(images(1))


def test_what_cannot_be_freed_does_not_keep_the_rest(version: ModelVersion) -> None:
    gpu = StandInGpu()
    engine = engine_on(gpu, version)
    gpu.failing |= {"free_device", "synchronize"}
    engine.close()
    assert not gpu.live
    assert gpu.closed == 1


@pytest.mark.parametrize("failing", ["load", "malloc_device", "use_workspace", "bind", "enqueue", "synchronize"])
def test_an_engine_that_cannot_be_loaded_leaves_nothing_behind(version: ModelVersion, failing: str) -> None:
    gpu = StandInGpu()
    gpu.failing.add(failing)
    with pytest.raises(StoreError, match=f"{failing}: cudaErrorOfStandIn"):
        engine_on(gpu, version)
    assert not gpu.live
    assert gpu.closed == 1


# What is refused


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (replace(LOADED, tensors=(replace(IMAGE, name="x"), PROBABILITY, CAM)), r"must be image \(N, 1, 8, 8\)"),
        (replace(LOADED, tensors=(replace(IMAGE, shape=(-1, 1, 8, 9)), PROBABILITY, CAM)), "must be image"),
        (replace(LOADED, tensors=(replace(IMAGE, shape=(2, 1, 8, 8)), PROBABILITY, CAM)), "must be image"),
        (replace(LOADED, tensors=(replace(IMAGE, dtype="float16"), PROBABILITY, CAM)), "float32"),
        (replace(LOADED, tensors=(IMAGE, replace(IMAGE, name="fields"), PROBABILITY, CAM)), "its one input"),
        (replace(LOADED, tensors=(IMAGE, PROBABILITY)), "no float32 output cam"),
        (replace(LOADED, tensors=(IMAGE, PROBABILITY, replace(CAM, dtype="float16"))), "no float32 output cam"),
        (replace(LOADED, tensors=(IMAGE, PROBABILITY, replace(CAM, shape=(-1, -1, 2)))), "known axes: output cam"),
        (replace(LOADED, tensors=(IMAGE, replace(PROBABILITY, shape=(-1, 3)), CAM)), r"probability must be \(N, 2\)"),
        (replace(LOADED, batches=((1, 2, 6), (1, 8, 32))), "one profile"),
        (replace(LOADED, batches=((2, 4, 6),)), "from a batch of one image"),
    ],
)
def test_a_plan_unlike_its_manifest_is_refused(version: ModelVersion, loaded: LoadedPlan, message: str) -> None:
    gpu = StandInGpu(loaded)
    with pytest.raises(StoreError, match=message):
        engine_on(gpu, version)
    assert not gpu.live
    assert gpu.closed == 1


def test_an_output_that_the_manifest_does_not_name_is_left_out(version: ModelVersion) -> None:
    gpu = StandInGpu(replace(LOADED, tensors=(IMAGE, TensorInfo("more", False, "float32", (-1, 5)), PROBABILITY, CAM)))
    assert_answers(engine_on(gpu, version).run(images(3)), images(3))


@pytest.mark.parametrize("changes", [{"provider_version": "11.3.0"}, {"device": "sm_90"}], ids=["release", "GPU"])
def test_a_foreign_plan_is_not_even_deserialised(version: ModelVersion, changes: dict[str, str]) -> None:
    gpu = StandInGpu()
    with pytest.raises(StoreError, match=r"built by tensorrt .* for .*; here are 11\.4\.0 and sm_86"):
        TensorRTEngine(version, key_of(version, **changes), PLAN, gpu)
    assert "load" not in gpu.calls
    assert gpu.closed == 1


# Finding the plan


def test_the_plan_of_this_gpu_and_release_is_taken(version: ModelVersion) -> None:
    publish(version, key_of(version, device="sm_90"), images_per_s=9)
    publish(version, key_of(version, provider_version="11.3.0"), images_per_s=9)
    publish(version, key_of(version, provider="tensorrt_rtx"), images_per_s=9)
    publish(version, key_of(version))
    engine = load_tensorrt(version, "tensorrt", binding=StandInGpu())
    assert_answers(engine.run(images(2)), images(2))


def test_a_plan_for_several_gpus_is_taken_by_each(version: ModelVersion) -> None:
    publish(version, key_of(version, provider="tensorrt_rtx", device="sm_80+sm_86+sm_120"))
    assert load_tensorrt(version, "tensorrt_rtx", binding=StandInGpu()).info.provider == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("precision", "chosen", "taken"),
    [("auto", "fp16", "fp16"), ("auto", None, "int8"), ("fp32", "fp16", "fp32")],
    ids=["the chosen one", "the fastest where none is chosen", "the one that is asked for"],
)
def test_auto_takes_what_was_chosen_by_measurement(
    version: ModelVersion, precision: str, chosen: str | None, taken: str
) -> None:
    for name, speed in (("fp32", 1.0), ("fp16", 2.0), ("int8", 3.0)):
        publish(version, key_of(version, precision=name), images_per_s=speed, chosen=name == chosen)
    engine = load_tensorrt(version, "tensorrt", precision=precision, binding=StandInGpu())
    assert engine.info.precision == taken


def test_without_a_plan_is_said_what_there_is_and_how_to_build_one(version: ModelVersion) -> None:
    publish(version, key_of(version, device="sm_90"))
    publish(version, key_of(version, provider_version="11.3.0"))
    gpu = StandInGpu()
    with pytest.raises(StoreError) as caught:
        load_tensorrt(version, "tensorrt", precision="int8", binding=gpu)
    message = str(caught.value)
    assert "no int8 plan by tensorrt 11.4.0 for sm_86" in message
    assert "fp16 by 11.4.0 for sm_90" in message
    assert "fp16 by 11.3.0 for sm_86" in message
    assert "training build --task pneumonia --version 1.0.0 --provider tensorrt --precision int8" in message
    assert gpu.closed == 1


def test_a_changed_plan_is_refused(version: ModelVersion) -> None:
    publish(version, key_of(version))
    (version.directory / "engines" / key_of(version).file_name).write_bytes(b"another")
    gpu = StandInGpu()
    with pytest.raises(StoreError, match="SHA-256"):
        load_tensorrt(version, "tensorrt", binding=gpu)
    assert "load" not in gpu.calls
    assert gpu.closed == 1


def test_a_plan_is_for_the_gpus_that_its_key_names_whole() -> None:
    assert device_of(["sm_120", "sm_86", "sm_80"]) == "sm_80+sm_86+sm_120"
    assert is_for("sm_80+sm_120", "sm_120")
    assert not is_for("sm_80+sm_120", "sm_12")
    assert not is_for("sm_80+sm_120", "sm_86")


def test_the_engine_needs_neither_torch_nor_tensorrt_nor_cuda_to_be_imported() -> None:
    code = "import sys, models.engines.tensorrt_plans, models.engines.tensorrt_cuda; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda.bindings"} & set(loaded)
