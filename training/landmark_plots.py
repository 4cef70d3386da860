"""The pictures of an evaluation of landmarks: distances, vertebrae, Cobb angles, and samples with both outlines.

Drawn as those of `training.plots`: without pyplot, the same bytes for the same figures. Blue is the network, orange the
truth of the set. Distances are in the letterbox of 512 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.identity import DISCLAIMER
from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_rows import Angles, Points
from training.datasets.vertebra_corners import corners_of
from training.evaluation import Floats
from training.landmark_evaluation import LETTERBOX_SIDE, SDR_PX
from training.plots import BLUE, GREY, LIGHT, ORANGE, new_figure, save, with_interval

_FARTHEST_PX: Final = 36
"""To which the curve of the distances is drawn: half as far again as the widest limit."""

_ANGLE_COLOURS: Final = (BLUE, ORANGE, "#2c8c5a")
_ANGLE_MARKS: Final = ("o", "s", "^")
_ANGLE_NAMES: Final = ("main angle", "second angle", "third angle")
_AGREEMENT: Final = 1.96
"""Standard deviations to either side of the mean difference that hold 95 % of differences (Bland and Altman)."""

_RING: Final = [0, 1, 3, 2, 0]
"""Corners of a vertebra as one walks round it."""


def draw_errors(path: Path, errors: Floats, metrics: dict[str, Any], title: str) -> None:
    """Draw which share of landmarks lies within which distance, and the mean distance of each image.

    Args:
        path: of the PNG.
        errors: ``(N, K)`` letterbox pixels, NaN where there is no truth.
        metrics: of the same landmarks.
        title: of the picture.
    """
    there = np.isfinite(errors)
    figure = new_figure(9.6, 4.8)
    curve, bars = figure.subplots(1, 2)
    distances = np.sort(errors[there])
    shares = 100 * np.arange(1, len(distances) + 1) / max(1, len(distances))
    farthest = max(_FARTHEST_PX, *distances[-1:])
    curve.step([0, *distances, farthest], [0, *shares, 100 * bool(len(shares))], where="post", color=BLUE, lw=2)
    for limit in SDR_PX:
        share = metrics[f"sdr_{limit}"]
        if share is not None:
            curve.plot(limit, share, "o", color=ORANGE, ms=6, zorder=3)
            curve.annotate(f"{share:.1f} %", (limit, share), (5, -12), textcoords="offset points", fontsize=9)
    curve.set_xlim(0, _FARTHEST_PX)
    curve.set_ylim(0, 102)
    curve.set_xticks([0, *SDR_PX, 30, _FARTHEST_PX])
    curve.set_xlabel(f"distance, pixels of {LETTERBOX_SIDE}")
    curve.set_ylabel("landmarks within it, %")
    counted = there.sum(axis=1)
    means = np.where(there, errors, 0).sum(axis=1)[counted > 0] / counted[counted > 0]
    bars.hist(means, bins=30, color=BLUE)
    bars.set_xlabel(f"mean distance of an image, pixels of {LETTERBOX_SIDE}")
    bars.set_ylabel("images")
    for axes in (curve, bars):
        axes.grid(color=LIGHT)
        axes.set_axisbelow(True)
    figure.suptitle(f"{title}: mean radial error {with_interval(metrics, 'mre_px')} px", fontsize=11)
    save(figure, path)


def draw_vertebrae(path: Path, metrics: dict[str, Any], title: str) -> None:
    """Draw the mean radial error of each vertebra, from top to bottom, and how many of its landmarks are found."""
    measured = {name: each for name, each in metrics["per_vertebra"].items() if each["mre_px"] is not None}
    widest = SDR_PX[-1]
    figure = new_figure(7.0, 1.6 + 0.3 * len(measured))
    axes = figure.add_subplot()
    places = range(len(measured))
    axes.barh(places, [each["mre_px"] for each in measured.values()], color=BLUE, height=0.7)
    for place, each in zip(places, measured.values(), strict=True):
        text = f"{each['mre_px']:.2f} px, {each[f'sdr_{widest}']:.1f} % within {widest} px"
        axes.annotate(text, (each["mre_px"], place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, list(measured))
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.margins(x=0.5)
    axes.set_xlabel(f"mean radial error, pixels of {LETTERBOX_SIDE}")
    axes.grid(axis="x", color=LIGHT)
    axes.set_axisbelow(True)
    axes.set_title(f"{title}: each vertebra", fontsize=11)
    save(figure, path)


def draw_cobb(path: Path, given: Floats, answered: Floats, metrics: dict[str, Any], title: str) -> None:
    """Draw the Cobb angles of each image against those given, and the main angle's differences (Bland and Altman).

    Args:
        path: of the PNG.
        given: ``(N, 3)`` degrees, NaN where there are none.
        answered: ``(N, 3)`` degrees, NaN where none can be measured.
        metrics: of the same images.
        title: of the picture.
    """
    figure = new_figure(10.6, 5.4)
    scatter, differences = figure.subplots(1, 2)
    known = np.isfinite(given) & np.isfinite(answered)
    highest = float(max([1.0, *given[known], *answered[known]])) * 1.05
    scatter.plot([0, highest], [0, highest], color=GREY, lw=1, ls="--", zorder=1)
    for angle, name in enumerate(_ANGLE_NAMES):
        rows = known[:, angle]
        style = {"c": _ANGLE_COLOURS[angle], "marker": _ANGLE_MARKS[angle], "label": name}
        scatter.scatter(given[rows, angle], answered[rows, angle], s=22, alpha=0.5, linewidths=0, **style)
    scatter.set_xlim(0, highest)
    scatter.set_ylim(0, highest)
    scatter.set_aspect("equal")
    scatter.set_xlabel("given, degrees")
    scatter.set_ylabel("of the network's landmarks, degrees")
    scatter.legend(loc="upper left")
    _draw_differences(differences, given[known[:, 0], 0], answered[known[:, 0], 0])
    for axes in (scatter, differences):
        axes.grid(color=LIGHT)
        axes.set_axisbelow(True)
    smape, error = with_interval(metrics, "cobb_smape"), with_interval(metrics, "cobb_mae")
    figure.suptitle(f"{title}: Cobb angles\nSMAPE {smape} %\nmean absolute error {error} degrees", fontsize=11)
    save(figure, path)


def _draw_differences(axes: Axes, given: Floats, answered: Floats) -> None:
    difference = answered - given
    axes.scatter((given + answered) / 2, difference, s=22, color=BLUE, alpha=0.5, linewidths=0)
    if len(difference) > 1:
        mean, spread = float(difference.mean()), float(difference.std(ddof=1))
        ends = (mean - _AGREEMENT * spread, mean + _AGREEMENT * spread)
        for value, style in ((mean, "-"), *((end, "--") for end in ends)):
            axes.axhline(value, color=ORANGE, lw=1.2, ls=style)
        axes.set_title(f"mean {mean:+.2f}, limits of agreement {ends[0]:+.2f} to {ends[1]:+.2f}", fontsize=10)
    axes.set_xlabel("mean of both main angles, degrees")
    axes.set_ylabel("network minus given, degrees")


@dataclass(frozen=True, slots=True)
class LandmarkSample:
    """One image with its answer and its truth; points ``(K, 2)`` are in pixels of the display.

    Attributes:
        display: ``(h, w) uint8`` as a person sees it, 0 is black.
        name: of the file.
        answered: of the network.
        truth: of the set, NaN where there is none.
        confidence: ``(K)`` of the network, in [0, 1].
        schema: of the landmarks.
        error_px: mean radial error of the image, letterbox pixels.
        angles: Cobb angles of the network's landmarks, NaN where there are none, and those given.
        faults: of the truth, in words.
    """

    display: NDArray[np.uint8]
    name: str
    answered: Points
    truth: Points
    confidence: Floats
    schema: LandmarkSchema
    error_px: float
    angles: tuple[Sequence[float], Angles | None]
    faults: tuple[str, ...] = ()


_BLUE_ON_FILM: Final = "#4da6ff"  # the other one is too dark there
_HEIGHT: Final = 8.0  # inches of the films
_NARROWEST: Final = 2.6
_WIDEST: Final = 7.0
_HEAD: Final = 0.95
_FOOT: Final = 0.3
_MARGIN: Final = 0.06


def draw_landmark_sample(path: Path, sample: LandmarkSample) -> None:
    """Draw the film, then the film with the outlines of the truth and those of the network."""
    rows, columns = sample.display.shape
    side = float(np.clip(_HEIGHT * columns / rows, _NARROWEST, _WIDEST))
    inner = side - 2 * _MARGIN
    shown = min(_HEIGHT, inner * rows / columns)
    total = (2 * side, shown + _HEAD + _FOOT)
    # Placed by hand: the layout engine would take most of the time of a picture.
    figure = Figure(figsize=total)
    FigureCanvasAgg(figure)
    film, drawn = (
        figure.add_axes(((i * side + _MARGIN) / total[0], _FOOT / total[1], inner / total[0], shown / total[1]))
        for i in range(2)
    )
    for axes in (film, drawn):
        axes.imshow(sample.display, cmap="gray", vmin=0, vmax=255)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_axis_off()
    _draw_outlines(drawn, sample.truth, ORANGE)
    _draw_outlines(drawn, sample.answered, _BLUE_ON_FILM)
    _name_vertebrae(drawn, sample)
    figure.suptitle(_heading(sample), fontsize=8, y=1 - 0.05 / total[1])
    figure.text(0.5, 0.08 / total[1], DISCLAIMER, fontsize=6, color=GREY, ha="center")
    save(figure, path)


def _draw_outlines(axes: Axes, points: Points, colour: str) -> None:
    for corners in corners_of(points):
        ring = corners[_RING] if np.isfinite(corners).all() else corners[np.isfinite(corners).all(axis=1)]
        # A pixel's centre lies at 0.5 for landmarks, at 0 for `imshow`.
        axes.plot(ring[:, 0] - 0.5, ring[:, 1] - 0.5, color=colour, lw=0.9)


def _name_vertebrae(axes: Axes, sample: LandmarkSample) -> None:
    for name, corners in zip(sample.schema.vertebrae, corners_of(sample.answered), strict=True):
        there = corners[np.isfinite(corners).all(axis=1)]
        if len(there):
            place = (float(there[:, 0].max()) + 4, float(there[:, 1].mean()))
            axes.text(*place, name, color="white", fontsize=5, va="center", clip_on=True)


def _heading(sample: LandmarkSample) -> str:
    lines = [sample.name, f"mean radial error {sample.error_px:.2f} px, least confidence {sample.confidence.min():.2f}"]
    answered, given = sample.angles
    if given is not None:
        words = ("-" if np.isnan(angle) else f"{angle:.1f}" for angle in answered)
        truth = " / ".join(f"{angle:.1f}" for angle in given)
        lines.append(f"Cobb angles {' / '.join(words)}, given {truth}")
    lines.append("orange: truth, blue: network")
    if sample.faults:
        lines.append(f"truth: {', '.join(sample.faults).replace('_', ' ')}")
    return "\n".join(lines)
