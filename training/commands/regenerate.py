"""``python -m training regenerate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigurationError
from models.settings import Settings, load
from models.tasks import Task
from training.commands.command import Command
from training.commands.train import add_settings, chosen_settings, found_settings, given_settings
from training.landmark_settings import LandmarkTrainSettings
from training.settings import RunSettings, TrainSettings
from training.zone_settings import ZoneTrainSettings

_EPILOG: Final = """example:
  python -m training regenerate --task pneumonia --data-dir chest_xray/train --output-dir runs/again --promote

One command from images to a live engine: trains, evaluates, exports a version, builds an engine of it and proves it,
compares it with the version that serves, and with --promote lets it serve if it is not worse.

  pneumonia, normality   one run; the persons of --val-fraction are held out and measure it
  csi, landmarks         a cross-validation (--kfold, default 5) measures; what is exported is fitted to everyone

Interrupted, or failed at a step? Give the same command again, with its --output-dir: what is done stays done.
Settings that are not offered here come from --from (a file of `search`, or {"settings": {...}} of your own), from
the network's recipe, and from the RADSTREAM_CONFIG file.

Compared are, with the margin by which the new version may fall behind: roc_auc 0.005 and accuracy 0.01; csi
kappa_quadratic 0.02 and mae_zone 0.02; landmarks mre_px 0.5 and cobb_smape 0.5. Both versions must have been measured
on the same persons, held out of both: give the --seed and --val-fraction, or --kfold, that the active version was made
with. On other images than it was fitted to the active version is asked itself. Where neither can be, nothing is
promoted, and the command says how to do it by hand. <output-dir>/regenerate.json says which comparison was made."""

_KINDS: Final[tuple[tuple[str, type[RunSettings]], ...]] = (
    ("for every task", RunSettings),
    ("for tasks pneumonia and normality", TrainSettings),
    ("for task csi", ZoneTrainSettings),
    ("for task landmarks", LandmarkTrainSettings),
)
_OFFERED: Final = frozenset(
    {
        *("data_dir", "labels_csv", "format", "exclude", "limit", "val_fraction", "kfold", "folds", "seed"),
        *("network", "backbone", "init_from", "pretrained", "image_size", "image_width", "epochs", "batch_size", "lr"),
        *("members", "num_workers", "threads", "cache_mb", "accelerator"),
    }
)
_KEPT_BACK: Final = frozenset(name for _, kind in _KINDS for name in kind.model_fields) - _OFFERED
_MEASURED_BY_FOLDS: Final = (Task.CSI, Task.LANDMARKS)
_DEFAULT_FOLDS: Final = 5


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, choices=[task.value for task in Task], help="what is to be answered")
    parser.add_argument("--output-dir", type=Path, metavar="RUNS", help="default runs/<task>-<version>")
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    parser.add_argument("--version", metavar="NAME", help="to make; default the next minor of the newest")
    parser.add_argument("--from", dest="from_file", type=Path, metavar="JSON", help="settings that `search` has found")
    parser.add_argument("--promote", action="store_true", help="let it serve if it is not worse than what serves")
    providers = ("onnxruntime", "tensorrt", "tensorrt_rtx")
    parser.add_argument("--provider", default=providers[0], choices=providers, help="default onnxruntime")
    parser.add_argument(
        "--precision",
        dest="engine_precisions",
        action="append",
        choices=["fp32", "fp16", "int8"],
        help="of the engine to build; may be repeated (default int8 of onnxruntime, fp16 of tensorrt)",
    )
    parser.add_argument("--golden-images", type=int, default=64, metavar="N", help="images to prove on (default 64)")
    parser.add_argument("--data-note", default="Not described.", metavar="TEXT", help="what the training images are")
    parser.add_argument("--licence", default="Not stated.", metavar="TEXT", help="terms of images and weights")
    add_settings(parser, _KINDS, without=_KEPT_BACK)


def _run(arguments: argparse.Namespace) -> None:
    task, output_dir = Task(arguments.task), arguments.output_dir
    given = {name: value for name, value in given_settings(arguments).items() if name != "output_dir"}
    given = {**({} if arguments.from_file is None else found_settings(arguments.from_file)), **given, "task": task}
    if arguments.golden_images < 1:
        raise ConfigurationError("--golden-images: must be at least 1")
    if "data_dir" not in given:
        raise ConfigurationError("--data-dir: say where the labelled training images are")
    store_path = arguments.store or load(Settings).model_store
    fit, folds = settings_of_steps(task, given, output_dir or Path("runs"))  # wrong values are said at once
    from models.store.store import ModelStore
    from training.regenerate import RegenerateRequest, next_version, regenerate

    store = ModelStore(store_path)
    if output_dir is None:
        output_dir = Path("runs") / f"{task}-{arguments.version or next_version(store, task)}"
        fit, folds = settings_of_steps(task, given, output_dir)
    usual = "int8" if arguments.provider == "onnxruntime" else "fp16"
    request = RegenerateRequest(
        task=task,
        fit=fit,
        folds=folds,
        output_dir=output_dir,
        version=arguments.version,
        provider=arguments.provider,
        precisions=tuple(dict.fromkeys(arguments.engine_precisions or [usual])),
        promote=arguments.promote,
        data_note=arguments.data_note,
        licence=arguments.licence,
        golden_images=arguments.golden_images,
    )
    print(regenerate(request, store).directory)


def settings_of_steps(task: Task, given: dict[str, Any], output_dir: Path) -> tuple[RunSettings, RunSettings | None]:
    """Give the settings of the run that is exported, and of the cross-validation that measures it.

    Raises:
        ConfigurationError: a setting is wrong, or not of this task.
    """
    own = {**given, "output_dir": output_dir / "run"}
    if task not in _MEASURED_BY_FOLDS:
        if "kfold" in given or "folds" in given:
            raise ConfigurationError(f"--kfold: a version of {task} is measured on the persons of --val-fraction")
        return chosen_settings(own), None
    if "val_fraction" in given:
        raise ConfigurationError(f"--val-fraction: a version of {task} is fitted to everyone, and measured by --kfold")
    folds = {"kfold": _DEFAULT_FOLDS, **given, "output_dir": output_dir / "folds"}
    everyone = {name: value for name, value in own.items() if name not in ("kfold", "folds")}
    return chosen_settings({**everyone, "val_fraction": 0}), chosen_settings(folds)


REGENERATE: Final = Command(
    "regenerate", "from images to a live engine: train, export, build, prove, promote", _EPILOG, _add_options, _run
)
