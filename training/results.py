"""Collects what was measured: in run directories, evaluations, cross-validations and model stores. Reads JSON only.

================================ ======================================================================================
directory                        how it is known
================================ ======================================================================================
run                              ``config.json`` beside ``metrics_<split>.json``
evaluation                       ``evaluation_<split>.json`` beside ``metrics_<split>.json``
cross-validation                 ``metrics_kfold.json``; its pooled measures count, not each fold's
version of a store               ``manifest.json`` below ``<store>/<task>/<version>``
report without weights           any of the first three below ``<store>/<task>/reports``
================================ ======================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.engines.built import engines_of
from models.errors import ConfigurationError
from models.store.activation import Activation
from models.store.store import ModelStore, open_version
from models.tasks import Task
from training.classes import CLASSES
from training.run import KFOLD_FILE

REPORTS_FOLDER: Final = "reports"
"""Of a task in a store: runs that were measured, without their weights."""

_PREFIX: Final = "metrics_"


@dataclass(frozen=True, slots=True)
class Result:
    """One network measured on one split.

    Attributes:
        name: of run, evaluation or version.
        kind: ``run``, ``evaluation``, ``cross-validation`` or ``version``.
        split: on which it was measured.
        network: name in the table of networks; None where nothing says so.
        pretrained: whether it began with published weights; None where nothing says so.
        epochs: how many were fitted, of a cross-validation the most of any fold; None where nothing says so.
        data_digest: of the images that it was measured on; None where only the split's name is known.
        metrics: see `training.evaluation.classification_metrics`, of task csi `training.zone_evaluation.zone_metrics`,
            of task landmarks `training.landmark_evaluation.landmark_metrics`.
        task: what is answered; None where nothing says so.
    """

    name: str
    kind: str
    split: str
    network: str | None
    pretrained: bool | None
    epochs: int | None
    data_digest: str | None
    metrics: dict[str, Any]
    task: str | None = None


def collect(paths: Sequence[Path], store: Path | None = None, split: str | None = None) -> list[Result]:
    """Collect every result in and below the directories, and those of a model store.

    Args:
        paths: directories; a run, an evaluation, a cross-validation or any directory above such.
        store: model store, None for none.
        split: this split alone.

    Raises:
        ConfigurationError: a directory is missing, or a file in it is not what its name says.
    """
    results = [result for path in paths for result in results_below(path)]
    if store is not None:
        results += results_of_store(store)
    return [result for result in results if split is None or result.split == split]


def results_below(directory: Path) -> list[Result]:
    """Collect what was measured in and below one directory, in the order of the paths.

    Raises:
        ConfigurationError: it is missing, or a file in it is not what its name says.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: no such directory")
    measured = sorted({path.parent for path in directory.rglob(f"{_PREFIX}*.json")})
    validated = [path for path in measured if (path / KFOLD_FILE).is_file()]
    results: list[Result] = []
    for path in measured:
        name = path.resolve().name if path == directory else path.relative_to(directory).as_posix()
        if path in validated:
            results += _of_cross_validation(path, name)
        elif path.parent not in validated:
            results += _of_directory(path, name)
    return results


def _of_directory(path: Path, name: str) -> Iterator[Result]:
    """Read a run or an evaluation; each split has a file, and may have been evaluated on its own."""
    for file in sorted(path.glob(f"{_PREFIX}*.json")):
        split = file.stem.removeprefix(_PREFIX)
        metrics = read_object(file)
        evaluated, config = path / f"evaluation_{split}.json", path / "config.json"
        if evaluated.is_file():
            facts = read_object(evaluated)
            digest = facts.get("data", {}).get("digest")
            yield _result(facts.get("subject", name), "evaluation", split, facts, facts.get("epochs"), digest, metrics)
        else:
            facts = read_object(config) if config.is_file() else {}
            yield _result(name, "run", split, facts, epochs_of(path), _validation_digest(path), metrics)


def _of_cross_validation(path: Path, name: str) -> Iterator[Result]:
    document = read_object(path / KFOLD_FILE)
    config = path / "config.json"
    facts = read_object(config) if config.is_file() else {}
    folds = [path / f"fold-{fold}" for fold in document.get("folds", [])]
    epochs = max((known for fold in folds if (known := epochs_of(fold)) is not None), default=facts.get("epochs"))
    for split, measured in document.get("splits", {}).items():
        shown = f"{name} ({len(folds)} folds)"
        yield _result(shown, "cross-validation", split, facts, epochs, None, measured["pooled"])


