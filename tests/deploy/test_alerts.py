"""Alert rules and scraping: checked by promtool, and bound to the metrics and commands of the code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.metric_catalogue import catalogue
from models.errors import Reason
from scp.scoreboard import OTHER_ANSWER, STOW_ANSWERS
from scp.statuses import AssociationOutcome, StoreStatus
from tests.deploy.told_commands import accept

DIRECTORY = Path(__file__).parents[2] / "deploy" / "prometheus"
CASES = ("radstream.test.yml", "drift.test.yml")
EXAMPLE = {"task": "csi", "version": "1.0.0", "destination": "archive", "reason": "worker_died"}
OF_PROMETHEUS = {"instance", "job", "le", "alertname"}
VALUES: dict[tuple[str, str], set[str]] = {
    ("radstream_scp_instances_total", "status"): {status.label for status in StoreStatus},
    ("radstream_scp_associations_total", "outcome"): {outcome.value for outcome in AssociationOutcome},
    ("radstream_scp_stow_requests_total", "code"): {*map(str, STOW_ANSWERS), OTHER_ANSWER},
    ("radstream_worker_instances_total", "reason"): {reason.value for reason in Reason} | {""},
}


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        reason = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is a failure)")
        pytest.skip(reason)
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DIRECTORY / "radstream.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def test_the_scrape_configuration_and_the_rules_are_valid(promtool: str) -> None:
    run(promtool, "check", "config", "prometheus.yml")


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_when_they_should_and_only_then(promtool: str, case: str) -> None:
    run(promtool, "test", "rules", case)


def test_every_alert_is_seen_to_fire_in_a_case() -> None:
    text = "".join((DIRECTORY / case).read_text() for case in CASES)
    fired = set(re.findall(r'alertname="(\w+)"', text))
    assert fired == {rule["alert"] for rule in alerts()}


def test_every_metric_and_label_of_a_rule_is_one_of_the_code() -> None:
    known = {series: family for family in catalogue().values() for series in family.series}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = list(_selectors("\n".join(rule["expr"] for rule in rules())))
    assert len(used) > 60
    for name, matchers in used:
        if name in recorded:
            continue
        assert name in known, f"{name} is no metric of the code"
        family = known[name]
        for label, value in matchers.items():
            assert label in {*family.labels, *OF_PROMETHEUS}, f"{name} has no label {label}"
            if (family.name, label) in VALUES:
                assert set(value.split("|")) <= VALUES[family.name, label], f"{name}: {label}={value}"


def test_jobs_of_the_rules_are_scraped() -> None:
    scraped = {job["job_name"] for job in yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())["scrape_configs"]}
    named = set(re.findall(r'job="([^"]+)"', (DIRECTORY / "radstream.rules.yml").read_text()))
    assert named == {family.job for family in catalogue().values()}
    assert named <= scraped


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_type(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description"}
    commands = re.findall(r"`([^`]+)`", rule["annotations"]["description"])
    assert commands
    for command in commands:
        _accept(re.sub(r"{{ \$labels\.(\w+) }}", lambda found: EXAMPLE.get(found[1], "HOST"), command))


def _accept(command: str) -> None:
    words = shlex.split(command)
    if words[:2] != ["python", "-m"]:
        assert words[0] in {"curl", "df", "dmesg", "docker", "echoscu", "iostat", "redis-cli", "systemctl"}, command
        return
    accept(command)


def _selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    for name, matchers in re.findall(r"\b(radstream[:_][a-z0-9_:]+)(?:{([^}]*)})?", expression):
        yield name, dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers))
