"""``python -m training evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigurationError
from models.settings import Settings, load
from models.tasks import Task
from training.commands.command import Command

_EPILOG: Final = """example:
  python -m training evaluate --task pneumonia --version active --data-dir chest_xray --split test \\
      --output-dir evaluation/shipped

Runs the engine that serves this version, on every image of the split. The data directory is DIR/<split>/<CLASS>/* or
DIR/<CLASS>/*, an NIH set, a DICOM folder with a CSV file, or adults with Brixia scores. With --checkpoint RUN the
fitted network of a run is evaluated instead, and its Grad-CAM is compared with the grad-cam package's:

  python -m training evaluate --checkpoint runs/pneumonia-1 --data-dir chest_xray --split test \\
      --output-dir evaluation/pneumonia-1 --cam-method gradcam++

Task csi grades six lung zones 0 to 3 (or ungradable) and is measured against the first reader of the set:

  python -m training evaluate --task csi --version active --format brixia --data-dir brixia_cohen \\
      --output-dir evaluation/csi

Its data directory is a CSV file with the separator ; and the columns FileID, right_sup, left_sup, right_mid, left_mid,
right_inf, left_inf and optionally patient (an empty zone is ungradable), with <FileID>.png, .jpg, .jpeg, .dcm or .dicom
anywhere below; or scores.csv with Brixia scores. Such a set has no splits; --split only names the files. Where two
radiologists read an image, what the second reaches against the first is written beside the network.

Task landmarks finds the corners of vertebrae and measures distances and Cobb angles:

  python -m training evaluate --task landmarks --version active --format aasce --data-dir aasce --split test \\
      --output-dir evaluation/landmarks

Its data directory is <split>/ with the images, <split>_filenames.csv, <split>_landmarks.csv and <split>_angles.csv;
BUU-LSPINE; or a JSON file of keypoints for each image. Rows with faulty landmarks count, and a second set of figures
leaves them out."""


_OWN_EVALUATIONS: Final = {
    Task.CSI: "whose maps are those of the graph",
    Task.LANDMARKS: "which has no maps",
}
"""Tasks that are evaluated in a way of their own, and why they have no choice of maps."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_argument_group("what is evaluated")
    tasks = "{" + ",".join((Task.PNEUMONIA, Task.NORMALITY, Task.CSI, Task.LANDMARKS)) + "}"
    subject.add_argument("--task", type=_task, metavar=tasks, help="default pneumonia, or the run's")
    subject.add_argument("--version", metavar="NAME", help="a version of the store, or active (default)")
    subject.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    subject.add_argument(
        "--checkpoint", type=Path, metavar="RUN", help="run directory of `train`, or one of its .ckpt files"
    )
    data = parser.add_argument_group("on what")
    data.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="directory of the labelled images")
    data.add_argument("--split", default="test", metavar="NAME", help="split to evaluate on; default test")
    data.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="auto, class-folders, nih-csv, dicom-csv, brixia; of csi: auto, csi, brixia; of landmarks: auto, aasce, "
        "buu-ap, buu-la, generic40",
    )
    data.add_argument("--labels-csv", type=Path, metavar="FILE", help="table of labels, if not found by its usual name")
    data.add_argument(
        "--limit", type=_count, metavar="N", help="at most this many images per class, of csi, landmarks in all"
    )
    data.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE_OR_ID",
        help="of csi, landmarks: leave out this FileID or file, or those that a .txt file lists; may be repeated",
    )
    output = parser.add_argument_group("what is written")
    output.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where the files go")
    output.add_argument("--samples", type=_count, default=20, metavar="N", help="pictures of images; default 20")
    output.add_argument(
        "--bootstrap", type=_count, default=1000, metavar="N", help="replicates of the intervals; default 1000, 0 none"
    )
    output.add_argument(
        "--cam-method",
        metavar="NAME",
        help="with --checkpoint: gradcam, gradcam++, integrated-gradients or another; default the map in the graph",
    )
    output.add_argument("--cam-layer", metavar="NAME", help="with --checkpoint: module to explain, e.g. layer4.1.conv2")
    computing = parser.add_argument_group("how")
    computing.add_argument("--batch-size", type=_count, default=16, metavar="N", help="default 16")
    computing.add_argument("--num-workers", type=_count, default=0, metavar="N", help="processes that read images")
    computing.add_argument(
        "--dropout-passes",
        type=_count,
        metavar="N",
        help="of a checkpoint of landmarks: mean and scatter of N passes with dropout on (Monte-Carlo dropout; try 10)",
    )
    computing.add_argument("--threads", type=_count, metavar="N", help="threads of the arithmetic; default all cores")


def _task(text: str) -> Task:
    try:
        return Task(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"unknown task {text}") from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: a number from 0")
    return int(text)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None and (arguments.cam_method or arguments.cam_layer):
        raise ConfigurationError("--cam-method and --cam-layer need --checkpoint: an engine has no gradients")
    if arguments.checkpoint is not None and arguments.version is not None:
        raise ConfigurationError("give --version or --checkpoint, not both")
    for name in ("limit", "batch_size", "threads"):
        if getattr(arguments, name) == 0:
            raise ConfigurationError(f"--{name.replace('_', '-')}: at least 1")


def _run(arguments: argparse.Namespace) -> None:
    task = _task_of(arguments)
    if arguments.dropout_passes is not None and (task is not Task.LANDMARKS or arguments.checkpoint is None):
        raise ConfigurationError("--dropout-passes: of checkpoints of task landmarks only; engines have no dropout")
    if task in _OWN_EVALUATIONS and (arguments.cam_method or arguments.cam_layer):
        raise ConfigurationError(f"--cam-method and --cam-layer: not of task {task}, {_OWN_EVALUATIONS[task]}")
    if arguments.exclude and task not in _OWN_EVALUATIONS:
        raise ConfigurationError("--exclude: of tasks csi and landmarks only")
    if arguments.labels_csv is not None and task is Task.LANDMARKS:
        raise ConfigurationError("--labels-csv: not of task landmarks, whose tables lie beside the images")
    _check(arguments)
    evaluations = {Task.CSI: _evaluate_zones, Task.LANDMARKS: _evaluate_landmarks}
    (_evaluate_classes if task is None else evaluations[task])(arguments)


def _task_of(arguments: argparse.Namespace) -> Task | None:
    """Give the task of its own kind that is named or, of a checkpoint, that of its run; None of a classification."""
    task = arguments.task
    if arguments.checkpoint is not None and arguments.checkpoint.exists():
        from training.run import RunDirectory

        found = RunDirectory(arguments.checkpoint).read_json("config.json").get("task", Task.PNEUMONIA)
        if (found in _OWN_EVALUATIONS or task in _OWN_EVALUATIONS) and task not in (None, found):
            raise ConfigurationError(f"{arguments.checkpoint}: is a run of task {found}, not {task}")
        task = found
    return next((own for own in _OWN_EVALUATIONS if own == task), None)


def _evaluate_classes(arguments: argparse.Namespace) -> None:
    from training.evaluate import EvaluationRequest, evaluate, say
    from training.subjects import ACTIVE, EngineSubject, Subject

    subject: Subject
    if arguments.checkpoint is None:
        version = arguments.version or ACTIVE
        task = arguments.task or Task.PNEUMONIA
        subject = EngineSubject.open(_store(arguments), task, version, threads=arguments.threads)
    else:
        from training.checkpoint_subject import CheckpointSubject

        subject = CheckpointSubject(
            arguments.checkpoint, method=arguments.cam_method, layer=arguments.cam_layer, threads=arguments.threads
        )
        if arguments.task not in (None, subject.task):
            raise ConfigurationError(f"{arguments.checkpoint}: is a run of task {subject.task}, not {arguments.task}")
    request = EvaluationRequest(**_request(arguments))
    say(evaluate(subject, request))
    print(request.output_dir / f"metrics_{request.split}.json")


def _evaluate_zones(arguments: argparse.Namespace) -> None:
    from training.datasets.exclusions import read_exclusions
    from training.evaluate_zones import ZoneEvaluationRequest, evaluate_zones, say
    from training.subjects import ACTIVE
    from training.zone_subjects import EngineZoneSubject, ZoneSubject

    subject: ZoneSubject
    if arguments.checkpoint is None:
        version = arguments.version or ACTIVE
        subject = EngineZoneSubject.open(_store(arguments), version, threads=arguments.threads)
    else:
        from training.zone_checkpoint import CheckpointZoneSubject

        subject = CheckpointZoneSubject(arguments.checkpoint, threads=arguments.threads)
    request = ZoneEvaluationRequest(**_request(arguments), exclude=read_exclusions(arguments.exclude))
    say(evaluate_zones(subject, request))
    print(request.output_dir / f"metrics_{request.split}.json")


def _evaluate_landmarks(arguments: argparse.Namespace) -> None:
    from training.datasets.exclusions import read_exclusions
    from training.evaluate_landmarks import LandmarkEvaluationRequest, evaluate_landmarks, say
    from training.landmark_subjects import EngineLandmarkSubject, LandmarkSubject
    from training.subjects import ACTIVE

    subject: LandmarkSubject
    if arguments.checkpoint is None:
        version = arguments.version or ACTIVE
        subject = EngineLandmarkSubject.open(_store(arguments), version, threads=arguments.threads)
    else:
        from training.landmark_checkpoint import CheckpointLandmarkSubject

        passes = arguments.dropout_passes
        subject = CheckpointLandmarkSubject(arguments.checkpoint, threads=arguments.threads, dropout_passes=passes)
    request = LandmarkEvaluationRequest(**_request(arguments), exclude=read_exclusions(arguments.exclude))
    say(evaluate_landmarks(subject, request))
    print(request.output_dir / f"metrics_{request.split}.json")


def _store(arguments: argparse.Namespace) -> Path:
    store: Path = arguments.store or load(Settings).model_store
    return store


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    data = ("data_dir", "split", "format", "labels_csv", "limit")
    names = (*data, "output_dir", "samples", "bootstrap", "batch_size", "num_workers")
    return {name: getattr(arguments, name) for name in names}


EVALUATE: Final = Command(
    "evaluate", "measure a version or a checkpoint on labelled images", _EPILOG, _add_options, _run
)