def _result(
    name: str,
    kind: str,
    split: str,
    facts: dict[str, Any],
    epochs: int | None,
    digest: str | None,
    metrics: dict[str, Any],
) -> Result:
    network = facts.get("network") or facts.get("backbone")
    return Result(name, kind, split, network, facts.get("pretrained"), epochs, digest, metrics, facts.get("task"))


def results_of_store(root: Path) -> list[Result]:
    """Collect what the manifests of a store say, and the reports that it keeps without weights.

    Raises:
        ConfigurationError: a version is damaged, or a report cannot be read.
    """
    store = ModelStore(root)
    results: list[Result] = []
    for task in CLASSES:
        for version in store.versions(task):
            results += _of_version(root / task / version)
        reports = root / task / REPORTS_FOLDER
        results += results_below(reports) if reports.is_dir() else []
    return results


def _of_version(directory: Path) -> Iterator[Result]:
    manifest = open_version(directory).manifest
    data = manifest.training_data
    for split, metrics in manifest.metrics.items():
        yield Result(
            name=f"{manifest.task} {manifest.version}",
            kind="version",
            split=split,
            network=manifest.network,
            pretrained=bool(data.get("pretrained")),
            epochs=epochs_of(directory / "report"),
            data_digest=None,
            metrics=metrics,
            task=manifest.task,
        )


def epochs_of(directory: Path) -> int | None:
    """Give how many epochs were fitted, by the log of a run or a report; None where there is none."""
    for name in ("epochs.jsonl", "log.jsonl"):
        try:
            lines = (directory / name).read_text(encoding="utf-8").splitlines()
            return max((int(json.loads(line)["epoch"]) for line in lines if line.strip()), default=None)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _validation_digest(run: Path) -> str | None:
    """Tell validation splits apart: the same data, split alike."""
    try:
        data = read_object(run / "data.json")
    except ConfigurationError:
        return None
    return f"{data.get('digest')} {json.dumps(data.get('split'), sort_keys=True)}"


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigurationError: the file is missing or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: is not JSON") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: is not a JSON object")
    return document


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of a store, as `list` shows it.

    Attributes:
        serves: its roles, of ``active``, ``canary`` and ``shadow``, with the percentage of a canary; or empty.
        network_bytes: size of ``network.onnx``.
        size_bytes: of all its files.
        fault: why it cannot be used; None when it can.
        engines: built and proven from it, provider and precision; a star marks those that were chosen.
    """

    task: Task
    version: str
    serves: str
    network: str | None
    metrics: dict[str, dict[str, Any]]
    network_bytes: int
    size_bytes: int
    created: str | None
    fault: str | None
    engines: tuple[str, ...] = ()


def versions_of_store(root: Path, task: Task | None = None) -> list[VersionRow]:
    """List the versions of a store, checked as a worker checks them; a damaged one is listed with its fault.

    Raises:
        ConfigurationError: the store cannot be read.
    """
    if not root.is_dir():
        raise ConfigurationError(f"{root}: no such model store")
    store = ModelStore(root)
    rows = []
    for each in Task if task is None else (task,):
        activation = store.activation(each)
        rows += [
            _version_row(root / each / name, each, name, _roles(activation, name)) for name in store.versions(each)
        ]
    return rows


def _roles(activation: Activation, version: str) -> str:
    roles = activation.roles_of(version)
    return ", ".join(f"canary {activation.canary_percent:g}%" if role == "canary" else role for role in roles)


def _version_row(directory: Path, task: Task, name: str, serves: str) -> VersionRow:
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    total = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    sized = (sizes.get("network.onnx", 0), total)
    try:
        version = open_version(directory)
    except ConfigurationError as error:
        return VersionRow(task, name, serves, None, {}, *sized, None, str(error).removeprefix(f"{directory}/"))
    manifest = version.manifest
    engines = tuple(f"{each.provider} {each.precision}{'*' if each.chosen else ''}" for each in engines_of(version))
    created = manifest.created.isoformat()
    return VersionRow(task, name, serves, manifest.network, manifest.metrics, *sized, created, None, engines)
