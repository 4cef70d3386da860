"""`python -m tests.end_to_end.dashboard_preview`: draws the dashboards from a Prometheus, one PNG each.

For looking at them where there is no Grafana: every panel stands in its place of the grid, with its series over a time,
its unit, its legend and its thresholds. What has no data says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "grafana"
POINTS: Final = 240
CELL_INCHES: Final = (0.72, 0.42)
"""Of one column and one row of Grafana's grid, which has 24 columns."""
COLOURS: Final = {"green": "#3a9b5c", "orange": "#d9822b", "red": "#c23b32"}
MOST_IN_LEGEND: Final = 8


def expression_of(target: dict[str, Any], interval: str) -> str:
    """Fill in what Grafana would: the interval of rates, and every instance."""
    return str(target["expr"]).replace("$__rate_interval", interval).replace("$instance", ".*")


def legend_of(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Name one series as the legend format says."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"]).strip()


def readable(value: float, unit: str) -> str:
    """Write a value as Grafana does in that unit."""
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{value:.0%}" if abs(value) >= 0.1 or value == 0 else f"{value:.1%}"
    if unit == "s":
        return next(
            (
                f"{value / size:.3g} {name}"
                for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
                if abs(value) >= size
            ),
            f"{value * 1000:.3g} ms",
        )
    if unit in {"bytes", "Bps"}:
        scale, names = (1024, ("B", "KiB", "MiB", "GiB", "TiB")) if unit == "bytes" else (1000, ("B", "kB", "MB", "GB"))
        place = min(int(np.log(max(abs(value), 1)) / np.log(scale)), len(names) - 1)
        return f"{value / scale**place:.3g} {names[place]}{'/s' if unit == 'Bps' else ''}"
    return f"{value:.3g}{unit.removeprefix('suffix:') if unit.startswith('suffix:') else ''}"


