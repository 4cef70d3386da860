"""The picture of a search: what each trial reached, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from training.plots import BLUE, LIGHT, ORANGE, new_figure, save


def draw_search(path: Path, trials: Sequence[tuple[int, float]]) -> None:
    """Draw the kappa of complete trials, by their number."""
    numbers, values = (np.array(column) for column in zip(*trials, strict=True))
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    axes.step(numbers, np.maximum.accumulate(values), where="post", color=ORANGE, label="best so far")
    axes.scatter(numbers, values, color=BLUE, s=24, label="trial", zorder=3)
    axes.set_xlabel("trial")
    axes.set_ylabel("quadratic kappa on who was held out")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=LIGHT)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    axes.set_title(f"search: {len(values)} complete trials, best {values.max():.3f}")
    save(figure, path)
