"""A real Prometheus scrapes a running feed: targets, metrics, dashboards and alert rules of `deploy` work on it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from instances import Sender, chest
from prometheus_server import Prometheus
from reconciliation import reconcile

from deploy.launcher import Feed, wait_until
from deploy.metric_catalogue import Family, catalogue
from deploy.receiver import Receiver

ROOT = Path(__file__).parents[2]
OWN_JOBS = ("radstream-scp", "radstream-worker", "radstream-delivery")

EMPTY_HERE = {
    "STOW-RS answers",
    "Object store, 95 %",
    "Versions that cannot be loaded",
    "Swaps of a day",
    "Canary fallbacks of an hour",
    "Shadow",
    "Outputs that could not be made",
    "Commitment of archives",
    "Study summaries of an hour",
    "Findings that ask for a person, of a day",
}
"""Panels that this feed gives nothing to show: nobody asks for a commitment, nothing fails, no version changes."""


@pytest.fixture(scope="module")
def feed_and_archive(
    tmp_path_factory: pytest.TempPathFactory,
    stand_in_store: Path,
    lasting_feeds: Callable[..., AbstractContextManager[Callable[..., Feed]]],
) -> Iterator[tuple[Feed, Receiver]]:
    directory = tmp_path_factory.mktemp("scraped")
    with (
        Receiver(directory / "archive") as archive,
        lasting_feeds(directory, stand_in_store, archive) as make,
        make(RADSTREAM_SCP_COMMITMENT="true") as feed,
    ):
        yield feed, archive


@pytest.fixture(scope="module")
def prometheus(
    feed_and_archive: tuple[Feed, Receiver],
    tmp_path_factory: pytest.TempPathFactory,
    peer_program: Callable[[str], str],
) -> Iterator[Prometheus]:
    """A Prometheus that has seen a feed before, while and after it settled some instances."""
    feed, archive = feed_and_archive
    ports = (feed.scp_telemetry_port, feed.worker_telemetry_port, feed.delivery_telemetry_port)
    targets = dict(zip(OWN_JOBS, ports, strict=True))
    with Prometheus(peer_program("prometheus"), tmp_path_factory.mktemp("prometheus"), targets) as server:
        assert wait_until(lambda: len(server.query("up == 1")) == 4, 60), server.query("up")
        sender = Sender(feed.port)
        sender.send([chest(seed=seed) for seed in range(4)])
        reconcile(feed, archive, sender.accepted)
        # Both ends of a rate: two scrapes of everything that the instances left behind.
        seen = 'min(count_over_time(radstream_delivery_latency_seconds_count{destination="archive"}[1m])) >= 3'
        assert wait_until(lambda: bool(server.query(seen)), 60)
        yield server


def panels() -> list[tuple[str, list[str]]]:
    """Give title and expressions of every panel, filled in as Grafana would."""
    found = []
    for file in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            told = [target["expr"] for target in panel.get("targets", [])]
            filled = [each.replace("$__rate_interval", "30s").replace("$instance", ".*") for each in told]
            found += [(panel["title"], filled)] if filled else []
    return found


def used() -> list[Family]:
    """Give the metrics that a dashboard or an alert uses."""
    rules = (ROOT / "deploy" / "prometheus" / "radstream.rules.yml").read_text()
    words = set(re.findall(r"radstream_\w+", rules + " ".join(each for _, told in panels() for each in told)))
    return [family for family in catalogue().values() if words & {family.name, *family.series}]


def test_every_target_of_the_shipped_configuration_answers(prometheus: Prometheus) -> None:
    targets = prometheus.ask("targets", state="active")["activeTargets"]
    assert {target["labels"]["job"]: (target["health"], target["lastError"]) for target in targets} == {
        job: ("up", "") for job in (*OWN_JOBS, "prometheus")
    }


def test_every_metric_of_a_dashboard_or_alert_is_known_with_its_kind_and_job(prometheus: Prometheus) -> None:
    told: dict[str, set[tuple[str, str]]] = {}
    for one in prometheus.ask("targets/metadata"):
        told.setdefault(one["metric"], set()).add((one["type"], one["target"]["job"]))
    families = used()
    assert len(families) > 45
    for family in families:
        # In the older text format a counter's metadata has the name with its suffix.
        assert told.get(family.name) == {(family.kind, family.job)}, family.name


def test_a_metric_without_labels_of_its_own_has_series_from_the_start(prometheus: Prometheus) -> None:
    for family in used():
        if not family.labels:
            (series, *_) = family.series
            assert prometheus.query(series), series


def test_every_panel_evaluates_and_shows_what_the_feed_did(prometheus: Prometheus) -> None:
    empty = {title for title, told in panels() if not any([prometheus.query(each) for each in told])}
    assert empty <= EMPTY_HERE, f"no data in {sorted(empty - EMPTY_HERE)}"
    assert len(panels()) - len(empty) > 25


def test_numbers_of_the_feed_arrive(prometheus: Prometheus) -> None:
    def value(expression: str) -> float:
        (one,) = prometheus.query(expression)
        return float(one["value"][1])

    assert value('radstream_scp_instances_total{status="success"}') == 4
    assert value('radstream_worker_instances_total{outcome="done"}') == 4
    assert value("radstream_worker_feed_latency_seconds_count") == 4
    assert value('radstream_delivery_attempts_total{outcome="delivered"}') == 8, "a picture and a report of each"
    # Counted by each sweep and then scraped, so it follows the last output by a sweep's interval and a scrape's.
    assert wait_until(lambda: value("radstream_scp_spool_pending") == 0, 30), value("radstream_scp_spool_pending")


def test_the_worker_shows_the_same_on_its_status_page(
    prometheus: Prometheus, feed_and_archive: tuple[Feed, Receiver]
) -> None:
    url = f"http://127.0.0.1:{feed_and_archive[0].worker_telemetry_port}/status.json"

    def page() -> Any:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    assert wait_until(lambda: len((page()["ledger"] or {}).get("studies", [])) == 4, 60)
    seen = page()
    assert [study["outcomes"][0]["state"] for study in seen["ledger"]["studies"]] == ["done"] * 4
    assert [study["outputs"] for study in seen["ledger"]["studies"]] == [{"delivered": 2}] * 4
    assert {engine["role"] for engine in seen["here"]["engines"]} == {"active"}
    assert [worker["name"] for worker in seen["queues"]["workers"]] == [seen["here"]["name"]]
    assert "PLANTED" not in json.dumps(seen)


def test_no_rule_fails_and_a_worker_that_was_killed_raises_its_alert(
    prometheus: Prometheus, feed_and_archive: tuple[Feed, Receiver]
) -> None:
    def rules() -> dict[str, Any]:
        groups = prometheus.ask("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    assert wait_until(lambda: all(rule["health"] != "unknown" for rule in rules().values()), 60)
    assert {name: rule.get("lastError", "") for name, rule in rules().items() if rule["health"] != "ok"} == {}
    assert rules()["RadstreamWorkerDown"]["state"] == "inactive"

    feed_and_archive[0].worker.kill()

    raised = ("RadstreamWorkerDown", "RadstreamNoWorker", "RadstreamDeliveryDown")
    assert set(raised) <= set(rules())
    assert wait_until(lambda: all(rules()[name]["state"] == "firing" for name in raised), 60), rules()
    assert rules()["RadstreamScpDown"]["state"] == "inactive"