class Source:
    """The HTTP API of a Prometheus."""

    def __init__(self, url: str, start: float, end: float, interval: str) -> None:
        self._url = url
        self._start, self._end, self._interval = start, end, interval

    def series(self, panel: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Give name, POSIX times (N,) and values (N,) of each series; gaps are NaN."""
        times = np.linspace(self._start, self._end, POINTS)
        step = times[1] - times[0]
        for target in panel["targets"]:
            query = urllib.parse.urlencode(
                {"query": expression_of(target, self._interval), "start": times[0], "end": times[-1], "step": step}
            )
            with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{query}", timeout=60) as answer:
                found = json.load(answer)["data"]["result"]
            for one in found:
                values = np.full(POINTS, np.nan)
                for at, value in one["values"]:
                    values[min(round((float(at) - times[0]) / step), POINTS - 1)] = float(value)
                yield legend_of(target, one["metric"]), times, values


def draw(dashboard: dict[str, Any], source: Source, path: Path) -> list[str]:
    """Draw one dashboard; give the titles of panels without data."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * CELL_INCHES[0], (rows + 1) * CELL_INCHES[1]), facecolor="#f4f5f5")
    figure.text(0.008, 1 - 0.55 / (rows + 1), dashboard["title"], fontsize=13, weight="bold", va="center")
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        bottom, height = 1 - (place["y"] + place["h"] + 1) / (rows + 1), place["h"] / (rows + 1)
        if panel["type"] == "row":
            figure.text(0.008, bottom + height / 2, panel["title"], fontsize=10, va="center", color="#555555")
            continue
        box = (left + 0.003, bottom + 0.15 / (rows + 1), width - 0.006, height - 0.3 / (rows + 1))
        if not _draw_panel(figure, box, panel, list(source.series(panel)), rows):
            empty.append(panel["title"])
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return empty


def _draw_panel(
    figure: Figure, box: tuple[float, float, float, float], panel: dict[str, Any], series: list[Any], rows: int
) -> bool:
    left, bottom, width, height = box
    back = figure.add_axes(box)
    back.set(xticks=[], yticks=[])
    back.set_title(panel["title"], fontsize=8.5, loc="left", pad=-9, x=0.01, weight="bold")
    for side in back.spines.values():
        side.set_color("#d5d5d5")
    lasting = panel["type"] == "timeseries"
    shown = [one for one in series if not np.all(np.isnan(one[2] if lasting else one[2][-1:]))]
    if not shown:
        back.text(
            0.5,
            0.45,
            panel["fieldConfig"]["defaults"]["noValue"],
            ha="center",
            va="center",
            color="#888888",
            fontsize=10,
        )
        return False
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not lasting:
        _draw_now(back, panel, shown, unit)
        return True
    line = 0.42 / (rows + 1)
    legend_height = (min(len(shown), MOST_IN_LEGEND) + 0.4) * line
    axes = figure.add_axes(
        (left + 0.034, bottom + legend_height + 1.6 * line, width - 0.042, height - legend_height - 3.6 * line)
    )
    _draw_lines(axes, panel, shown, unit)
    return True


def _draw_now(back: Axes, panel: dict[str, Any], series: list[Any], unit: str) -> None:
    """Show the last values: a stat's one by one beside each other, a bar gauge's one below the other."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for index, (name, _, values) in enumerate(series):
        last = values[-1]
        reached = [step["color"] for step in steps if step["value"] is None or last >= step["value"]]
        colour = COLOURS[reached[-1]]
        if panel["type"] == "stat":
            back.set_facecolor(colour)
            at = (index + 0.5) / len(series)
            back.text(at, 0.5, readable(last, unit), ha="center", va="center", fontsize=17, color="white")
            back.text(at, 0.16, name, ha="center", fontsize=7, color="white")
        else:
            height = 0.8 - (index + 0.5) * 0.8 / max(len(series), 4)
            back.text(0.02, height, name, fontsize=7.5, va="center")
            back.text(0.97, height, readable(last, unit), fontsize=9, va="center", ha="right", color=colour)


def _draw_lines(axes: Axes, panel: dict[str, Any], series: list[Any], unit: str) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    when = [mdates.date2num(np.datetime64(int(at), "s")) for at in series[0][1]]
    palette = plt.get_cmap("tab10").colors
    if defaults["custom"]["stacking"]["mode"] == "normal":
        stacked = np.nan_to_num(np.array([values for _, _, values in series]))
        axes.stackplot(when, stacked, colors=palette, alpha=0.55, linewidth=0.6)
    else:
        for index, (_, _, values) in enumerate(series):
            axes.plot(when, values, color=palette[index % 10], linewidth=1)
    axes.set_xlim(when[0], when[-1])
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], defaults["custom"].get("axisSoftMax", 0)))
    if defaults["custom"]["thresholdsStyle"]["mode"] == "line":
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None and step["value"] < axes.get_ylim()[1]:
                axes.axhline(step["value"], color=COLOURS[step["color"]], linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value, unit)))
    axes.yaxis.set_major_locator(plt.MaxNLocator(5))
    axes.tick_params(labelsize=6.5, length=0, pad=2)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    named = list(enumerate(series))
    if panel["options"]["legend"].get("sortBy"):
        named.sort(key=lambda one: -np.nanmax(one[1][2]))
    for line, (index, (name, _, values)) in enumerate(named[:MOST_IN_LEGEND]):
        last, most = values[~np.isnan(values)][-1], np.nanmax(values)
        drop = (-20 - line * 10, "offset points")
        axes.annotate("▬ ", (0, 0), (-26, drop[0]), "axes fraction", drop[1], fontsize=7, color=palette[index % 10])
        axes.annotate(name[:58], (0, 0), (-14, drop[0]), "axes fraction", drop[1], fontsize=7)
        told = f"last {readable(last, unit)}   max {readable(most, unit)}"
        axes.annotate(told, (1, 0), (0, drop[0]), "axes fraction", drop[1], fontsize=7, ha="right")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every dashboard; 0 also where panels are empty, which are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=60, help="how much of the past (default 60)")
    parser.add_argument("--interval", default="2m", help="interval of rates (default 2m)")
    parser.add_argument("--output", type=Path, default=Path("dashboards"), help="where the pictures go")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    end = time.time()
    source = Source(arguments.prometheus, end - arguments.minutes * 60, end, arguments.interval)
    for file in sorted(SHIPPED.glob("*.json")):
        path = arguments.output / f"{file.stem}.png"
        empty = draw(json.loads(file.read_text()), source, path)
        print(f"{path}: no data in {', '.join(empty) or 'no panel'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
