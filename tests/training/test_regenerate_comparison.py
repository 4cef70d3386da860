"""When a new version may take over: margins, directions, and which comparisons are sound."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.pixels.spec import InputSpec
from models.store.manifest import Manifest
from models.store.store import ModelVersion
from models.tasks import Task
from training.regenerate_comparison import MEASURES, Basis, Figure, Measure, compare_versions

DIGEST = "ab" * 32
SPLIT = {"by": "person", "seed": 1, "validation_fraction": 0.2}
HELD_OUT = {"images": 40, "persons": 30}


def version_of(
    directory: Path, name: str, metrics: dict[str, Any], task: Task = Task.PNEUMONIA, folds: Any = None, **data: Any
) -> ModelVersion:
    """A version with these figures; `data` is what its manifest says of its training."""
    told = {"digest": DIGEST, "split": SPLIT, "counts": {"validation": HELD_OUT}, **data}
    manifest = Manifest(
        task=task,
        network="n",
        version=name,
        labels=("NORMAL", "PNEUMONIA"),
        input_spec=InputSpec(height=24, width=16),
        output_names=("probability", "cam"),
        files={"network.onnx": "0" * 64},
        licence="test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0",
    ).model_copy(update={"metrics": metrics, "training_data": told})
    path = directory / name
    (path / "report").mkdir(parents=True)
    if folds is not None:
        (path / "report" / "cross_validation.json").write_text(json.dumps(folds))
    return ModelVersion(path, manifest)


def held_out(roc_auc: float | None, accuracy: float, n: int = 40) -> dict[str, Any]:
    return {"validation": {"roc_auc": roc_auc, "accuracy": accuracy, "n": n}}


def never(version: ModelVersion) -> Mapping[str, Any]:
    raise AssertionError("the active version was asked where its answers would be too good")


@pytest.mark.parametrize(
    ("more", "new", "active", "worse"),
    [
        (True, 0.90, 0.91, False),  # behind by exactly the margin
        (True, 0.89, 0.91, True),
        (True, 0.99, 0.91, False),
        (False, 0.92, 0.91, False),
        (False, 0.93, 0.91, True),
        (False, 0.10, 0.91, False),
        (True, None, 0.91, True),
        (True, 0.5, None, False),
        (True, None, None, False),
    ],
)
def test_a_figure_may_fall_behind_by_its_margin_and_no_more(
    more: bool, new: float | None, active: float | None, worse: bool
) -> None:
    assert Figure(Measure("m", more, 0.01), new, active).is_worse is worse


def test_every_task_has_two_measures() -> None:
    assert {task: [measure.name for measure in measures] for task, measures in MEASURES.items()} == {
        Task.PNEUMONIA: ["roc_auc", "accuracy"],
        Task.NORMALITY: ["roc_auc", "accuracy"],
        Task.CSI: ["kappa_quadratic", "mae_zone"],
        Task.LANDMARKS: ["mre_px", "cobb_smape"],
    }


def test_where_nothing_serves_nothing_is_in_the_way(tmp_path: Path) -> None:
    compared = compare_versions(version_of(tmp_path, "1", held_out(0.6, 0.6)), None, never)
    assert (compared.basis, compared.not_worse) == (Basis.NOTHING_SERVES, True)


@pytest.mark.parametrize(
    ("roc_auc", "accuracy", "expected"), [(0.9, 0.9, True), (0.89, 0.9, False), (0.9, 0.88, False)]
)
def test_the_same_held_out_persons_are_compared_by_what_was_recorded(
    tmp_path: Path, roc_auc: float, accuracy: float, expected: bool
) -> None:
    new, active = (
        version_of(tmp_path, "2", held_out(roc_auc, accuracy)),
        version_of(tmp_path, "1", held_out(0.9, 0.9)),
    )
    compared = compare_versions(new, active, never)
    assert (compared.basis, compared.not_worse, compared.images) == (Basis.RECORDED, expected, 40)
    assert compared.document()["not_worse"] is expected


@pytest.mark.parametrize(
    "change", [{"split": {**SPLIT, "seed": 2}}, {"counts": {"validation": {"images": 41}}}, {"digest": None}]
)
def test_the_same_images_split_otherwise_cannot_be_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    new = version_of(tmp_path, "2", held_out(1.0, 1.0))
    compared = compare_versions(new, version_of(tmp_path, "1", held_out(0.5, 0.5), **change), never)
    assert (compared.basis, compared.not_worse) == (Basis.UNSOUND, False)


def test_a_version_fitted_to_other_images_answers_the_held_out_persons(tmp_path: Path) -> None:
    new = version_of(tmp_path, "2", held_out(0.9, 0.9))
    active = version_of(tmp_path, "1", held_out(1.0, 1.0), digest="cd" * 32)
    asked: list[str] = []

    def measure(version: ModelVersion) -> Mapping[str, Any]:
        asked.append(version.manifest.version)
        return {"roc_auc": 0.85, "accuracy": 0.95}

    compared = compare_versions(new, active, measure)
    assert (compared.basis, asked) == (Basis.MEASURED, ["1"])
    assert [figure.is_worse for figure in compared.figures] == [False, True]
    assert not compared.not_worse


def test_figures_that_neither_or_one_alone_has_prove_nothing(tmp_path: Path) -> None:
    new = version_of(tmp_path, "2", {"validation": {"n": 40}})
    assert not compare_versions(new, version_of(tmp_path, "1", {"validation": {"n": 40}}), never).not_worse


FOLDS = {"folds": [0, 1], "of": 5, "settings": {"seed": 3}}


@pytest.mark.parametrize(
    ("folds", "basis"),
    [
        (FOLDS, Basis.RECORDED),
        ({**FOLDS, "folds": [0]}, Basis.UNSOUND),
        ({**FOLDS, "of": 4}, Basis.UNSOUND),
        ({**FOLDS, "settings": {"seed": 4}}, Basis.UNSOUND),
        (None, Basis.UNSOUND),
    ],
)
def test_cross_validations_are_compared_where_their_folds_agree(tmp_path: Path, folds: Any, basis: Basis) -> None:
    def metrics(kappa: float, mae: float) -> dict[str, Any]:
        return {"cross_validation": {"kappa_quadratic": kappa, "mae_zone": mae, "n": 139}}

    new = version_of(tmp_path, "2", metrics(0.73, 0.48), Task.CSI, FOLDS)
    compared = compare_versions(new, version_of(tmp_path, "1", metrics(0.74, 0.47), Task.CSI, folds), never)
    assert (compared.basis, compared.not_worse) == (basis, basis is Basis.RECORDED)
