"""The pictures of an evaluation of zone scores: confusion matrices, mean CSI, agreement, and samples with their maps.

Drawn as those of `training.plots`: without pyplot, the same bytes for the same figures. Blue is the network, orange
the second radiologist. Zones are laid out as they lie on the film, the patient's right on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from models.pixels.lung_fields import Frame
from models.zones import CLASS_NAMES, GRADED, ZONE_COLUMNS, ZONE_ROWS, ZONES, Congestion, Zone
from training.evaluation import Floats
from training.plots import ALPHA, BLUE, GREY, LIGHT, ORANGE, new_figure, save, with_interval

HIGHEST: Final = int(max(GRADED))
"""Highest score of a zone, and of the mean CSI."""

_ROWS: Final = [CLASS_NAMES[grade] for grade in GRADED]
_WHITE_TEXT_FROM: Final = 0.55
_GRID: Final = "#7fd4ff"
_ERROR_COLOURS: Final = ("#dff0e2", "#fdf0d5", "#f9d2b4", "#f0b0a8")  # 0 to 3 grades off
_LONG: Final = 16  # characters of two readers' grades that need a smaller font
_UNKNOWN: Final = "#eeeff2"


def draw_zone_confusion(path: Path, metrics: dict[str, Any], title: str) -> None:
    """Draw counts and row shares of all zones together."""
    counts = np.sum([measured["confusion_matrix"] for measured in metrics["per_zone"].values()], axis=0)
    figure = new_figure(7.0, 5.0)
    axes = figure.add_subplot()
    image = _draw_matrix(axes, counts, font_size=11)
    axes.set_xticks(range(len(CLASS_NAMES)), _numbered(CLASS_NAMES))
    axes.set_yticks(range(len(_ROWS)), _numbered(_ROWS))
    axes.set_xlabel("network")
    axes.set_ylabel("reader")
    agreement = f"quadratic kappa {with_interval(metrics, 'kappa_quadratic')}"
    axes.set_title(f"{title}: six zones together\n{agreement}", fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the reader's grade", fraction=0.046)
    save(figure, path)


def draw_zone_confusions(path: Path, metrics: dict[str, Any], title: str) -> None:
    """Draw one small matrix per zone, laid out as the zones lie on the film."""
    figure = new_figure(8.4, 9.6)
    panels = figure.subplots(ZONE_ROWS, ZONE_COLUMNS, squeeze=False)
    for axes, zone in zip(panels.ravel(), ZONES, strict=True):
        measured = metrics["per_zone"][zone]
        _draw_matrix(axes, np.array(measured["confusion_matrix"]), font_size=8)
        axes.set_xticks(range(len(CLASS_NAMES)), CLASS_NAMES, fontsize=8)
        axes.set_yticks(range(len(_ROWS)), _ROWS, fontsize=8)
        axes.set_title(f"{_spoken(zone)}: {_agreement(measured)}", fontsize=10)
    figure.supxlabel("network", fontsize=10)
    figure.supylabel("reader", fontsize=10)
    figure.suptitle(f"{title}: each zone", fontsize=11)
    save(figure, path)


def _draw_matrix(axes: Axes, counts: NDArray[np.int64], *, font_size: int) -> Any:
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > _WHITE_TEXT_FROM else "black"
        text = f"{count}\n{100 * shares[row, column]:.0f} %" if count else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font_size)
    return image


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"{name}\n({number})" if number <= HIGHEST else name for number, name in enumerate(names)]


def _agreement(measured: Mapping[str, Any]) -> str:
    kappa, error = measured["kappa_quadratic"], measured["mae_zone"]
    if error is None:
        return "not graded by the reader"
    return f"kappa {'not defined' if kappa is None else f'{kappa:.3f}'}, mean error {error:.3f}"


def _spoken(zone: Zone) -> str:
    return zone.value.replace("_", " ")


def draw_mean_csi(path: Path, reader: Floats, network: Floats, metrics: dict[str, Any], title: str) -> None:
    """Draw the mean CSI of each image, network over reader, both ``(N)`` in [0, 3]."""
    figure = new_figure(5.6, 5.6)
    axes = figure.add_subplot()
    axes.plot([0, HIGHEST], [0, HIGHEST], color=GREY, lw=1, ls="--", label="identity", zorder=1)
    axes.scatter(reader, network, s=42, color=BLUE, alpha=0.35, linewidths=0, label="image", zorder=2)
    axes.set_xlim(-0.1, HIGHEST + 0.1)
    axes.set_ylim(-0.1, HIGHEST + 0.1)
    axes.set_aspect("equal")
    axes.set_xlabel("mean CSI, reader")
    axes.set_ylabel("mean CSI, network")
    axes.grid(color=LIGHT)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    correlation = f"Pearson {with_interval(metrics, 'mean_csi_pearson')}"
    error = f"mean absolute error {with_interval(metrics, 'mean_csi_mae')}"
    axes.set_title(f"{title}: mean CSI\n{correlation}\n{error}", fontsize=11)
    save(figure, path)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well someone agrees with the reader: `metrics` as `training.zone_evaluation.zone_metrics` gives them."""

    name: str
    colour: str
    mark: str
    metrics: dict[str, Any]


