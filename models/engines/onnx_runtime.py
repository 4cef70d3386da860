"""The `onnxruntime` provider: runs ``network.onnx`` of a model version on the CPU, anywhere.

It refuses to run a file whose hash or whose inputs and outputs are not what the manifest says. It never quotes a
message of ONNX Runtime: these may hold values.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.engines.engine import EngineInfo, Outputs
from models.errors import Reason, Transient
from models.pixels.spec import Framing
from models.spine.schemas import schema_of_labels
from models.store.manifest import Manifest
from models.store.store import ModelVersion, StoreError
from models.tasks import Task
from models.zones import ZONES

PROVIDER: Final = "onnxruntime"
INPUT_NAME: Final = "image"

# ONNX Runtime's exceptions have no root of their own; bad_alloc arrives as MemoryError or RuntimeError.
_ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    MemoryError,
    RuntimeError,
)
_ERRORS_AND_WORSE: Final = 3
_ANSWERS_PER_IMAGE: Final[dict[Task, tuple[int, ...]]] = {Task.CSI: (len(ZONES),)}
"""Axes of ``probability`` between the images and the classes, where a task has any."""
_OF_A_LANDMARK: Final[dict[str, tuple[int, ...]]] = {"landmarks": (2,), "confidence": (), "spread": ()}
"""The outputs of task `landmarks`, and their axes behind those of images and landmarks."""


class OnnxRuntimeEngine:
    """One model version in one ONNX Runtime session. Not thread-safe: one caller at a time.

    Args:
        version: a checked version of the store.
        threads: of the arithmetic; None lets ONNX Runtime take every physical core.

    Raises:
        StoreError: the file was changed since it was checked, cannot be loaded, or is not what its manifest says.
    """

    def __init__(self, version: ModelVersion, *, threads: int | None = None) -> None:
        self._manifest = version.manifest
        content = _read_checked(version)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                content, sess_options=_options(threads), providers=["CPUExecutionProvider"]
            )
        except _ORT_ERRORS as error:
            release = onnxruntime.__version__
            raise StoreError(f"{version.network_path}: ONNX Runtime {release} cannot load it") from error
        self._info = EngineInfo(
            provider=PROVIDER,
            provider_version=onnxruntime.__version__,
            device="cpu",
            precision="fp32",
            file_sha256=self._manifest.files[version.network_path.name],
        )
        self._check_interface(version)
        self._warm_up(version)

    @property
    def manifest(self) -> Manifest:
        """The model version that this engine runs."""
        return self._manifest

    @property
    def info(self) -> EngineInfo:
        """Identity of the engine."""
        return self._info

    def run(self, image: NDArray[np.float32]) -> Outputs:
        """Infer one batch, see `models.engines.engine.Engine.run`.

        Raises:
            ValueError: `image` has another shape or type than the manifest says; a fault of the caller.
            Transient: ONNX Runtime failed, or the engine is closed.
        """
        spec = self._manifest.input_spec
        expected = (1, spec.height, spec.width)
        if image.dtype != np.float32 or image.ndim != 4 or image.shape[1:] != expected or not len(image):
            raise ValueError(f"image must be (N, {', '.join(map(str, expected))}) float32 with N at least 1")
        if self._session is None:
            raise Transient(Reason.ENGINE_UNAVAILABLE, "the engine is closed")
        names = list(self._manifest.output_names)
        try:
            arrays = self._session.run(names, {INPUT_NAME: np.ascontiguousarray(image)})
        except _ORT_ERRORS as error:
            raise Transient(Reason.ENGINE_UNAVAILABLE, f"ONNX Runtime failed on {len(image)} images") from error
        return dict(zip(names, arrays, strict=True))

    def close(self) -> None:
        """Give back memory; closing twice is no error."""
        self._session = None

    def _check_interface(self, version: ModelVersion) -> None:
        spec = self._manifest.input_spec
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        wanted = [1, spec.height, spec.width]
        if [(i.name, i.type, i.shape[1:]) for i in inputs] != [(INPUT_NAME, "tensor(float)", wanted)]:
            shape = ", ".join(map(str, wanted))
            raise StoreError(f"{version.network_path}: its one input must be {INPUT_NAME} (N, {shape}) float32")
        if isinstance(inputs[0].shape[0], int):
            raise StoreError(f"{version.network_path}: the batch size must be free, but is {inputs[0].shape[0]}")
        missing = set(self._manifest.output_names) - {o.name for o in outputs if o.type == "tensor(float)"}
        if missing:
            raise StoreError(f"{version.network_path}: no float32 output {', '.join(sorted(missing))}")
        if self._manifest.task is Task.LANDMARKS:
            self._check_landmarks(version)

    def _check_landmarks(self, version: ModelVersion) -> None:
        """See that the answers can be read: named landmarks, which lie somewhere in the whole image."""
        if schema_of_labels(self._manifest.labels) is None:
            raise StoreError(f"{version.network_path}: the labels of its manifest are no schema of landmarks")
        if self._manifest.input_spec.framing is not Framing.WHOLE:
            raise StoreError(f"{version.network_path}: landmarks are looked for in the whole image")
        missing = set(_OF_A_LANDMARK) - set(self._manifest.output_names)
        if missing:
            raise StoreError(f"{version.network_path}: its manifest names no output {', '.join(sorted(missing))}")

    def _warm_up(self, version: ModelVersion) -> None:
        """Run once, so that the first instance does not pay for allocation, and see that the answers fit."""
        spec = self._manifest.input_spec
        try:
            outputs = self.run(np.zeros((1, 1, spec.height, spec.width), np.float32))
        except Transient as error:
            raise StoreError(f"{version.network_path}: loads, but does not run") from error
        for name, expected in _shapes_of_answers(self._manifest).items():
            if name in outputs and outputs[name].shape[1:] != expected:
                shape = ", ".join(map(str, expected))
                raise StoreError(f"{version.network_path}: output {name} must be (N, {shape})")
        if any(len(array) != 1 or not np.isfinite(array).all() for array in outputs.values()):
            raise StoreError(f"{version.network_path}: does not answer one black image with one finite answer")


def _shapes_of_answers(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Axes behind that of the images by output."""
    labels = len(manifest.labels)
    if manifest.task is Task.LANDMARKS:
        return {name: (labels, *axes) for name, axes in _OF_A_LANDMARK.items()}
    return {"probability": (*_ANSWERS_PER_IMAGE.get(manifest.task, ()), labels)}


def _read_checked(version: ModelVersion) -> bytes:
    # Hashed again although the store has done so: what was read is what runs, whoever writes there meanwhile.
    try:
        content = version.network_path.read_bytes()
    except OSError as error:
        raise StoreError(f"{version.network_path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != version.manifest.files[version.network_path.name]:
        raise StoreError(f"{version.network_path}: its SHA-256 is not the one in the manifest; the file was changed")
    return content


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_AND_WORSE
    if threads is not None:
        options.intra_op_num_threads = threads
    # Spinning threads wait by burning the cores on which the next batch is being decoded: with two threads and an
    # image now and then, the process took 62 ms of CPU per image with spinning and 17 ms without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
