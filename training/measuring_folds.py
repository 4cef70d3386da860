"""The cross-validation that says what to expect of a network which was fitted to everyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from models.errors import ConfigurationError
from training.run import KFOLD_FILE, RunDirectory
from training.settings import RunSettings

S = TypeVar("S", bound=RunSettings)

CROSS_VALIDATION: Final = "cross_validation"
"""Name of the figures of networks that were fitted likewise."""

_MAY_DIFFER: Final = frozenset(
    {
        *("data_dir", "output_dir", "labels_csv", "weights", "init_from", "val_fraction", "kfold", "folds"),
        *("num_workers", "threads", "cache_mb", "accelerator", "devices", "seed"),
    }
)
"""Settings that do not say how a network is fitted."""


def measuring_folds(
    run: RunDirectory, measured_by: Path | None, settings: S, origin: Callable[[S], str | None]
) -> RunDirectory:
    """Give the cross-validation that measures a network which was fitted to everyone.

    Args:
        run: that nobody was held out of.
        measured_by: directory of the cross-validation.
        settings: of the run.
        origin: says in words what weights a run started from, so that a directory may have moved.

    Raises:
        ConfigurationError: none is named, it is not finished, was fitted otherwise, or on other images.
    """
    if measured_by is None:
        raise ConfigurationError(
            f"{run.path}: was fitted to everyone, so nobody is left to measure it on; name a finished cross-validation "
            "of the same settings with --measured-by, or train with --val-fraction"
        )
    folds = RunDirectory(measured_by)
    if not (folds.path / KFOLD_FILE).is_file():
        raise ConfigurationError(f"{folds.path}: not a finished cross-validation; train with --kfold")
    first = runs_of(folds)[0]
    own = settings.model_dump()
    likewise = first.read_settings_as(type(settings))
    other = likewise.model_dump()
    differing = sorted(name for name in own if name not in _MAY_DIFFER and own[name] != other[name])
    if origin(settings) != origin(likewise):
        differing.append("init_from")
    if differing:
        raise ConfigurationError(f"{folds.path}: was fitted otherwise than {run.path}: {', '.join(differing)}")
    if run.read_json("data.json")["digest"] != first.read_json("data.json")["digest"]:
        raise ConfigurationError(f"{folds.path}: was fitted to other images than {run.path}")
    return folds


def runs_of(folds: RunDirectory) -> list[RunDirectory]:
    """Give the runs of a finished cross-validation."""
    return [RunDirectory(folds.path / f"fold-{number}") for number in folds.read_json(KFOLD_FILE)["folds"]]


def origin_in_words(init_from: Path | None, published: str | None) -> str | None:
    """Say what weights started from: those of another run, published ones, or None at random."""
    if init_from is None:
        return published
    origin = RunDirectory(init_from)
    digest = origin.read_json("data.json")["digest"]
    return f"a network of task {origin.task}, fitted to images of digest {digest}"
