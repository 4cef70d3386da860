"""How the status page says times, ages, sizes and codes."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from worker.status_page.facts import MOST_COUNTED

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """Say a duration in its largest unit, and the next where the number is small: `1.5 s`, `45 s`, `1 h 20 min`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    seconds = round(seconds)
    for place, (size, name) in enumerate(_UNITS):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            smaller = _UNITS[place + 1] if place + 1 < len(_UNITS) else None
            more = rest // smaller[0] if smaller and whole < 10 else 0
            return f"{whole} {name}" + (f" {more} {smaller[1]}" if smaller and more else "")
    return f"{seconds:.0f} s"


def age(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was."""
    if moment is None:
        return "never"
    seconds = max(0.0, (now - moment).total_seconds())
    return f"{seconds:.0f} s ago" if seconds < 60 else f"{duration(seconds)} ago"


def clock(moment: datetime, now: datetime) -> str:
    """Say a time as the clock of this host shows it, with its date where that is another day."""
    local = moment.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == now.astimezone().date() else "%Y-%m-%d %H:%M")


def code(value: str) -> str:
    """Say a code in words: `worker_died` is `worker died`."""
    return value.replace("_", " ")


def number(value: int) -> str:
    """Say a count, thousands apart."""
    return f"{value:,}"


def bounded(value: int) -> str:
    """Say a count that was not followed beyond `MOST_COUNTED`."""
    return f"{MOST_COUNTED:,}+" if value > MOST_COUNTED else number(value)


def counted(value: int, noun: str) -> str:
    """Say a count with its noun: `1 output`, `3 outputs`."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def size(value: int) -> str:
    """Say a number of bytes."""
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"
