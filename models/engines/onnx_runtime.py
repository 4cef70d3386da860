"""The `onnxruntime` provider: runs ``network.onnx`` of a model version, or an INT8 file built from it, on the CPU.

It refuses to run a file whose hash or whose inputs and outputs are not what the manifest says. It never quotes a
message of ONNX Runtime: these may hold values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.engines.answers import check_first_answer, check_landmarks
from models.engines.built import AUTO, FP32, EngineKey, chosen_engine, find_engine, network_sha256, rivals_of
from models.engines.cpu import cpu_device
from models.engines.engine import EngineInfo, Outputs
from models.errors import Reason, Transient
from models.store.manifest import Manifest
from models.store.store import ModelVersion, StoreError

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


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What ONNX Runtime is to run: the content of a file that was checked.

    Attributes:
        path: where it lies, or will lie; named in errors.
    """

    path: Path
    content: bytes
    precision: str


class OnnxRuntimeEngine:
    """One model version in one ONNX Runtime session. Not thread-safe: one caller at a time.

    Args:
        version: a checked version of the store.
        threads: of the arithmetic; None lets ONNX Runtime take every physical core.
        file: one that was built from the version; None runs its ``network.onnx``.

    Raises:
        StoreError: the file was changed since it was checked, cannot be loaded, or is not what its manifest says.
    """

    def __init__(self, version: ModelVersion, *, threads: int | None = None, file: OnnxFile | None = None) -> None:
        self._manifest = version.manifest
        file = file or OnnxFile(version.network_path, _read_checked(version), FP32)
        self._path = file.path
        try:
            self._session: Any = onnxruntime.InferenceSession(
                file.content, sess_options=session_options(threads), providers=["CPUExecutionProvider"]
            )
        except _ORT_ERRORS as error:
            release = onnxruntime.__version__
            raise StoreError(f"{self._path}: ONNX Runtime {release} cannot load it") from error
        self._info = EngineInfo(
            provider=PROVIDER,
            provider_version=onnxruntime.__version__,
            device="cpu",
            precision=file.precision,
            file_sha256=hashlib.sha256(file.content).hexdigest(),
        )
        self._check_interface()
        self._warm_up()

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

    def _check_interface(self) -> None:
        spec = self._manifest.input_spec
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        wanted = [1, spec.height, spec.width]
        if [(i.name, i.type, i.shape[1:]) for i in inputs] != [(INPUT_NAME, "tensor(float)", wanted)]:
            shape = ", ".join(map(str, wanted))
            raise StoreError(f"{self._path}: its one input must be {INPUT_NAME} (N, {shape}) float32")
        if isinstance(inputs[0].shape[0], int):
            raise StoreError(f"{self._path}: the batch size must be free, but is {inputs[0].shape[0]}")
        missing = set(self._manifest.output_names) - {o.name for o in outputs if o.type == "tensor(float)"}
        if missing:
            raise StoreError(f"{self._path}: no float32 output {', '.join(sorted(missing))}")
        check_landmarks(self._manifest, self._path)

    def _warm_up(self) -> None:
        """Run once, so that the first instance does not pay for allocation, and see that the answers fit."""
        spec = self._manifest.input_spec
        try:
            outputs = self.run(np.zeros((1, 1, spec.height, spec.width), np.float32))
        except Transient as error:
            raise StoreError(f"{self._path}: loads, but does not run") from error
        check_first_answer(self._manifest, self._path, outputs)


def engine_key(version: ModelVersion, precision: str) -> EngineKey:
    """Give the key of an engine of this version that runs here."""
    return EngineKey(network_sha256(version), PROVIDER, onnxruntime.__version__, precision, cpu_device())


def load_onnxruntime(version: ModelVersion, *, threads: int | None, precision: str) -> OnnxRuntimeEngine:
    """Load and warm ``network.onnx``, or what was built from it for this kind of CPU and this ONNX Runtime.

    Args:
        version: a checked version of the store.
        threads: see `OnnxRuntimeEngine`.
        precision: ``fp32``, ``int8``, or ``auto`` for the one that was chosen when they were built, else ``fp32``.

    Raises:
        StoreError: there is no such engine, or it is broken.
    """
    key = engine_key(version, precision)
    if precision == AUTO:
        chosen = chosen_engine(rivals_of(version, key))
        key = engine_key(version, FP32) if chosen is None else chosen.key
    if key.precision == FP32:
        return OnnxRuntimeEngine(version, threads=threads)
    built = find_engine(version, key)
    if built is None or built.path is None or built.content is None:
        manifest = version.manifest
        raise StoreError(
            f"{version.directory}: no {key.precision} engine for ONNX Runtime {key.provider_version} on this CPU "
            f"({key.device}). Build one here: python -m training build --task {manifest.task} "
            f"--version {manifest.version} --provider {PROVIDER} --precision {key.precision} --data-dir DIR"
        )
    file = OnnxFile(built.path, built.content, built.manifest.precision)
    return OnnxRuntimeEngine(version, threads=threads, file=file)


def _read_checked(version: ModelVersion) -> bytes:
    # Hashed again although the store has done so: what was read is what runs, whoever writes there meanwhile.
    try:
        content = version.network_path.read_bytes()
    except OSError as error:
        raise StoreError(f"{version.network_path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != version.manifest.files[version.network_path.name]:
        raise StoreError(f"{version.network_path}: its SHA-256 is not the one in the manifest; the file was changed")
    return content


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Give the options of every session; `threads` of the arithmetic, None for every physical core."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_AND_WORSE
    if threads is not None:
        options.intra_op_num_threads = threads
    # Spinning threads wait by burning the cores on which the next batch is being decoded: with two threads and an
    # image now and then, the process took 62 ms of CPU per image with spinning and 17 ms without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
