"""The pictures of an evaluation: confusion matrix, ROC, precision and recall, calibration, Grad-CAM samples.

Drawn on figures of their own, without pyplot: no window, no state between two pictures, the same bytes for the same
figures. Blue is the positive class, orange the negative; everything that is printed in colour is also printed in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from models.identity import DISCLAIMER
from training.evaluation import Floats, Labels, calibration_bins

BLUE: Final = "#1f5fa8"
ORANGE: Final = "#d9730d"
GREY: Final = "#8a8f98"
LIGHT: Final = "#e4e6ea"

_SPLIT_COLOURS: Final = (BLUE, ORANGE, "#2c8c5a", "#8a4fb0", "#b03a48", GREY)
_SPLIT_MARKS: Final = ("o", "s", "D", "^", "v", "P")

ALPHA: Final = 0.4
"""Cover of the heat on the film, as NETWORKS and the worker have it."""

_DPI: Final = 120
_INSET_FROM: Final = 0.9
"""Area under the ROC curve from which its corner is drawn once more, enlarged."""


def new_figure(width: float, height: float) -> Figure:
    """Give an empty figure; `width` and `height` in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without date or library name, so that the same figure gives the same bytes."""
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def draw_confusion_matrix(path: Path, metrics: dict[str, Any], labels: tuple[str, str], title: str) -> None:
    """Draw counts and row shares of ``metrics["confusion_matrix"]``."""
    cells = metrics["confusion_matrix"]
    counts = np.array([[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]])
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    figure = new_figure(5.4, 4.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{count}\n{100 * shares[row, column]:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=14)
    axes.set_xticks([0, 1], labels)
    axes.set_yticks([0, 1], labels, rotation=90, va="center")
    axes.set_xlabel(f"answered (threshold {metrics['threshold']:g})")
    axes.set_ylabel("true")
    axes.set_title(f"{title}\naccuracy {with_interval(metrics, 'accuracy')}", fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    save(figure, path)


def draw_roc_curve(path: Path, label: Labels, probability: Floats, metrics: dict[str, Any], title: str) -> None:
    """Draw sensitivity over 1 - specificity, and where the threshold stands."""
    figure = new_figure(5.6, 5.2)
    axes = figure.add_subplot()
    if metrics["roc_auc"] is None:
        _say_undefined(axes)
    else:
        false_positive, true_positive, _ = sklearn_metrics.roc_curve(label, probability)
        text = f"AUC {with_interval(metrics, 'roc_auc')}"
        axes.plot(false_positive, true_positive, color=BLUE, lw=2, label=text, clip_on=False, zorder=3)
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="chance")
        point = (1 - metrics["specificity"], metrics["sensitivity"])
        axes.plot(*point, "o", color=ORANGE, ms=8, label=_threshold(metrics), clip_on=False, zorder=4)
        axes.legend(loc="lower right")
        if metrics["roc_auc"] > _INSET_FROM:
            _enlarge_corner(axes, false_positive, true_positive, point)
    _unit_square(axes, "1 - specificity (share of negatives called positive)", "sensitivity")
    axes.set_title(f"{title}: ROC curve", fontsize=11)
    save(figure, path)


def _enlarge_corner(axes: Axes, false_positive: Floats, true_positive: Floats, point: tuple[float, float]) -> None:
    """Show the upper left corner, where a good curve is, at 2.5 times its size."""
    inset = axes.inset_axes((0.42, 0.3, 0.5, 0.5), xlim=(-0.005, 0.2), ylim=(0.8, 1.005))
    inset.plot(false_positive, true_positive, color=BLUE, lw=2)
    inset.plot(*point, "o", color=ORANGE, ms=8)
    inset.grid(color=LIGHT)
    inset.tick_params(labelsize=8)
    axes.indicate_inset_zoom(inset, edgecolor=GREY)


def draw_pr_curve(path: Path, label: Labels, probability: Floats, metrics: dict[str, Any], title: str) -> None:
    """Draw precision over recall, and where the threshold stands."""
    figure = new_figure(5.6, 5.2)
    axes = figure.add_subplot()
    if metrics["average_precision"] is None:
        _say_undefined(axes)
    else:
        precision, recall, _ = sklearn_metrics.precision_recall_curve(label, probability)
        text = f"average precision {with_interval(metrics, 'average_precision')}"
        axes.step(recall, precision, where="pre", color=BLUE, lw=2, label=text, clip_on=False, zorder=3)
        axes.axhline(label.mean(), color=GREY, lw=1, ls="--", label=f"chance ({label.mean():.3f} are positive)")
        if metrics["precision"] is not None:
            point = (metrics["recall"], metrics["precision"])
            axes.plot(*point, "o", color=ORANGE, ms=8, label=_threshold(metrics), clip_on=False, zorder=4)
        axes.legend(loc="lower left")
    _unit_square(axes, "recall (sensitivity)", "precision (positive predictive value)")
    axes.set_title(f"{title}: precision and recall", fontsize=11)
    save(figure, path)


def draw_calibration(
    path: Path, label: Labels, probability: Floats, metrics: dict[str, Any], labels: tuple[str, str], title: str
) -> None:
    """Draw the observed share over the probability with its 95 % Wilson interval, and how many images each bin has."""
    bins = calibration_bins(label, probability)
    figure = new_figure(5.6, 6.4)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    mean, observed = (np.array([getattr(bin, name) for bin in bins]) for name in ("probability", "observed"))
    count = np.array([bin.count for bin in bins])
    low, high = _wilson(observed, count)
    errors = np.clip([observed - low, high - observed], 0, None)
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfectly calibrated")
    upper.errorbar(
        mean,
        observed,
        errors,
        fmt="o",
        color=BLUE,
        ms=6,
        capsize=3,
        lw=1.5,
        clip_on=False,
        zorder=3,
        label="observed, 95 % interval",
    )
    upper.axvline(metrics["threshold"], color=ORANGE, lw=1.5, label=f"threshold {metrics['threshold']:g}")
    _unit_square(upper, "", f"observed share of {labels[1]}", square=False)
    upper.legend(loc="lower right")
    loss = metrics["log_loss"]
    upper.set_title(f"{title}: calibration\nexpected error {metrics['ece']:.4f}, log-loss {loss:.4f} nat", fontsize=11)
    edges = np.linspace(0, 1, 41)
    parts, colours = [probability[label == 0], probability[label == 1]], [ORANGE, BLUE]
    lower.hist(parts, edges, stacked=True, color=colours, label=list(labels))
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(bottom=0)
    lower.set_xlabel(f"probability of {labels[1]}")
    lower.set_ylabel("images")
    lower.legend(loc="upper center", title="true")
    lower.grid(color=LIGHT)
    lower.set_axisbelow(True)
    save(figure, path)


def _wilson(share: Floats, count: NDArray[np.int64], z: float = 1.96) -> tuple[Floats, Floats]:
    """Give Wilson's score interval of a share of `count`."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


