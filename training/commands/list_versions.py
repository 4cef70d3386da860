"""``python -m training list``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from models.settings import Settings, load
from models.tasks import Task
from training.commands.command import Command

if TYPE_CHECKING:
    from rich.table import Table

    from training.results import Result, VersionRow

_EPILOG: Final = """example:
  python -m training list
  python -m training list --runs runs --json

Shows the versions of the model store, which of them serves, what was measured, and the engines that were built (a star
marks the one that a worker takes by itself). With --runs also the runs,
evaluations and cross-validations below a directory."""

_PREFERRED_SPLITS: Final = ("test", "validation_shifted", "validation_perturbed", "validation", "cross_validation")
_FIGURES: Final = {"accuracy": "accuracy", "ROC-AUC": "roc_auc", "kappa": "kappa_quadratic", "MRE px": "mre_px"}
"""Columns and the measures in them; a network has those of its task."""
_BYTES_PER_MB: Final = 1e6


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", type=Task, choices=list(Task), metavar="TASK", help="versions of this task alone")
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="show also what was measured below this directory")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> None:
    store = arguments.store or load(Settings).model_store
    from training.results import results_below, versions_of_store

    versions = versions_of_store(store, arguments.task)
    results = None if arguments.runs is None else results_below(arguments.runs)
    if arguments.json:
        _print_json(versions, results)
    else:
        _print_tables(store, versions, results)


def _print_json(versions: list[VersionRow], results: list[Result] | None) -> None:
    import json
    from dataclasses import asdict

    document: dict[str, Any] = {"versions": [asdict(row) for row in versions]}
    if results is not None:
        document["runs"] = [asdict(result) for result in results]
    print(json.dumps(document, indent=1))


def _print_tables(store: Path, versions: list[VersionRow], results: list[Result] | None) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(_version_table(store, versions) if versions else f"{store}: no version")
    if results is not None:
        console.print(_result_table(results) if results else "no results below the directory of runs")


def _version_table(store: Path, versions: list[VersionRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"model store {store}", title_justify="left")
    with_engines = ("engines",) if any(row.engines for row in versions) else ()
    for name in ("task", "version", "serves", "network", "measured on", *_FIGURES, "MB", "created", *with_engines):
        table.add_column(name, justify="right" if name in (*_FIGURES, "MB") else "left")
    for row in versions:
        split = next((name for name in _PREFERRED_SPLITS if name in row.metrics), next(iter(row.metrics), None))
        metrics = row.metrics.get(split or "", {})
        state = row.network or "-"
        if row.fault is not None:
            state = f"DAMAGED: {row.fault}"
        cells = [row.task, row.version, row.serves, state, split or "-"]
        cells += [*(_figure(metrics, name) for name in _FIGURES.values()), f"{row.size_bytes / _BYTES_PER_MB:.1f}"]
        cells += [(row.created or "-")[:10], *("\n".join(row.engines) for _ in with_engines)]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _result_table(results: list[Result]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="runs", title_justify="left")
    for name in ("run", "kind", "network", "epochs", "measured on", "images", *_FIGURES):
        table.add_column(name, justify="right" if name in ("epochs", "images", *_FIGURES) else "left")
    for result in results:
        cells = [result.name, result.kind, result.network or "-", str(result.epochs or "-"), result.split]
        cells += [str(result.metrics.get("n", "-")), *(_figure(result.metrics, name) for name in _FIGURES.values())]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _figure(metrics: dict[str, Any], name: str) -> str:
    value = metrics.get(name)
    return "-" if value is None else f"{value:.4f}"


LIST: Final = Command("list", "show the versions of the model store, and runs", _EPILOG, _add_options, _run)