def agreements(network: dict[str, Any], second_reader: dict[str, Any] | None) -> list[Agreement]:
    """Give what `draw_agreement` sets side by side."""
    rows = [Agreement("network", BLUE, "o", network)]
    if second_reader is not None:
        rows.append(Agreement("second radiologist", ORANGE, "s", second_reader))
    return rows


def draw_agreement(path: Path, rows: Sequence[Agreement], title: str) -> None:
    """Draw kappa and mean absolute error, of all zones with their intervals and of each zone."""
    figure = new_figure(9.6, 5.2)
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("kappa_quadratic", "quadratic kappa (1 is full agreement)"),
        ("mae_zone", "mean absolute error, grades (0 is full agreement)"),
    )
    for panel, (name, label) in zip(panels, shown, strict=True):
        for number, row in enumerate(rows):
            _draw_agreement_of(panel, row, name, (number - (len(rows) - 1) / 2) * 0.3, above=number == 0)
        if all(row.metrics[name] is None for row in rows):
            panel.text(0.5, 0.5, "not defined", transform=panel.transAxes, ha="center", va="center", color=GREY)
        panel.axhline(0.5, color=GREY, lw=0.8)
        panel.set_xlabel(label)
        panel.grid(axis="x", color=LIGHT)
        panel.set_axisbelow(True)
        panel.margins(x=0.1)
    names = ["all zones\n(95 % interval)", *(_spoken(zone) for zone in ZONES)]
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.45, -0.65)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(rows))
    figure.suptitle(f"{title}: agreement with the reader", fontsize=11)
    save(figure, path)


