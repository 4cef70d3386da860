"""`python -m training compare`: results of many networks in one table, best accuracy first: CSV, Markdown, a plot.

::

    comparison.csv      every figure, one line per network and split
    comparison.md       the table as one reads it, then what each question of `CATEGORIES` has for rows
    comparison.png      accuracy and area under the ROC curve, with their 95 % intervals
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from models.errors import ConfigurationError
from models.tasks import Task
from training.results import Result

if TYPE_CHECKING:
    from models.networks.table import NetworkEntry

CATEGORIES: Final = {
    "history": "History: AlexNet, VGG, ResNet",
    "attention": "Attention: ResNet-18 with and without CBAM",
    "ablation": "Ablation: our own ResNet-18 with and without CBAM",
    "transfer": "Transfer: pretrained weights or random ones",
}
"""Questions that a row helps to answer, by name; which network belongs where stands in the table of networks."""

FIGURES: Final = ("accuracy", "precision", "recall", "f1", "roc_auc")
WITH_INTERVAL: Final = ("accuracy", "roc_auc")

_HEAD: Final = (
    *("run", "network", "category", "parameters", "pretrained", "epochs", "split", "images"),
    *("accuracy", "precision", "recall", "F1", "ROC-AUC"),
)


def compare(results: Sequence[Result], output_dir: Path) -> list[Result]:
    """Write the three files; give the results, best accuracy first.

    Raises:
        ConfigurationError: there is no result, or the directory cannot be made.
    """
    ranked = rank([result for result in results if result.task not in (Task.CSI, Task.LANDMARKS)])
    if not ranked:
        only = "; networks of tasks csi and landmarks are not compared here, see `list`" if results else ""
        raise ConfigurationError(f"nothing to compare: no metrics_<split>.json of two classes found{only}")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{output_dir}: cannot make the output directory: {error.strerror}") from error
    _write_csv(output_dir / "comparison.csv", ranked)
    (output_dir / "comparison.md").write_text(as_markdown(ranked), encoding="utf-8")
    from training.plots import ComparedRow, draw_comparison

    rows = [
        ComparedRow(_label(result), result.split, {name: _with_ends(result, name) for name in WITH_INTERVAL})
        for result in ranked
    ]
    draw_comparison(output_dir / "comparison.png", rows)
    return ranked


def rank(results: Sequence[Result]) -> list[Result]:
    """Order by accuracy, then by area under the curve, best first; equal ones by name and split."""

    def key(result: Result) -> tuple[float, float, str, str]:
        accuracy, auc = (result.metrics.get(name) or 0.0 for name in ("accuracy", "roc_auc"))
        return -accuracy, -auc, result.name, result.split

    return sorted(results, key=key)


def categories_of(result: Result) -> tuple[str, ...]:
    """Give the questions that a row helps to answer, in the order of `CATEGORIES`."""
    entry = _entry(result.network)
    return tuple(name for name in CATEGORIES if entry is not None and name in entry.category)


def _entry(network: str | None) -> NetworkEntry | None:
    from models.networks.table import NETWORKS

    return NETWORKS.get(network or "")


@cache
def parameters_of(network: str | None) -> int | None:
    """Give the number of a network's parameters with two classes; None for a name that the table does not know."""
    entry = _entry(network)
    if entry is None:
        return None
    import torch

    with torch.device("meta"):  # shapes alone: VGG-16 would take half a gigabyte
        return sum(parameter.numel() for parameter in entry.build(2, False).parameters())


def _label(result: Result) -> str:
    network = "" if result.network is None or result.network in result.name else f", {result.network}"
    return f"{result.name}{network}"


def _with_ends(result: Result, name: str) -> tuple[float | None, float | None, float | None]:
    low, high = result.metrics.get("intervals", {}).get(name) or (None, None)
    return result.metrics.get(name), low, high


def _write_csv(path: Path, results: Sequence[Result]) -> None:
    ends = [f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high")]
    facts = ["run", "kind", "network", "category", "parameters", "pretrained", "epochs", "split", "images"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*facts, *FIGURES, *ends, "data_digest"])
        for result in results:
            row: list[Any] = [result.name, result.kind, result.network, " ".join(categories_of(result))]
            row += [parameters_of(result.network), result.pretrained, result.epochs, result.split]
            row += [result.metrics.get("n"), *(result.metrics.get(name) for name in FIGURES)]
            row += [end for name in WITH_INTERVAL for end in _with_ends(result, name)[1:]]
            writer.writerow(["" if value is None else value for value in [*row, result.data_digest]])


def _cells(result: Result) -> list[str]:
    parameters = parameters_of(result.network)
    pretrained = {True: "yes", False: "no", None: "-"}[result.pretrained]
    return [
        result.name,
        result.network or "-",
        ", ".join(categories_of(result)) or "-",
        "-" if parameters is None else f"{parameters:,}",
        pretrained,
        "-" if result.epochs is None else str(result.epochs),
        result.split,
        str(result.metrics.get("n", "-")),
        *(_figure(result, name) for name in FIGURES),
    ]


def _figure(result: Result, name: str) -> str:
    value, low, high = _with_ends(result, name)
    if value is None:
        return "-"
    interval = f" ({low:.4f} to {high:.4f})" if name in WITH_INTERVAL and low is not None else ""
    return f"{value:.4f}{interval}"


def as_markdown(results: Sequence[Result]) -> str:
    """Give the table and, for each question with at least two rows, what they say."""
    lines = ["# Comparison", "", "Sorted by accuracy. In brackets the 95 % interval, persons resampled.", ""]
    lines += ["| " + " | ".join(_HEAD) + " |", "| --- " * 3 + "| ---: " * 3 + "| --- " + "| ---: " * 6 + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(result)) + " |" for result in results]
    if note := caution(results):
        lines += ["", note]
    for name, title in CATEGORIES.items():
        members = [result for result in results if name in categories_of(result)]
        members.sort(key=lambda member: member.split)  # stable: best accuracy first within a split
        if len(members) > 1:
            lines += ["", f"## {title}", ""]
            lines += [
                f"- {_label(member)} ({'pretrained' if member.pretrained else 'from random weights'}), {member.split}: "
                f"accuracy {_figure(member, 'accuracy')}, ROC-AUC {_figure(member, 'roc_auc')}"
                for member in members
            ]
    return "\n".join(lines) + "\n"


def caution(results: Sequence[Result]) -> str:
    """Say when rows were not measured on the same images; empty when they were, as far as is known."""
    if len({(result.split, result.metrics.get("n"), result.data_digest) for result in results}) == 1:
        return ""
    return "Not all rows are of the same images, as far as is known: only those of one split of one set can be ranked."


def print_table(results: Sequence[Result]) -> None:
    """Print the table to stdout; wide, where nobody watches."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=230)
    table = Table(title="sorted by accuracy", title_justify="left")
    for name in _HEAD:
        numeric = name in ("parameters", "epochs", "images") or name in _HEAD[-5:]
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric or name == "split")
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    if note := caution(results):
        console.print(note)
