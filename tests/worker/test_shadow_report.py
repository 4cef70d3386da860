"""`python -m worker shadow-report`: the figures, the most different instances, and the forms."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance
from models.records.shadow import ShadowFinding
from models.tasks import Task
from models.zones import ZONES
from worker.settlement import Settlement
from worker.shadow_report import quadratic_kappa, shadow_report, write_report

Sessions = sessionmaker[Session]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def add(sessions: Sessions, outcomes: Any) -> Callable[..., None]:
    """Record an instance and what a version in the shadow found in it."""

    def record(uid: str, task: Task, live: Any, shadow: Any, **values: Any) -> None:
        Settlement(sessions, "keep_first", []).settle([outcomes.done(uid)])
        defaults = {
            "live_version": "1",
            "shadow_version": "2",
            "live_score": 0.5,
            "shadow_score": 0.5,
            "agrees": True,
            "difference": 0.0,
            "provider": "in_test",
            "precision": "fp32",
            "inferred_at": NOON,
        }
        with sessions.begin() as session:
            instance_id = session.scalars(select(Instance.id).where(Instance.sop_instance_uid == uid)).one()
            detail = {"live": live, "shadow": shadow}
            session.add(ShadowFinding(instance_id=instance_id, task=task, detail=detail, **(defaults | values)))

    return record


def _classified(add: Callable[..., None], uid: str, live: float, shadow: float, **values: Any) -> None:
    told = [{"label": "sick" if each >= 0.5 else "well", "probability": each} for each in (live, shadow)]
    agrees = told[0]["label"] == told[1]["label"]
    scores = {"live_score": live, "shadow_score": shadow, "agrees": agrees, "difference": abs(live - shadow)}
    add(uid, Task.PNEUMONIA, *told, **(scores | values))


def test_agreement_and_shifts_of_a_classification(sessions: Sessions, add: Callable[..., None]) -> None:
    for number, (live, shadow) in enumerate([(0.1, 0.2), (0.2, 0.1), (0.9, 0.4), (0.6, 1.0)]):
        _classified(add, f"1.{number}", live, shadow)
    (row,) = shadow_report(sessions, task=None, since=None, top=2).summary
    assert (row["task"], row["live_version"], row["shadow_version"]) == ("pneumonia", "1", "2")
    assert (row["instances"], row["agreement"]) == (4, 0.75)
    # Shifts in order: -0.5, -0.1, 0.1, 0.4; percentiles lie on the straight lines between them.
    assert row["shift_mean"] == pytest.approx(-0.025)
    assert row["shift_p05"] == pytest.approx(-0.44)
    assert row["shift_p50"] == pytest.approx(0.0)
    assert row["shift_p95"] == pytest.approx(0.355)
    assert row["difference_mean"] == pytest.approx(0.275)
    assert row["kappa_quadratic"] is None
    assert row["main_angle_difference_mean"] is None


def test_the_most_different_come_first_and_each_pair_of_versions_has_its_own(
    sessions: Sessions, add: Callable[..., None]
) -> None:
    for number in range(6):
        _classified(add, f"1.{number}", 0.5, 0.5 + number / 20)
    _classified(add, "2.1", 0.5, 0.51, live_version="0")
    found = shadow_report(sessions, task=Task.PNEUMONIA, since=None, top=2)
    assert [(row["live_version"], row["instances"]) for row in found.summary] == [("0", 1), ("1", 6)]
    assert [row["sop_instance_uid"] for row in found.most_different] == ["2.1", "1.5", "1.4"]
    assert found.most_different[1]["difference"] == pytest.approx(0.25)
    assert found.most_different[1]["shadow"] == {"label": "sick", "probability": 0.75}


def test_kappa_of_zones_leaves_out_what_one_cannot_grade(sessions: Sessions, add: Callable[..., None]) -> None:
    live = dict(zip(ZONES, (0, 0, 1, 2, 3, None), strict=True))
    shadow = dict(zip(ZONES, (0, 1, 1, 2, None, 3), strict=True))
    add("1.1", Task.CSI, live, shadow, agrees=False, difference=7 / 6)
    (row,) = shadow_report(sessions, task=Task.CSI, since=None, top=1).summary
    # Pairs 00, 01, 11, 22 weigh 1 together; by chance (2*2 + 4*2*1 + 1*1 + 1*1 + 4*1*1 + 1*2) / 4 = 5.
    assert row["kappa_quadratic"] == pytest.approx(1 - 1 / 5)
    assert row["agreement"] == 0


def test_kappa_of_the_same_grades_is_1_of_opposite_ones_minus_1_and_of_one_grade_none() -> None:
    assert quadratic_kappa(np.diag([2, 3, 1, 4])) == 1
    assert quadratic_kappa(np.array([[0, 0, 0, 5], [0] * 4, [0] * 4, [5, 0, 0, 0]])) == -1
    assert quadratic_kappa(np.diag([7, 0, 0, 0])) is None
    assert quadratic_kappa(np.zeros((4, 4), np.int64)) is None


def test_the_main_angles_are_compared_where_both_have_one(sessions: Sessions, add: Callable[..., None]) -> None:
    add("1.1", Task.LANDMARKS, {"main": 20.0, "upper": 5.0}, {"main": 26.0}, difference=3.0)
    add("1.2", Task.LANDMARKS, {"main": 30.0}, {"main": 28.0}, difference=5.0)
    add("1.3", Task.LANDMARKS, {}, {"main": 28.0}, difference=9.0)
    (row,) = shadow_report(sessions, task=None, since=None, top=0).summary
    assert row["main_angle_difference_mean"] == pytest.approx(4.0)
    assert row["difference_mean"] == pytest.approx(17 / 3)


def test_only_one_task_and_only_since_a_time(sessions: Sessions, add: Callable[..., None]) -> None:
    _classified(add, "1.1", 0.5, 0.6, inferred_at=NOON - timedelta(seconds=1))
    _classified(add, "1.2", 0.5, 0.7)
    add("1.3", Task.LANDMARKS, {}, {})
    found = shadow_report(sessions, task=Task.PNEUMONIA, since=NOON, top=5)
    assert [row["sop_instance_uid"] for row in found.most_different] == ["1.2"]
    assert [row["task"] for row in shadow_report(sessions, task=None, since=None, top=5).summary] == [
        "landmarks",
        "pneumonia",
    ]


def test_scores_that_are_missing_do_not_count_in_shifts(sessions: Sessions, add: Callable[..., None]) -> None:
    zones = dict.fromkeys(ZONES)
    add("1.1", Task.CSI, zones, zones, live_score=None)
    (row,) = shadow_report(sessions, task=None, since=None, top=1).summary
    assert (row["instances"], row["shift_mean"], row["shift_p50"], row["kappa_quadratic"]) == (1, None, None, None)


def test_the_three_forms(sessions: Sessions, add: Callable[..., None]) -> None:
    _classified(add, "1.2.3", 0.25, 0.75)
    add("1.2.4", Task.CSI, dict.fromkeys(ZONES, 1), dict.fromkeys(ZONES), difference=3.0, agrees=False)
    report = shadow_report(sessions, task=None, since=None, top=5)
    written = {}
    for form in ("table", "json", "csv"):
        stream = io.StringIO()
        write_report(report, form, stream)
        written[form] = stream.getvalue()
    document = json.loads(written["json"])
    assert {row["task"] for row in document["summary"]} == {"pneumonia", "csi"}
    assert {row["sop_instance_uid"] for row in document["most_different"]} == {"1.2.3", "1.2.4"}
    rows = list(csv.DictReader(io.StringIO(written["csv"])))
    assert {row["shadow"] for row in rows} == {"sick 0.750", " ".join(f"{zone} -" for zone in ZONES)}
    assert "versions in the shadow" in written["table"]
    assert "most different instances" in written["table"]
    assert "well 0.250" in written["table"]


def test_nothing_recorded_is_said(sessions: Sessions) -> None:
    stream = io.StringIO()
    write_report(shadow_report(sessions, task=None, since=None, top=5), "table", stream)
    assert stream.getvalue() == "versions in the shadow: nothing\n"


def test_the_command_line_prints_a_report_and_refuses_a_negative_number(
    sqlite_template: Path, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    environment = {"RADSTREAM_DATABASE_URL": f"sqlite:///{sqlite_template}", "RADSTREAM_DATA_DIR": str(tmp_path)}
    done = run_python("-m", "worker", "shadow-report", "--format", "json", env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"summary": [], "most_different": []}
    refused = run_python("-m", "worker", "shadow-report", "--top", "-1", env={**os.environ, **environment})
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == ["radstream: --top: must be 0 or more"]
