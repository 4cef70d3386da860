"""The ONNX Runtime engine, on a graph small enough to work out by hand."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

import stand_in_spine
from stand_in_version import write_version

from models.engines.onnx_runtime import OnnxRuntimeEngine
from models.engines.providers import load_engine
from models.errors import ConfigurationError, Reason, Transient
from models.pixels.spec import Framing, InputSpec
from models.spine.schemas import landmark_schema
from models.store.store import ModelVersion, StoreError, open_version

# probability is (1 - mean, mean) of the image, cam its 4 x 4 means; `limit` has an entry for images up to 1 only,
# so that an image of 2 makes ONNX Runtime fail.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
small (IMAGE) => (float[N, 2] probability, float[N, 2, 2] cam)
<int64[3] axes = {1, 2, 3}, int64[1] one = {1}, float unit = {1.0}, float[2] limit = {1.0, 1.0}>
{
    mean = ReduceMean <keepdims = 0> (image, axes)
    positive = Unsqueeze (mean, one)
    negative = Sub (unit, positive)
    brightest = ReduceMax <keepdims = 0> (image)
    index = Cast <to = 7> (brightest)
    factor = Gather (limit, index)
    both = Concat <axis = 1> (negative, positive)
    probability = Mul (both, factor)
    pooled = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (image)
    cam = Squeeze (pooled, one)
}
"""


def small_graph(image: str = "float[N, 1, 8, 8] image") -> bytes:
    model = onnx.parser.parse_model(GRAPH.replace("IMAGE", image))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    return write_version(tmp_path / "version", small_graph())


def test_outputs_come_by_name_for_any_batch_size(version: ModelVersion) -> None:
    engine = OnnxRuntimeEngine(version, threads=1)
    image = np.zeros((3, 1, 8, 8), np.float32)
    image[1] = 0.25
    image[2, :, :4, :4] = 1.0  # a quarter of the image
    outputs = engine.run(image)
    assert set(outputs) == {"probability", "cam"}
    np.testing.assert_allclose(outputs["probability"], [[1, 0], [0.75, 0.25], [0.75, 0.25]])
    np.testing.assert_allclose(outputs["cam"][2], [[1, 0], [0, 0]])
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}
    assert len(engine.run(image[:1])["probability"]) == 1


def test_a_batch_that_is_no_contiguous_array_is_answered_alike(version: ModelVersion) -> None:
    engine = OnnxRuntimeEngine(version)
    image = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(engine.run(image[::2])["cam"], engine.run(image)["cam"][::2])


def test_info_names_provider_and_file(version: ModelVersion) -> None:
    info = OnnxRuntimeEngine(version).info
    assert (info.provider, info.provider_version) == ("onnxruntime", onnxruntime.__version__)
    assert (info.device, info.precision) == ("cpu", "fp32")
    assert info.file_sha256 == hashlib.sha256(version.network_path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 8, 9), np.float32),
        np.zeros((1, 3, 8, 8), np.float32),
        np.zeros((1, 8, 8), np.float32),
        np.zeros((0, 1, 8, 8), np.float32),
        np.zeros((1, 1, 8, 8), np.float64),
        np.zeros((1, 1, 8, 8), np.uint8),
    ],
    ids=["width", "channels", "axes", "empty", "float64", "uint8"],
)
def test_a_wrong_batch_is_a_fault_of_the_caller(version: ModelVersion, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(N, 1, 8, 8\) float32"):
        OnnxRuntimeEngine(version).run(image)


def test_a_failure_of_onnx_runtime_is_transient_and_quotes_nothing(version: ModelVersion) -> None:
    engine = OnnxRuntimeEngine(version)
    with pytest.raises(Transient) as caught:
        engine.run(np.full((2, 1, 8, 8), 2.0, np.float32))
    assert caught.value.reason is Reason.ENGINE_UNAVAILABLE
    assert str(caught.value) == "engine_unavailable: ONNX Runtime failed on 2 images"
    assert len(engine.run(np.zeros((1, 1, 8, 8), np.float32))) == 2, "the engine runs on"


def test_a_closed_engine_is_transient(version: ModelVersion) -> None:
    engine = OnnxRuntimeEngine(version)
    engine.close()
    engine.close()
    with pytest.raises(Transient, match="closed"):
        engine.run(np.zeros((1, 1, 8, 8), np.float32))


def test_a_file_changed_after_the_check_is_not_run(version: ModelVersion) -> None:
    version.network_path.write_bytes(version.network_path.read_bytes() + b"\0")
    with pytest.raises(StoreError, match="SHA-256"):
        OnnxRuntimeEngine(version)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot load"):
        OnnxRuntimeEngine(write_version(tmp_path / "v", b"no graph"))


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        ("float[N, 1, 8, 8] image", {"input_spec": InputSpec(height=16, width=8)}, r"image \(N, 1, 16, 8\)"),
        ("float[1, 1, 8, 8] image", {}, "batch size must be free"),
        ("float[N, 1, 8, 8] image", {"output_names": ("probability", "cam", "score")}, "no float32 output score"),
        (
            "float[N, 1, 8, 8] image",
            {"labels": ("A", "B", "C"), "positive_label": None},
            r"probability must be \(N, 3\)",
        ),
    ],
    ids=["input shape", "fixed batch", "missing output", "labels"],
)
def test_a_graph_unlike_its_manifest_is_refused(
    tmp_path: Path, image: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        OnnxRuntimeEngine(write_version(tmp_path / "v", small_graph(image), **changes))


# Landmarks, as the stand-in of the worker's tests answers them.


def test_landmarks_confidence_and_spread_come_by_name(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine(open_version(stand_in_spine.write_version(tmp_path / "v")), threads=1)
    outputs = engine.run(np.zeros((3, 1, 128, 128), np.float32))
    assert {name: array.shape for name, array in outputs.items()} == {
        "landmarks": (3, 68, 2),
        "confidence": (3, 68),
        "spread": (3, 68),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": landmark_schema("buu_ap20").labels}, r"output landmarks must be \(N, 20, 2\)"),
        ({"labels": ("T1", "T2")}, "no schema of landmarks"),
        ({"output_names": ("landmarks", "confidence")}, "names no output spread"),
        (
            {"input_spec": InputSpec(height=128, width=128, framing=Framing.LUNGS)},
            "looked for in the whole image",
        ),
    ],
    ids=["another schema", "no schema", "missing output", "part of the image"],
)
def test_a_version_whose_landmarks_cannot_be_read_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        OnnxRuntimeEngine(open_version(stand_in_spine.write_version(tmp_path / "v", **changes)))


def test_providers_are_looked_up_by_name(version: ModelVersion) -> None:
    assert load_engine(version, "onnxruntime", threads=1).info.provider == "onnxruntime"
    with pytest.raises(ConfigurationError, match="provider openvino: unknown; known are onnxruntime"):
        load_engine(version, "openvino")


def test_an_engine_needs_no_torch() -> None:
    code = "import sys, models.engines.onnx_runtime, models.engines.providers; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
