"""`python -m training regenerate`: from images to a live engine, step by step, going on where it was interrupted.

::

    <output-dir>/folds/              of tasks csi and landmarks: the cross-validation that measures
    <output-dir>/run/                the network that is exported; of the two-class tasks with persons held out
    <output-dir>/regenerate.json     what was asked for, which steps are done, the comparison, whether it serves

A step that is done is not done again. The version's name is fixed with the first step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.table import Table

from models.engines.built import FP32, engines_of
from models.errors import ConfigurationError, RadstreamError
from models.store.activation import Activation
from models.store.store import ModelStore, ModelVersion, StoreError
from models.tasks import Task
from training.engine_build import BuildRequest, build_and_publish, default_threads
from training.export import ExportRequest, export
from training.golden_set import read_golden_set
from training.measuring_folds import runs_of
from training.progress import CONSOLE
from training.regenerate_comparison import Basis, Comparison, compare_versions
from training.regenerate_measure import measure_version
from training.run import KFOLD_FILE, RunDirectory
from training.settings import RunSettings
from training.train import MAY_CHANGE_ON_RESUME, resume, train

STATE_NAME: Final = "regenerate.json"
FIRST_VERSION: Final = "1.0.0"
_NUMBERED: Final = re.compile(r"(\d+)\.(\d+)(\.\d+)?")
_MAY_CHANGE: Final = MAY_CHANGE_ON_RESUME | {"output_dir"}

T = TypeVar("T")


class NotPromoted(RadstreamError):
    """The new version stands in the store, and the former one serves on."""


@dataclass(frozen=True, slots=True)
class RegenerateRequest:
    """What is asked for.

    Attributes:
        fit: settings of the run that is exported.
        folds: settings of the cross-validation that measures it; None where the run itself holds persons out.
        version: name of the version; None takes the one of an interrupted regeneration, else the next minor.
        provider, precisions: of the engines to build; none builds none.
        promote: whether to let it serve.
    """

    task: Task
    fit: RunSettings
    folds: RunSettings | None
    output_dir: Path
    version: str | None
    provider: str
    precisions: tuple[str, ...]
    promote: bool
    data_note: str = "Not described."
    licence: str = "Not stated."
    golden_images: int = 64


def regenerate(request: RegenerateRequest, store: ModelStore) -> ModelVersion:
    """Train, evaluate, export, build, prove, compare and, where asked for, promote.

    Raises:
        ConfigurationError: something that is asked for does not fit; the message names the step and what to type.
        NotPromoted: it was to serve, and is worse, or no comparison is sound; the version stands in the store.
        RadstreamError: a step failed.
    """
    state = _State.begin(request, store)
    again = f"mend it and give the same command with --output-dir {request.output_dir} --version {state.version}"
    folds = None
    if request.folds is not None:
        wanted = request.folds
        folds = _step("train, cross-validation", again, lambda: _trained(wanted))
    run = _step("train", again, lambda: _trained(request.fit))
    version = _step("export", again, lambda: _exported(request, state, run, folds, store))
    for precision in request.precisions:
        without = "" if precision == FP32 else f"; or do without {precision}: --precision {FP32}"
        _step(f"build {request.provider} {precision}", again + without, partial(_built, request, version, precision))
    if store.active(request.task) == state.version:
        state.write(promoted=True)
        CONSOLE.print(f"{request.task} {state.version} serves already")
        return version
    held_out = [run] if folds is None else runs_of(folds)
    compared = _step("compare", again, lambda: _compare(request, version, held_out, store))
    state.write(comparison=compared.document(), promoted=False)
    CONSOLE.print(comparison_table(compared, f"{request.task} {state.version}"))
    CONSOLE.print(f"{compared.basis}: {compared.explanation}", soft_wrap=True)
    by_hand = f"python -m training promote --task {request.task} --version {state.version} --store {store.root}"
    if not request.promote:
        CONSOLE.print(f"to let it serve: {by_hand}", soft_wrap=True)
        return version
    _promote(store, request.task, state.version, compared, by_hand)
    state.write(promoted=True)
    return version


def next_version(store: ModelStore, task: Task) -> str:
    """Give the name of the next minor version: 1.4.2 becomes 1.5.0; names that are no numbers are passed over."""
    numbered = [match for name in store.versions(task) if (match := _NUMBERED.fullmatch(name))]
    if not numbered:
        return FIRST_VERSION
    newest = max(numbered, key=lambda match: (int(match[1]), int(match[2])))
    return f"{newest[1]}.{int(newest[2]) + 1}.0"


def comparison_table(compared: Comparison, name: str) -> Table:
    """Give each measure of both versions, its margin, and what came of it."""
    title = f"{name} beside {compared.active or 'nothing'}"
    table = Table("measure", "new", "active", "may fall behind by", "", title=title)
    for figure in compared.figures:
        sides = ("-" if value is None else f"{value:.4f}" for value in (figure.new, figure.active))
        verdict = "WORSE" if figure.is_worse else "not worse"
        better = "more" if figure.measure.more_is_better else "less"
        table.add_row(f"{figure.measure.name} ({better} is better)", *sides, f"{figure.measure.margin:g}", verdict)
    return table


@dataclass(slots=True)
class _State:
    """``regenerate.json``, written after every step."""

    path: Path
    document: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.document["version"])

    @classmethod
    def begin(cls, request: RegenerateRequest, store: ModelStore) -> _State:
        """Read the state of an interrupted regeneration, or begin one.

        Raises:
            ConfigurationError: the directory is that of another regeneration, or the version stands already.
        """
        path = request.output_dir / STATE_NAME
        asked = {
            "task": str(request.task),
            "store": str(store.root.resolve()),
            "settings": {
                name: None if settings is None else settings.model_dump(mode="json", exclude=set(_MAY_CHANGE))
                for name, settings in (("run", request.fit), ("folds", request.folds))
            },
        }
        if path.is_file():
            state = cls(path, RunDirectory(request.output_dir).read_json(STATE_NAME))
            differing = sorted(name for name in asked if state.document.get(name) != asked[name])
            if request.version not in (None, state.document.get("version")):
                differing.append("version")
            begun = any((request.output_dir / part / "config.json").is_file() for part in ("run", "folds"))
            if differing and begun:
                told = f"was begun with another {', '.join(differing)}; give another --output-dir"
                raise ConfigurationError(f"{request.output_dir}: {told}, or what it was begun with")
            if not differing:
                CONSOLE.print(f"{request.output_dir}: going on with version {state.version}")
                return state
            path.unlink()  # nothing was trained yet: what was wrong with the settings is mended now
        version = request.version or next_version(store, request.task)
        if version in store.versions(request.task):
            raise StoreError(f"{store.root / request.task / version}: stands already; choose another --version")
        RunDirectory.create(request.output_dir)
        state = cls(path, {**asked, "version": version})
        state.write()
        return state

    def write(self, **changes: Any) -> None:
        self.document.update(changes)
        whole = self.path.with_suffix(".tmp")
        whole.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        whole.replace(self.path)


def _step(name: str, again: str, work: Callable[[], T]) -> T:
    CONSOLE.print(f"step: {name}")
    try:
        return work()
    except ConfigurationError as error:
        raise ConfigurationError(f"step {name}: {error}; {again}") from error
    except RadstreamError as error:
        raise RadstreamError(f"step {name}: {error}; {again}") from error


def _trained(settings: RunSettings) -> RunDirectory:
    """Train, go on training, or give what is finished."""
    run = RunDirectory(settings.output_dir)
    if not (run.path / "config.json").is_file():
        return train(settings)
    if settings.kfold is not None:
        finished = (run.path / KFOLD_FILE).is_file()
    else:
        finished = run.is_finished
        if not (run.path / "data.json").is_file():  # interrupted before it knew its images
            (run.path / "config.json").unlink()
            return train(settings)
    changes = {name: getattr(settings, name) for name in settings.model_fields_set & MAY_CHANGE_ON_RESUME}
    return run if finished else resume(run.path, changes)


def _exported(
    request: RegenerateRequest, state: _State, run: RunDirectory, folds: RunDirectory | None, store: ModelStore
) -> ModelVersion:
    if state.version in store.versions(request.task):
        version = store.open(request.task, state.version)
        if (
            not state.document.get("exporting")
            or version.manifest.training_data.get("digest") != (run.read_json("data.json")["digest"])
        ):
            raise StoreError(f"{version.directory}: stands already, and is not of {run.path}; begin with another name")
        return version
    state.write(exporting=True)
    measured_by = None if folds is None else folds.path
    asked = ExportRequest(state.version, request.fit.data_dir, request.data_note, request.licence, measured_by)
    return export(run, asked, store)


def _built(request: RegenerateRequest, version: ModelVersion, precision: str) -> None:
    """Build one engine and prove it, unless it stands."""
    wanted = (request.provider, precision)
    if wanted in [(engine.provider, engine.precision) for engine in engines_of(version)]:
        return
    options: dict[str, Any] = {"labels_csv": request.fit.labels_csv}
    if hasattr(request.fit, "format"):
        options["format"] = request.fit.format
    golden = read_golden_set(version.manifest, request.fit.data_dir, request.golden_images, **options)
    threads = default_threads() if request.fit.threads is None else (request.fit.threads,)
    build_and_publish(version, BuildRequest(request.provider, precision, threads=threads), golden)


def _compare(
    request: RegenerateRequest, version: ModelVersion, held_out: list[RunDirectory], store: ModelStore
) -> Comparison:
    name = store.active(request.task)
    active = None if name is None else store.open(request.task, name)
    return compare_versions(version, active, lambda serving: measure_version(serving, held_out, request.fit.data_dir))


def _promote(store: ModelStore, task: Task, version: str, compared: Comparison, by_hand: str) -> None:
    """Let the version serve, unless it is worse or another one serves by now."""
    if not compared.not_worse:
        why = "no comparison is sound" if compared.basis is Basis.UNSOUND else f"it is worse than {compared.active}"
        raise NotPromoted(f"{task} {version} is not promoted, {why}; to let it serve all the same: {by_hand}")

    def change(now: Activation) -> Activation:
        if now.active != compared.active:
            raise StoreError(f"{task}: {now.active} serves by now, not {compared.active}; give the command again")
        return now.with_active(version)

    store.change(task, change)
    CONSOLE.print(f"{task} {version} serves; back with: python -m training rollback --task {task} --store {store.root}")
