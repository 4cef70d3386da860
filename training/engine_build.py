"""`python -m training build`: make an engine of a version, prove it, time it, publish it, choose the fastest.

Nothing is written before the proof is passed. A plan that cannot run here, for there is no GPU, can be built but not
proven, so it is never published; it goes to a plain directory, see `build_unproven`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx
from onnx import ModelProto

from models.engines.built import (
    FOLDER,
    FP32,
    EngineKey,
    EngineManifest,
    Proof,
    Speed,
    best_speed,
    choose,
    network_sha256,
    publish_engine,
    rivals_of,
)
from models.engines.cpu import CPU, cpu_device
from models.engines.engine import Engine, Outputs
from models.engines.onnx_runtime import PROVIDER, OnnxFile, OnnxRuntimeEngine, engine_key
from models.errors import ConfigurationError
from models.store.store import ModelVersion
from training.engine_graph import with_single_weights
from training.engine_precision import cast_to_half
from training.engine_proof import NotProven, answer_all, prove
from training.engine_quantise import Quantiser
from training.engine_speed import measure_speeds
from training.golden_set import GoldenSet
from training.progress import CONSOLE, progress_bar
from training.subjects import Images

FP16: Final = "fp16"
INT8: Final = "int8"
BATCHES: Final = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is asked for.

    Attributes:
        batches: at which speed is measured; least, middle and largest are the profile of a plan.
        threads: thread counts at which speed is measured on a CPU.
        timing_cache: of `tensorrt`: file of measured kernels, read and written, which makes the next build quicker.
    """

    provider: str
    precision: str
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] = (1,)
    timing_cache: Path | None = None

    @property
    def profile(self) -> tuple[int, int, int]:
        """Least, typical and largest batch."""
        ordered = sorted(self.batches)
        return ordered[0], ordered[len(ordered) // 2], ordered[-1]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that was built and not yet proven.

    Attributes:
        content: of its file; None where it is ``network.onnx`` itself.
        profile: batches of a plan.
    """

    key: EngineKey
    content: bytes | None
    build_s: float
    profile: tuple[int, int, int] | None = None


def build_and_publish(version: ModelVersion, request: BuildRequest, golden: GoldenSet) -> tuple[EngineManifest, ...]:
    """Build, prove, time and publish an engine, and choose the fastest of those that could run in its place.

    With onnxruntime FP32 is timed in turns with what is built and takes part in the choice.

    Returns:
        Every engine that could run in its place, as published.

    Raises:
        ConfigurationError: the provider does not make this precision, or cannot be used here.
        NotProven: the engine is outside of a bound; nothing is published.
        RadstreamError: the graph cannot be built, or the store not be written.
    """
    if request.provider != PROVIDER:
        _check_profile(request)  # before the time that reading plans and answering takes
        _check_runs_here(request.provider)
    reference = OnnxRuntimeEngine(version, threads=max(request.threads))
    answers = answer_all(reference, golden.images, "answering with the reference")
    reference.close()
    candidate, proof = _first_proven(version, request, golden, answers)
    speeds = _timed(version, candidate, golden.images, request)
    publish_engine(version, _manifest_of(candidate, proof, speeds), candidate.content)
    if request.provider == PROVIDER and request.precision != FP32:
        _publish_reference(version, golden, answers, speeds)
    return choose_fastest(version, candidate.key)


def build_unproven(version: ModelVersion, request: BuildRequest, images: Images | None, directory: Path) -> Path:
    """Build an engine and write its file to a plain directory, without having run it.

    Args:
        version: to build from.
        request: of which speed is not measured.
        images: to calibrate INT8 on.
        directory: made where it is not there.

    Raises:
        ConfigurationError: as `build_and_publish`, or the directory cannot be written.
    """
    candidate = next(candidates(version, request, images))
    if candidate.content is None:
        raise ConfigurationError("--unproven: FP32 of onnxruntime is network.onnx itself; there is nothing to build")
    suffix = Path(candidate.key.file_name).suffix
    key = candidate.key
    path = directory / f"{version.manifest.task}-{version.manifest.version}-{key.provider}-{key.precision}{suffix}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_bytes(candidate.content)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def candidates(version: ModelVersion, request: BuildRequest, images: Images | None) -> Iterator[Candidate]:
    """Build engines in memory, from the one to be preferred to those that are nearer to FP32.

    Raises:
        ConfigurationError: the provider does not make this precision, or INT8 has no images to calibrate on.
        RadstreamError: the graph cannot be built.
    """
    if request.provider == PROVIDER and request.precision == FP16:
        raise ConfigurationError("onnxruntime computes fp16 no faster than fp32 on a CPU; build int8")
    if request.provider == PROVIDER and request.precision == FP32:
        yield Candidate(engine_key(version, FP32), None, 0.0)
        return
    if request.provider != PROVIDER:
        _check_profile(request)
    began = time.perf_counter()
    for graph in _graphs(version, request, images):
        if request.provider == PROVIDER:
            yield _onnx_file(version, request, graph, began)
        else:
            yield _plan(version, request, graph, began)


def _check_profile(request: BuildRequest) -> None:
    """Refuse a plan that could not answer a single image: at the end of a feed one is alone in its batch."""
    least = request.profile[0]
    if least != 1:
        raise ConfigurationError(
            f"--batches: the least is {least}; a plan of {request.provider} must take a single image, "
            f"so give 1 too, as in --batches 1,{least}"
        )


def _graphs(version: ModelVersion, request: BuildRequest, images: Images | None) -> Iterator[ModelProto]:
    single = with_single_weights(onnx.load(str(version.network_path)))
    if request.precision != INT8:
        yield cast_to_half(single) if request.precision == FP16 else single
        return
    if images is None:
        raise ConfigurationError("int8 is calibrated on training images: give them with --data-dir DIR")
    is_plan = request.provider != PROVIDER
    quantiser = Quantiser(single, images, symmetric=is_plan, seven_bits=not is_plan and cpu_device() == CPU)
    try:
        for first_kept in quantiser.choices:
            with progress_bar() as bar:
                bar.add_task(f"quantising all but the first {first_kept} convolutions", total=None)
                graph = quantiser.quantise(first_kept)
            yield graph
    finally:
        quantiser.close()


def _onnx_file(version: ModelVersion, request: BuildRequest, graph: ModelProto, began: float) -> Candidate:
    return Candidate(engine_key(version, request.precision), graph.SerializeToString(), time.perf_counter() - began)


def _plan(version: ModelVersion, request: BuildRequest, graph: ModelProto, began: float) -> Candidate:
    from training.tensorrt_plan import build_plan

    built = build_plan(
        graph.SerializeToString(),
        module_name=request.provider,
        profile_batches=request.profile,
        timing_cache=request.timing_cache,
    )
    key = EngineKey(network_sha256(version), request.provider, built.provider_version, request.precision, built.device)
    return Candidate(key, built.content, time.perf_counter() - began, request.profile)


def open_candidate(version: ModelVersion, candidate: Candidate, threads: int | None) -> Engine:
    """Load what was built as a worker would.

    Raises:
        StoreError: it cannot be loaded, or has other inputs and outputs than its manifest says.
        ConfigurationError: there is no GPU for a plan.
    """
    if candidate.content is None:
        return OnnxRuntimeEngine(version, threads=threads)
    path = version.directory / FOLDER / candidate.key.file_name
    if candidate.key.provider == PROVIDER:
        file = OnnxFile(path, candidate.content, candidate.key.precision)
        return OnnxRuntimeEngine(version, threads=threads, file=file)
    from models.engines.tensorrt import TensorRTEngine
    from models.engines.tensorrt_cuda import CudaBinding

    return TensorRTEngine(version, candidate.key, candidate.content, CudaBinding(candidate.key.provider, 0))


def _first_proven(
    version: ModelVersion, request: BuildRequest, golden: GoldenSet, reference: Outputs
) -> tuple[Candidate, Proof]:
    """Give the first candidate that passes; where none does, raise what the last one failed by."""
    failure: NotProven | None = None
    for candidate in candidates(version, request, golden.calibration):
        engine = open_candidate(version, candidate, max(request.threads))
        try:
            answers = answer_all(engine, golden.images, f"answering in {request.precision}")
        finally:
            engine.close()
        try:
            return candidate, prove(version.manifest, golden, reference, answers, request.precision)
        except NotProven as error:
            failure = error
            CONSOLE.print(f"not yet proven ({_named(error)}); trying with less in {request.precision}")
    raise failure or NotProven("nothing was built")


def _named(failure: NotProven) -> str:
    return "; ".join(str(check) for check in failure.proof.failures) if failure.proof else str(failure)


def _check_runs_here(provider: str) -> None:
    """See that there is a GPU for a plan before much time is spent on it."""
    from models.engines.tensorrt_cuda import CudaBinding

    try:
        CudaBinding(provider, 0).close()
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; a plan that is to run elsewhere is built with --unproven DIR") from error


def _timed(version: ModelVersion, candidate: Candidate, images: Images, request: BuildRequest) -> tuple[Speed, ...]:
    if candidate.key.provider != PROVIDER:
        engine = open_candidate(version, candidate, None)
        try:
            return tuple(measure_speeds(engine, None, images, request.batches, None))
        finally:
            engine.close()
    speeds: list[Speed] = []
    for threads in request.threads:
        engine, reference = open_candidate(version, candidate, threads), OnnxRuntimeEngine(version, threads=threads)
        try:
            speeds += measure_speeds(engine, reference, images, request.batches, threads)
        finally:
            engine.close()
            reference.close()
    return tuple(speeds)


def _publish_reference(version: ModelVersion, golden: GoldenSet, answers: Outputs, speeds: tuple[Speed, ...]) -> None:
    """Publish FP32 of onnxruntime with the speed that it had as the reference, so that it can be chosen."""
    proof = prove(version.manifest, golden, answers, answers, FP32)
    own = tuple(
        speed.model_copy(update={"images_per_s": speed.reference_images_per_s})
        for speed in speeds
        if speed.reference_images_per_s is not None
    )
    publish_engine(version, _manifest_of(Candidate(engine_key(version, FP32), None, 0.0), proof, own), None)


def choose_fastest(version: ModelVersion, key: EngineKey) -> tuple[EngineManifest, ...]:
    """Choose by measured speed among the engines that could run where this one does; give them, the chosen marked.

    Raises:
        StoreError: the store cannot be written.
    """
    fastest = max(rivals_of(version, key), key=best_speed)
    choose(version, fastest.key)
    return rivals_of(version, key)


def _manifest_of(candidate: Candidate, proof: Proof, speeds: tuple[Speed, ...]) -> EngineManifest:
    content = candidate.content
    return EngineManifest(
        network_sha256=candidate.key.network_sha256,
        provider=candidate.key.provider,
        provider_version=candidate.key.provider_version,
        precision=candidate.key.precision,
        device=candidate.key.device,
        file=None if content is None else candidate.key.file_name,
        file_sha256=None if content is None else hashlib.sha256(content).hexdigest(),
        created=datetime.now(UTC),
        build_s=candidate.build_s,
        profile_batches=candidate.profile,
        proof=proof,
        speeds=speeds,
    )


def default_threads(cores: int | None = None) -> tuple[int, ...]:
    """Give thread counts to time: one, as of several workers on a host, then doubled up to every core."""
    cores = cores or os.cpu_count() or 1
    doubled = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return (*doubled, cores)
