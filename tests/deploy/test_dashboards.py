"""The dashboards are what the code's metrics say, whole, and of expressions that Prometheus understands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy import dashboard_panels, dashboards
from deploy.metric_catalogue import catalogue

ROOT = Path(__file__).parents[2]
LEFT_OUT: dict[str, str] = {}
"""Metrics that no dashboard shows, and why."""


def panels() -> list[dict[str, Any]]:
    files = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
    assert [file.stem for file in files] == ["delivery", "drift", "engines", "feed"]
    found = [panel for file in files for panel in json.loads(file.read_text())["panels"]]
    return [panel for panel in found if panel["type"] != "row"]


def test_the_dashboards_are_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards.main(["--check"]) == 0, "run `python -m deploy.dashboards`"
    assert "feed.json is up to date\n" in capsys.readouterr().out


def test_an_older_dashboard_is_found_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "TARGET", tmp_path / "grafana")
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0
    assert dashboards.main(["--check"]) == 0
    (tmp_path / "grafana" / "feed.json").write_text("{}")
    assert dashboards.main(["--check"]) == 1


def test_a_renamed_metric_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = {name: family for name, family in catalogue().items() if name != "radstream_scp_receivers"}
    monkeypatch.setattr(dashboard_panels, "catalogue", lambda: without)
    assert dashboards.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "radstream_scp_receivers: the code has no gauge of this name: change deploy/dashboard_panels.py\n"
    )


def test_a_label_that_the_metric_lacks_is_refused() -> None:
    with pytest.raises(LookupError, match=r"radstream_delivery_dead: the code has no label \['task'\]"):
        dashboard_panels.gauge("radstream_delivery_dead", "task")


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    shown = {name for panel in panels() for name in re.findall(r"`(radstream_\w+)`", panel["description"])}
    assert shown | set(LEFT_OUT) == set(catalogue())
    assert not shown & set(LEFT_OUT)


def test_no_metric_of_the_sources_escapes_the_catalogue() -> None:
    known = {name.removesuffix("_total") for name in catalogue()}
    named = {
        name
        for package in ("scp", "worker", "models")
        for file in (ROOT / package).rglob("*.py")
        for name in re.findall(r'"(radstream_(?:scp|worker|delivery|queue)_[a-z_]*[a-z])"', file.read_text())
    }
    assert len(named) > 30
    assert named <= known


def test_every_panel_has_title_unit_legend_and_description() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_of_a_dashboard_do_not_overlap() -> None:
    for file in (ROOT / "deploy" / "grafana").glob("*.json"):
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text())["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken
            taken |= cells


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is a failure)")
        pytest.skip(reason)
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    records = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, expression in enumerate(expressions)
    ]
    rules = tmp_path / "panels.yml"  # JSON is YAML
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": records}]}))
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions)} rules found" in done.stdout
