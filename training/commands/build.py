"""``python -m training build``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.errors import ConfigurationError
from models.settings import Settings, load
from models.tasks import Task
from training.commands.command import Command

if TYPE_CHECKING:
    from models.store.store import ModelVersion
    from training.engine_build import BuildRequest
    from training.golden_set import GoldenSet

_PROVIDERS: Final = ("onnxruntime", "tensorrt", "tensorrt_rtx")
_PRECISIONS: Final = ("fp32", "fp16", "int8")

_EPILOG: Final = """example:
  python -m training build --task pneumonia --provider onnxruntime --precision int8 --data-dir chest_xray

Makes an engine of a version and proves it: its answers to real images of DIR are compared with those of network.onnx in
FP32, and the task's own measures are taken of both. Then speed is measured, FP32 in turns with it. What is published
lies in <store>/<task>/<version>/engines/, and the fastest proven engine of a provider is marked: workers with
RADSTREAM_WORKER_ENGINE_PRECISION=auto take it. The version itself stays as it is.

An engine that is outside of a bound is not published: each figure is printed with its bound, and the status is 1.

providers:
  onnxruntime    any CPU; fp32 is network.onnx itself, int8 is calibrated on training images
  tensorrt       on the GPU that is to run it: fp32, fp16, int8
  tensorrt_rtx   RTX workstations; the same

A plan that cannot run here, for there is no such GPU, is built without being proven, and is not part of the store:

  python -m training build --task csi --provider tensorrt_rtx --precision fp16 --unproven plans

An engine belongs to one network, one release of its provider and one kind of CPU or GPU: build it where it is to run.
The images are those to train on, never a test set: half of them calibrate INT8, the other half prove the engine."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, choices=[task.value for task in Task], help="of the version")
    parser.add_argument("--version", metavar="NAME", help="of the version; default the one that serves")
    parser.add_argument("--provider", required=True, choices=_PROVIDERS, help="what is to run the engine")
    parser.add_argument("--precision", required=True, choices=_PRECISIONS, help="of the convolutions")
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="labelled training images, as `train` takes them")
    parser.add_argument("--format", default="auto", help="of the images (default: find out); see check-data --help")
    parser.add_argument("--labels-csv", type=Path, metavar="FILE", help="table of labels, where it lies elsewhere")
    parser.add_argument("--images", type=_count, default=64, metavar="N", help="images to prove on (default 64)")
    parser.add_argument("--batches", type=_counts, default=(1, 8, 32), metavar="B,B,B", help="default 1,8,32")
    parser.add_argument(
        "--threads", type=_counts, metavar="N,N", help="thread counts to time on a CPU (default 1, 2, 4 ... all cores)"
    )
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="of tensorrt: makes the next build quicker")
    parser.add_argument("--unproven", type=Path, metavar="DIR", help="only build, into this directory; nothing is run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was published here too")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({_count(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be numbers, as in 1,8,32") from None


def _run(arguments: argparse.Namespace) -> None:
    if arguments.data_dir is None and (arguments.unproven is None or arguments.precision == "int8"):
        why = "int8 is calibrated" if arguments.precision == "int8" else "an engine is proven"
        raise ConfigurationError(f"--data-dir: {why} on labelled training images; say where they are")
    store_path = arguments.store or load(Settings).model_store
    from models.store.store import ModelStore
    from training.engine_build import BuildRequest, default_threads
    from training.golden_set import read_golden_set

    version = ModelStore(store_path).open(Task(arguments.task), arguments.version)
    golden = None
    if arguments.data_dir is not None:
        golden = read_golden_set(
            version.manifest,
            arguments.data_dir,
            arguments.images,
            format=arguments.format,
            labels_csv=arguments.labels_csv,
        )
    threads = arguments.threads or default_threads()
    request = BuildRequest(arguments.provider, arguments.precision, arguments.batches, threads, arguments.timing_cache)
    if arguments.unproven is not None or golden is None:
        _build_unproven(version, request, golden, arguments.unproven)
    else:
        _build(version, request, golden, arguments.json)


def _build(version: ModelVersion, request: BuildRequest, golden: GoldenSet, json_path: Path | None) -> None:
    import json

    from rich.console import Console

    from training.engine_build import build_and_publish
    from training.engine_proof import NotProven
    from training.engine_tables import proof_table, speed_table

    console = Console()
    try:
        engines = build_and_publish(version, request, golden)
    except NotProven as error:
        if error.proof is not None:
            console.print(proof_table(error.proof, f"{request.provider} {request.precision}: not proven"))
        raise
    built = next(engine for engine in engines if engine.precision == request.precision)
    console.print(proof_table(built.proof, f"{request.provider} {request.precision}: proven"))
    console.print(speed_table(engines))
    if json_path is not None:
        documents = [engine.model_dump(mode="json") for engine in engines]
        try:
            json_path.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{json_path}: cannot be written: {error.strerror}") from error
    print(version.directory / "engines" / f"{built.key.digest}.json")


def _build_unproven(version: ModelVersion, request: BuildRequest, golden: GoldenSet | None, directory: Path) -> None:
    from training.engine_build import build_unproven
    from training.progress import CONSOLE

    path = build_unproven(version, request, None if golden is None else golden.calibration, directory)
    CONSOLE.print("Built, but not run: nothing is known of its answers, and it is not part of the store.")
    print(path)


BUILD: Final = Command("build", "make, prove and time an engine of a version", _EPILOG, _add_options, _run)