def _draw_agreement_of(panel: Axes, row: Agreement, name: str, offset: float, *, above: bool) -> None:
    values = [row.metrics[name], *(row.metrics["per_zone"][zone][name] for zone in ZONES)]
    places = [place + offset for place, value in enumerate(values) if value is not None]
    known = [value for value in values if value is not None]
    panel.plot(known, places, row.mark, color=row.colour, ms=7, label=row.name)
    low, high = row.metrics["intervals"].get(name, (None, None))
    if low is not None and high is not None:
        panel.plot([low, high], [offset, offset], color=row.colour, lw=2, solid_capstyle="butt")
    if values[0] is not None:
        panel.annotate(
            f"{values[0]:.3f}",
            (values[0], offset),
            (0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=8,
        )


@dataclass(frozen=True, slots=True)
class ZoneSample:
    """One image with its answer and its maps; zones in their fixed order.

    Attributes:
        display: ``(h, w) uint8`` as a person sees it, 0 is black.
        frame: of the network's input on the image, in parts of its width and height; the zones divide it.
        cam: ``(6, h', w') float32 in [0, 1]`` over the frame.
        name: of the file.
        called: classes that the network calls.
        expected: mean scores of the network, [0, 3].
        readers: six grades of each, the reader who is measured against first.
        error: mean absolute error, grades.
        mean_csi: of network and reader over the zones that the reader graded.
    """

    display: NDArray[np.uint8]
    frame: Frame
    cam: NDArray[np.float32]
    name: str
    called: Sequence[int]
    expected: Sequence[float]
    readers: Sequence[Sequence[int]]
    error: float
    mean_csi: tuple[float, float]


_PANEL: Final = 3.9  # inches, width of each
_HEAD: Final = 0.85
_FOOT: Final = 0.3
_MARGIN: Final = 0.06


def draw_zone_sample(path: Path, sample: ZoneSample) -> None:
    """Draw the film with its zones, the six maps on it, and who gave which grade."""
    view = _view_of(sample)
    inner = _PANEL - 2 * _MARGIN
    shown = float(np.clip(inner * (view[2] - view[3]) / (view[1] - view[0]), 2.6, 6))
    total = (3 * _PANEL, shown + _HEAD + _FOOT)
    # Placed by hand: the layout engine would take most of the time of a picture.
    figure = Figure(figsize=total)
    FigureCanvasAgg(figure)
    film, heated, scores = (
        figure.add_axes(((i * _PANEL + _MARGIN) / total[0], _FOOT / total[1], inner / total[0], shown / total[1]))
        for i in range(3)
    )
    _draw_film(film, sample, view)
    film.set_title("zones on the film", fontsize=10)
    _draw_film(heated, sample, view)
    _draw_heat(heated, sample)
    heated.set_title("Grad-CAM of each zone's grade", fontsize=10)
    _draw_scores(scores, sample)
    network, reader = sample.mean_csi
    figure.suptitle(
        f"{sample.name}\nmean CSI: network {network:.2f}, reader {reader:.2f}; "
        f"mean absolute error of the zones {sample.error:.2f}",
        fontsize=10,
        y=1 - 0.1 / total[1],
    )
    figure.text(0.5, 0.08 / total[1], DISCLAIMER, fontsize=8, color=GREY, ha="center")
    save(figure, path)


def _extent_of(sample: ZoneSample) -> tuple[float, float, float, float]:
    """Give left, right, bottom and top of the frame in pixels of the display, as `imshow` counts them."""
    (height, width), frame = sample.display.shape, sample.frame
    left, right = frame.left * width - 0.5, frame.right * width - 0.5
    return left, right, frame.bottom * height - 0.5, frame.top * height - 0.5


def _view_of(sample: ZoneSample) -> tuple[float, float, float, float]:
    """Give what must be seen, film and frame: left, right, bottom, top."""
    height, width = sample.display.shape
    left, right, bottom, top = _extent_of(sample)
    return min(left, -0.5), max(right, width - 0.5), max(bottom, height - 0.5), min(top, -0.5)


def _draw_film(axes: Axes, sample: ZoneSample, view: tuple[float, float, float, float]) -> None:
    axes.imshow(sample.display, cmap="gray", vmin=0, vmax=255)
    left, right, bottom, top = _extent_of(sample)
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=_GRID, lw=1.2))
    for row in range(1, ZONE_ROWS):
        y = top + (bottom - top) * row / ZONE_ROWS
        axes.plot([left, right], [y, y], color=_GRID, lw=0.8)
    for column in range(1, ZONE_COLUMNS):
        x = left + (right - left) * column / ZONE_COLUMNS
        axes.plot([x, x], [top, bottom], color=_GRID, lw=0.8)
    axes.set_xlim(view[0], view[1])
    axes.set_ylim(view[2], view[3])
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_heat(axes: Axes, sample: ZoneSample) -> None:
    extent = _extent_of(sample)
    side = tuple(max(2, round(abs(extent[first] - extent[first + 1]))) for first in (0, 2))
    together = np.ascontiguousarray(sample.cam.max(axis=0), np.float32)  # no two of them in one place
    heat = np.clip(cv2.resize(together, side, interpolation=cv2.INTER_CUBIC), 0, 1)
    axes.imshow(heat, cmap="jet", vmin=0, vmax=1, alpha=ALPHA, extent=extent, aspect=axes.get_aspect(), zorder=1.5)


def _draw_scores(axes: Axes, sample: ZoneSample) -> None:
    """Draw a cell per zone: grades in words, on a colour that says how far the network is off."""
    for index, zone in enumerate(ZONES):
        row, column = divmod(index, ZONE_COLUMNS)
        colour = _error_colour(sample.called[index], sample.readers[0][index])
        axes.add_patch(Rectangle((column, row), 1, 1, fc=colour, ec="white", lw=3))
        axes.text(column + 0.5, row + 0.2, _spoken(zone), ha="center", va="center", fontsize=9, color="#555b66")
        first = f"network {_short(sample.called[index])}"
        if sample.called[index] != Congestion.UNGRADABLE:
            first += f" ({sample.expected[index]:.1f})"
        axes.text(column + 0.5, row + 0.46, first, ha="center", va="center", fontsize=11, weight="bold", color=BLUE)
        read = ", ".join(_short(grades[index]) for grades in sample.readers)
        who = "readers" if len(sample.readers) > 1 else "reader"
        size = 11 if len(read) < _LONG else 8
        axes.text(column + 0.5, row + 0.74, f"{who} {read}", ha="center", va="center", fontsize=size)
    axes.set_xlim(0, ZONE_COLUMNS)
    axes.set_ylim(ZONE_ROWS, 0)
    axes.set_axis_off()
    axes.set_title("grade called (expected score), coloured by its error", fontsize=10)


def _error_colour(called: int, reader: int) -> str:
    if reader == Congestion.UNGRADABLE or called == Congestion.UNGRADABLE:
        return _UNKNOWN
    return _ERROR_COLOURS[abs(called - reader)]


def _short(grade: int) -> str:
    return "ungradable" if grade == Congestion.UNGRADABLE else str(grade)