def _unit_square(axes: Axes, x_label: str, y_label: str, *, square: bool = True) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    if square:
        axes.set_aspect("equal")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=LIGHT)
    axes.set_axisbelow(True)


def _say_undefined(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not defined: only one class occurs", ha="center", va="center", color=GREY)


def _threshold(metrics: dict[str, Any]) -> str:
    return f"threshold {metrics['threshold']:g}"


def with_interval(metrics: dict[str, Any], name: str) -> str:
    """Give one measure and its interval in words, four digits."""
    value, (low, high) = metrics[name], metrics["intervals"].get(name, (None, None))
    if value is None:
        return "not defined"
    return f"{value:.4f}" if low is None else f"{value:.4f} (95 %: {low:.4f} to {high:.4f})"


@dataclass(frozen=True, slots=True)
class ExplainedSample:
    """One image with its answer and its heat.

    Attributes:
        display: ``(h, w) uint8`` as a person sees it, 0 is black.
        heat: ``(h', w') float in [0, 1]`` over the same field of view.
        name: of the file.
        truth, answer: class names.
        positive_label: the class that `probability`, `threshold` and `heat` speak of.
        method: by which the heat was found.
    """

    display: NDArray[np.uint8]
    heat: NDArray[np.float32]
    name: str
    truth: str
    answer: str
    positive_label: str
    probability: float
    threshold: float
    method: str


def draw_sample(path: Path, sample: ExplainedSample) -> None:
    """Draw original, heat and overlay (jet, cover 0.4) side by side."""
    height, width = sample.display.shape
    heat = np.clip(
        cv2.resize(np.asarray(sample.heat, np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1
    )
    # Placed by hand: the layout engine would take most of the time of a picture.
    side, shown, head, foot = 3.4, float(np.clip(3.4 * height / width, 2, 6)), 0.85, 0.3
    total = (3 * side + 0.9, shown + head + foot)
    figure = Figure(figsize=total)
    FigureCanvasAgg(figure)
    panels = [
        figure.add_axes(((i * side + 0.05) / total[0], foot / total[1], (side - 0.1) / total[0], shown / total[1]))
        for i in range(3)
    ]
    panels[0].imshow(sample.display, cmap="gray", vmin=0, vmax=255)
    image = panels[1].imshow(heat, cmap="jet", vmin=0, vmax=1)
    panels[2].imshow(sample.display, cmap="gray", vmin=0, vmax=255)
    panels[2].imshow(heat, cmap="jet", vmin=0, vmax=1, alpha=ALPHA)
    if not heat.any():
        panels[1].text(0.5, 0.5, "no evidence", transform=panels[1].transAxes, ha="center", color="white", fontsize=12)
    for panel, text in zip(panels, ("original", f"{sample.method} of {sample.positive_label}", "overlay"), strict=True):
        panel.set_title(text, fontsize=10)
        panel.set_axis_off()
    scale = figure.add_axes(((3 * side + 0.05) / total[0], foot / total[1], 0.14 / total[0], shown / total[1]))
    figure.colorbar(image, cax=scale, label="part of the map's maximum")
    verdict = "right" if sample.truth == sample.answer else "WRONG"
    figure.suptitle(
        f"{sample.name}\ntrue {sample.truth}, answered {sample.answer} ({verdict}), probability of "
        f"{sample.positive_label} {sample.probability:.3f}, threshold {sample.threshold:g}",
        fontsize=10,
        y=1 - 0.1 / total[1],
    )
    figure.text(0.5, 0.08 / total[1], DISCLAIMER, fontsize=8, color=GREY, ha="center")
    save(figure, path)


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row of a comparison: `figures` has value and ends of the 95 % interval by measure, None where unknown."""

    name: str
    split: str
    figures: dict[str, tuple[float | None, float | None, float | None]]


def draw_comparison(path: Path, rows: Sequence[ComparedRow]) -> None:
    """Draw accuracy and area under the ROC curve of every row, best accuracy on top; a colour and a mark per split."""
    splits = list(dict.fromkeys(row.split for row in rows))
    figure = new_figure(10.5, 1.7 + 0.36 * len(rows))
    panels = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
    for panel, (name, title) in zip(panels, (("accuracy", "accuracy"), ("roc_auc", "ROC-AUC")), strict=True):
        for place, row in enumerate(rows):
            value, low, high = row.figures[name]
            if value is None:
                continue
            style = splits.index(row.split)
            colour = _SPLIT_COLOURS[style % len(_SPLIT_COLOURS)]
            if low is not None and high is not None:
                panel.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="butt")
            panel.plot(value, place, _SPLIT_MARKS[style % len(_SPLIT_MARKS)], color=colour, ms=7)
            panel.annotate(f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=7)
        panel.set_xlabel(f"{title}, 95 % interval")
        panel.grid(axis="x", color=LIGHT)
        panel.set_axisbelow(True)
        panel.margins(x=0.08)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.7)
    handles = [
        Line2D([], [], color=_SPLIT_COLOURS[i % len(_SPLIT_COLOURS)], marker=_SPLIT_MARKS[i % len(_SPLIT_MARKS)], lw=2)
        for i in range(len(splits))
    ]
    figure.legend(handles, splits, loc="outside upper center", ncols=min(4, len(splits)), title="measured on")
    save(figure, path)
