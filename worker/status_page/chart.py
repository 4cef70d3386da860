"""Draws how many instances were settled as stacked bars: an inline SVG of shapes alone, words stand in the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from worker.status_page.facts import PaceFacts

STATES: Final = ("done", "skipped", "failed")
"""From the bottom of a bar to its top; also the classes that colour them."""
WIDTH: Final = 600
HEIGHT: Final = 120
GAP: Final = 0.2
"""Between two bars, as a part of the place of one."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars, and what to say of them.

    Attributes:
        svg: the picture.
        total, peak: settled instances in all bars, and in the highest one.
        states: settled instances by state.
        bar_minutes: the time of one bar.
    """

    svg: Markup
    total: int
    peak: int
    states: dict[str, int]
    bar_minutes: int


def draw(pace: PaceFacts, minutes: int, bar_minutes: int, label: str) -> Chart:
    """Draw the last so many minutes, `bar_minutes` of them a bar."""
    bars = _bars(pace, minutes, bar_minutes)
    peak = max(sum(bar.values()) for bar in bars)
    states = {state: sum(bar[state] for bar in bars) for state in STATES}
    total = sum(states.values())
    place = WIDTH / len(bars)
    shapes: list[str] = [f'<line x1="0" x2="{WIDTH}" y1="{y:g}" y2="{y:g}"/>' for y in (0.5, HEIGHT / 2, HEIGHT - 0.5)]
    for index, bar in enumerate(bars):
        top = float(HEIGHT)
        for state in STATES:
            if not bar[state]:
                continue
            height = bar[state] / peak * (HEIGHT - 2)
            top -= height
            left = (index + GAP / 2) * place
            shapes.append(
                f'<rect class="{state}" x="{left:.1f}" y="{top:.1f}"'
                f' width="{place * (1 - GAP):.1f}" height="{height:.1f}"/>'
            )
    words = Markup("{}: {} settled, at most {} in {} min").format(label, total, peak, bar_minutes)
    svg = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>').format(
        words, WIDTH, HEIGHT, Markup("".join(shapes))
    )
    return Chart(svg, total, peak, states, bar_minutes)


def _bars(pace: PaceFacts, minutes: int, bar_minutes: int) -> list[dict[str, int]]:
    first = pace.until - minutes
    bars = [dict.fromkeys(STATES, 0) for _ in range(minutes // bar_minutes)]
    for at, by_state in pace.by_minute.items():
        if first <= at < pace.until:
            for state, count in by_state.items():
                bars[(at - first) // bar_minutes][state] += count
    return bars
