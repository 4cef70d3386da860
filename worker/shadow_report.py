"""`python -m worker shadow-report`: how versions in the shadow compare with those that answered. No patient data."""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, select
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance
from models.records.shadow import ShadowFinding
from models.spine.cobb import Curve
from models.tasks import Task
from models.zones import Congestion
from worker.commands import Rows, write_rows

_ROWS_AT_ONCE: Final = 5000
_GRADES: Final = int(Congestion.SEVERE) + 1
_SHIFT_PERCENTILES: Final = {"shift_p05": 5, "shift_p50": 50, "shift_p95": 95}


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What is shown.

    Attributes:
        summary: one row per task, live version and version in the shadow.
        most_different: of each of these the instances whose answers are farthest apart, farthest first.
    """

    summary: Rows
    most_different: Rows


def shadow_report(
    sessions: sessionmaker[Session], *, task: Task | None, since: datetime | None, top: int
) -> ShadowReport:
    """Compare what was found in the shadow with what counted.

    Args:
        sessions: of the results database.
        task: this alone; None for all.
        since: inferred at or after; None for all.
        top: so many of the most different instances per pair of versions.
    """
    statement = select(
        Instance.sop_instance_uid,
        ShadowFinding.task,
        ShadowFinding.live_version,
        ShadowFinding.shadow_version,
        ShadowFinding.live_score,
        ShadowFinding.shadow_score,
        ShadowFinding.agrees,
        ShadowFinding.difference,
        ShadowFinding.detail,
    ).join(Instance, Instance.id == ShadowFinding.instance_id)
    if task is not None:
        statement = statement.where(ShadowFinding.task == task)
    if since is not None:
        statement = statement.where(ShadowFinding.inferred_at >= since)
    pairs: dict[tuple[Task, str, str], _Pair] = defaultdict(lambda: _Pair(top))
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        for row in session.execute(statement.execution_options(yield_per=_ROWS_AT_ONCE)):
            pairs[row.task, row.live_version, row.shadow_version].add(row)
    ordered = sorted(pairs.items())
    return ShadowReport(
        [_named(key) | pair.summary(key[0]) for key, pair in ordered],
        [_named(key) | case for key, pair in ordered for case in pair.most_different()],
    )


def write_report(report: ShadowReport, form: str, stream: TextIO) -> None:
    """Write a report: two tables, one JSON object, or as CSV the most different instances."""
    if form == "json":
        json.dump({"summary": report.summary, "most_different": report.most_different}, stream, indent=2)
        stream.write("\n")
    elif form == "csv":
        write_rows([_flat(row) for row in report.most_different], form, stream)
    else:
        write_rows(report.summary, form, stream, "versions in the shadow")
        if report.most_different:
            write_rows([_flat(row) for row in report.most_different], form, stream, "most different instances")


class _Pair:
    """Adds up one version in the shadow beside one that answered."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._agree = 0
        self._differences: list[float] = []
        self._shifts: list[float] = []
        self._zones = np.zeros((_GRADES, _GRADES), np.int64)
        self._angles: list[float] = []
        self._largest: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, row: Row[Any]) -> None:
        """Add one instance."""
        self._agree += row.agrees
        self._differences.append(row.difference)
        if row.live_score is not None and row.shadow_score is not None:
            self._shifts.append(row.shadow_score - row.live_score)
        live, shadow = row.detail["live"], row.detail["shadow"]
        if row.task is Task.CSI:
            for zone, score in live.items():
                if score is not None and shadow.get(zone) is not None:
                    self._zones[score, shadow[zone]] += 1
        elif row.task is Task.LANDMARKS and Curve.MAIN in live and Curve.MAIN in shadow:
            self._angles.append(abs(live[Curve.MAIN] - shadow[Curve.MAIN]))
        case = {
            "sop_instance_uid": row.sop_instance_uid,
            "difference": row.difference,
            "live_score": row.live_score,
            "shadow_score": row.shadow_score,
            "live": live,
            "shadow": shadow,
        }
        heapq.heappush(self._largest, (row.difference, row.sop_instance_uid, case))
        if len(self._largest) > self._top:
            heapq.heappop(self._largest)

    def summary(self, task: Task) -> dict[str, Any]:
        """Give the figures of all instances."""
        number = len(self._differences)
        return {
            "instances": number,
            "agreement": self._agree / number,
            "kappa_quadratic": quadratic_kappa(self._zones) if task is Task.CSI else None,
            "main_angle_difference_mean": _mean(self._angles),
            "difference_mean": _mean(self._differences),
            "shift_mean": _mean(self._shifts),
            **{
                name: float(np.percentile(self._shifts, percent)) if self._shifts else None
                for name, percent in _SHIFT_PERCENTILES.items()
            },
        }

    def most_different(self) -> list[dict[str, Any]]:
        """Give the instances whose answers are farthest apart, farthest first."""
        return [case for _, _, case in sorted(self._largest, key=lambda each: (-each[0], each[1]))]


def quadratic_kappa(pairs: NDArray[np.int64]) -> float | None:
    """Give Cohen's kappa with quadratic weights; None where one of the two gave but one grade.

    Args:
        pairs: ``(C, C)``, how often the first gave the row's grade and the second the column's.
    """
    total = pairs.sum()
    if not total:
        return None
    grades = np.arange(len(pairs))
    weights = (grades[:, np.newaxis] - grades) ** 2
    by_chance = float((weights * np.outer(pairs.sum(axis=1), pairs.sum(axis=0))).sum() / total)
    return None if by_chance == 0 else 1 - float((weights * pairs).sum()) / by_chance


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _named(key: tuple[Task, str, str]) -> dict[str, Any]:
    return dict(zip(("task", "live_version", "shadow_version"), (key[0].value, *key[1:]), strict=True))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Give a row with both answers as short texts."""
    return {name: _in_words(value) if isinstance(value, dict) else value for name, value in row.items()}


def _in_words(answer: dict[str, Any]) -> str:
    """Say an answer in short: a label and its probability, scores of zones or angles of curves."""
    if "label" in answer:
        return f"{answer['label']} {answer['probability']:.3f}"
    return " ".join(f"{name} {'-' if value is None else f'{value:g}'}" for name, value in answer.items())
