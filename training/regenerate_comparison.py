"""Whether a new version is worse than the one that serves, measured on the same persons, neither fitted to them.

A version that was fitted to the persons it is measured on looks too good, so there are two sound comparisons only:

- *recorded*: both manifests hold figures of held-out persons of the same images, split alike;
- *measured*: the active version was fitted to other images, by the digest in its manifest, and answers those that the
  new one held out. Persons of its training may be among them: its figures can only be too good, so that a new version
  which is not worse than them is not worse at all; one that is worse may still be the better one.

With neither nothing is claimed, and a person decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from models.store.store import ModelVersion
from models.tasks import Task
from training.measuring_folds import CROSS_VALIDATION

VALIDATION: Final = "validation"
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Measure:
    """A primary measure of a task; a version is worse when it falls behind by more than `margin`."""

    name: str
    more_is_better: bool
    margin: float


_CLASSES: Final = (Measure("roc_auc", True, 0.005), Measure("accuracy", True, 0.01))
MEASURES: Final[Mapping[Task, tuple[Measure, ...]]] = {
    Task.PNEUMONIA: _CLASSES,
    Task.NORMALITY: _CLASSES,
    Task.CSI: (Measure("kappa_quadratic", True, 0.02), Measure("mae_zone", False, 0.02)),
    Task.LANDMARKS: (Measure("mre_px", False, 0.5), Measure("cobb_smape", False, 0.5)),
}
"""Margins are about what fitting the same network again with another seed moves; `mre_px` in pixels of a letterbox of
512, `cobb_smape` in percent."""


class Basis(StrEnum):
    """What a comparison rests on."""

    NOTHING_SERVES = "nothing serves"
    RECORDED = "recorded"
    MEASURED = "measured"
    UNSOUND = "none is sound"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of both versions; None where it is not defined."""

    measure: Measure
    new: float | None
    active: float | None

    @property
    def is_worse(self) -> bool:
        """Whether the new version falls behind by more than the margin; an undefined figure of it alone does."""
        if self.new is None or self.active is None:
            return self.new is None and self.active is not None
        behind = self.active - self.new if self.measure.more_is_better else self.new - self.active
        return behind > self.measure.margin + _ROUNDING


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and what came of it.

    Attributes:
        active: name of the version that serves.
        explanation: which persons, and what that means, in words.
        images: number that both answered.
    """

    basis: Basis
    active: str | None
    explanation: str
    images: int = 0
    figures: tuple[Figure, ...] = ()

    @property
    def not_worse(self) -> bool:
        """Whether the new version may take over."""
        if self.basis is Basis.NOTHING_SERVES:
            return True
        known = any(figure.new is not None and figure.active is not None for figure in self.figures)
        return known and not any(figure.is_worse for figure in self.figures)

    def document(self) -> dict[str, Any]:
        """Give a JSON object."""
        return {
            "basis": str(self.basis),
            "active": self.active,
            "explanation": self.explanation,
            "images": self.images,
            "figures": [
                {
                    "measure": figure.measure.name,
                    "new": figure.new,
                    "active": figure.active,
                    "better": "more" if figure.measure.more_is_better else "less",
                    "margin": figure.measure.margin,
                    "worse": figure.is_worse,
                }
                for figure in self.figures
            ],
            "not_worse": self.not_worse,
        }


def compare_versions(
    new: ModelVersion, active: ModelVersion | None, measure_active: Callable[[ModelVersion], Mapping[str, Any]]
) -> Comparison:
    """Compare a new version with the one that serves.

    Args:
        new: just exported.
        active: the one that serves; None where none does.
        measure_active: gives the active version's measures on the persons that the new one held out; it is asked only
            where that is sound.
    """
    if active is None:
        return Comparison(Basis.NOTHING_SERVES, None, "no version serves yet, so there is nothing to be worse than")
    name, figures_of_new = active.manifest.version, _held_out_figures(new)
    persons = persons_measured(new)
    if persons is not None and persons == persons_measured(active):
        why = f"figures in both manifests, on the same persons, held out of {active.manifest.version} as well"
        return _compared(Basis.RECORDED, new, name, why, figures_of_new, _held_out_figures(active))
    digests = [version.manifest.training_data.get("digest") for version in (new, active)]
    if None in digests or digests[0] == digests[1]:
        why = (
            f"{name} was fitted to these images, split otherwise; on them its own answers are too good. "
            "Hold out its persons: give the seed, val-fraction or kfold that it was made with"
            if None not in digests
            else f"{name} does not say to which images it was fitted"
        )
        return Comparison(Basis.UNSOUND, name, why)
    why = (
        f"{name}, fitted to other images, answered the persons that were held out here; "
        "if it knew some of them it looks too good, never too bad"
    )
    return _compared(Basis.MEASURED, new, name, why, figures_of_new, measure_active(active))


def persons_measured(version: ModelVersion) -> dict[str, Any] | None:
    """Give what decides on which persons a version was measured: images and split; None where it does not say."""
    data, metrics = version.manifest.training_data, version.manifest.metrics
    digest = data.get("digest")
    if digest is None:
        return None
    if VALIDATION in metrics:
        held_out = {"split": data.get("split"), "counts": data.get("counts", {}).get(VALIDATION)}
        return {"digest": digest, "images": metrics[VALIDATION].get("n"), **held_out}
    if CROSS_VALIDATION not in metrics:
        return None
    try:
        told = json.loads((version.directory / "report" / "cross_validation.json").read_text(encoding="utf-8"))
        folds = {"folds": told["folds"], "of": told["of"], "seed": told["settings"]["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {"digest": digest, "images": metrics[CROSS_VALIDATION].get("n"), **folds}


def _held_out_figures(version: ModelVersion) -> Mapping[str, Any]:
    metrics = version.manifest.metrics
    return metrics.get(VALIDATION) or metrics.get(CROSS_VALIDATION) or {}


def _compared(
    basis: Basis,
    new: ModelVersion,
    name: str,
    explanation: str,
    figures_of_new: Mapping[str, Any],
    figures_of_active: Mapping[str, Any],
) -> Comparison:
    figures = tuple(
        Figure(measure, figures_of_new.get(measure.name), figures_of_active.get(measure.name))
        for measure in MEASURES[new.manifest.task]
    )
    return Comparison(basis, name, explanation, int(figures_of_new.get("n") or 0), figures)
