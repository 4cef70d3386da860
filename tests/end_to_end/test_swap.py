"""Engines are promoted, rolled back, tried and refused while a feed runs at load; afterwards everything must add up.

Real processes. What is asserted is which version answered for what, how often, and in which order, never how long
anything took.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from instances import Sender, chest
from pydicom.uid import generate_uid
from reconciliation import Ledger, reconcile, tails
from stand_in_store import add_stand_in, add_version, make_store

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from models.store.activation import in_canary
from models.store.store import ModelStore
from models.tasks import Task
from training.__main__ import main
from worker.__main__ import main as worker_main

PREFETCH = 8
"""Jobs that the worker has in hand at once: two full batches."""
MANY = 6
"""Instances that are waited for, so that a state of the store meets full batches."""
SMALL = {
    "RADSTREAM_WORKER_PREFETCH": str(PREFETCH),
    "RADSTREAM_WORKER_MAX_BATCH": "4",
    "RADSTREAM_WORKER_DECODERS": "2",
    "RADSTREAM_WORKER_ENGINE_POLL_S": "0.1",
    "RADSTREAM_WORKER_OVERLAY_MAX_SIDE": "256",
}
"""Half of the usual hands and batches: what is waited for at each swap is what was in hand before."""


class Watched:
    """A feed, its store, and what its worker says and writes meanwhile."""

    def __init__(self, feed: Feed, store: ModelStore) -> None:
        self.feed, self.store = feed, store
        self.ledger = Ledger(feed)

    def do(self, command: str, *arguments: str) -> None:
        done = main([command, "--task", "pneumonia", "--store", str(self.store.root), *arguments])
        assert done == 0

    def wait_for_metric(self, line: str) -> None:
        assert wait_until(lambda: line in self.metrics(), 60, 0.1), f"{line} is not in\n{self.metrics()}"

    def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.feed.worker_telemetry_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    def wait_for_active(self, version: str) -> None:
        info = f'precision="fp32",provider="onnxruntime",role="active",task="pneumonia",version="{version}"'
        self.wait_for_metric(f"radstream_worker_engine_info{{{info}}} 1.0")

    def serve_only(self, version: str) -> None:
        """Let one version serve, whatever did before."""
        if self.store.active(Task.PNEUMONIA) != version:
            self.do("promote", "--version", version)
        self.wait_for_active(version)

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.feed.worker_telemetry_port}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)

    def settled(self) -> list[dict[str, object]]:
        """Every answer in the order in which it was given."""
        return self.ledger.rows(
            "SELECT instance.id, instance.sop_instance_uid AS uid, instance.received_at, inference.inferred_at,"
            " model_version.version FROM inference JOIN instance ON instance.id = inference.instance_id"
            " JOIN model_version ON model_version.id = inference.model_version_id"
            " ORDER BY inference.inferred_at, inference.id"
        )

    def number_settled(self) -> int:
        """How many instances were answered."""
        (row,) = self.ledger.rows("SELECT COUNT(*) AS number FROM inference")
        return int(str(row["number"]))

    def wait_for_more(self, number: int = MANY) -> None:
        """Wait until so many more instances were answered."""
        before = self.number_settled()
        assert wait_until(lambda: self.number_settled() >= before + number, 90, 0.1), tails(self.feed)

    def settled_from_now(self) -> Callable[[], list[dict[str, object]]]:
        """Give those that were received after this moment, when asked."""
        (row,) = self.ledger.rows("SELECT MAX(received_at) AS last FROM instance")
        last = str(row["last"])
        return lambda: [row for row in self.settled() if str(row["received_at"]) > last]


class Traffic:
    """Studies of two images each, sent over two associations at once until told to stop.

    As many as keep the worker's hands full and a few waiting; a longer queue would only make each change be felt later.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.sender = Sender(watched.feed.port)
        self.study_of: dict[str, str] = {}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=[seed]) for seed in (0, 1)]
        for thread in self._threads:
            thread.start()

    def _send(self, seed: int) -> None:
        while not self._stopping.is_set():
            if len(self.sender.accepted) - self._watched.number_settled() > PREFETCH + MANY:
                self._stopping.wait(0.02)
                continue
            study = str(generate_uid())
            images = [chest(128, seed + image, StudyInstanceUID=study) for image in (0, 1)]
            self.study_of.update({str(image.SOPInstanceUID): study for image in images})
            self.sender.send(images)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for the file, as the feed is."""
    with Receiver(tmp_path_factory.mktemp("archive")) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def watched(lasting_feeds: Any, tmp_path_factory: pytest.TempPathFactory, archive: Receiver) -> Iterator[Watched]:
    """A feed for all tests of this file; each begins by saying which version serves."""
    tmp_path = tmp_path_factory.mktemp("swap")
    store = make_store(tmp_path / "models", "one", side=64)
    add_stand_in(store, tmp_path / "two", "two", side=96)
    add_stand_in(store, tmp_path / "three", "three", side=64)
    add_version(store, tmp_path / "broken", "broken", b"published in good order, but no network", side=64)
    pictures = {"name": "archive", "host": "127.0.0.1", "port": archive.port, "ae_title": archive.ae_title}
    destinations = json.dumps([{**pictures, "outputs": ["secondary_capture"]}])
    with lasting_feeds(tmp_path, store.root, archive) as feeds:
        feed = feeds(RADSTREAM_WORKER_DESTINATIONS=destinations, **SMALL)
        feed.start()
        watched = Watched(feed, store)
        yield watched
        watched.ledger.close()


def test_versions_come_and_go_under_load_and_no_instance_is_lost_failed_doubled_or_overtaken(
    watched: Watched, archive: Receiver
) -> None:
    watched.serve_only("one")
    traffic = Traffic(watched)
    try:
        watched.wait_for_more()
        for command, arguments, version in (
            ("promote", ("--version", "two"), "two"),
            ("rollback", (), "one"),
            ("promote", ("--version", "three"), "three"),
            ("rollback", (), "one"),
            ("promote", ("--version", "two"), "two"),
        ):
            watched.do(command, *arguments)
            watched.wait_for_active(version)
            after = watched.settled_from_now()
            watched.wait_for_more()
            assert wait_until(lambda after=after: len(after()) >= 2, 90, 0.2), tails(watched.feed)
            assert {row["version"] for row in after()} == {version}
        watched.do("promote", "--version", "broken")
        watched.wait_for_metric('radstream_worker_engine_refused{task="pneumonia",version="broken"} 1.0')
        watched.wait_for_more()
        assert watched.is_ready()
        watched.wait_for_active("two")
        watched.do("rollback")
        watched.wait_for_more()
        assert "engine_refused{" not in watched.metrics()
    finally:
        traffic.stop()
    reconcile(watched.feed, archive, traffic.sender.accepted)
    assert traffic.sender.refused == traffic.sender.unanswered == []
    settled = watched.settled()
    assert Counter(row["uid"] for row in settled) == Counter(traffic.sender.accepted), "each once"
    versions = Counter(row["version"] for row in settled)
    assert set(versions) == {"one", "two", "three"}
    assert min(versions.values()) >= MANY // 2
    assert _most_overtaken(settled) <= 2 * PREFETCH
    # Five swaps, and one refusal for which nothing was swapped.
    assert 'radstream_worker_swaps_total{outcome="swapped",task="pneumonia"} 5.0' in watched.metrics()
    assert 'radstream_worker_swaps_total{outcome="refused",task="pneumonia"} 1.0' in watched.metrics()


def test_a_canary_answers_for_its_studies_and_a_shadow_is_recorded_apart_under_load(
    watched: Watched, archive: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.serve_only("one")
    traffic = Traffic(watched)
    try:
        watched.wait_for_more(4)
        watched.do("promote", "--version", "two", "--canary", "50")
        watched.do("shadow", "--version", "three")
        for version, role in (("two", "canary"), ("three", "shadow")):
            watched.wait_for_metric(f'role="{role}",task="pneumonia",version="{version}"}} 1.0')
        after = watched.settled_from_now()
        watched.wait_for_more(2 * MANY)
    finally:
        traffic.stop()
    reconcile(watched.feed, archive, traffic.sender.accepted)
    expected = {
        str(row["uid"]): "two" if in_canary(traffic.study_of[str(row["uid"])], 50) else "one" for row in after()
    }
    assert {str(row["uid"]): row["version"] for row in after()} == expected
    assert set(expected.values()) == {"one", "two"}
    settled = {str(row["uid"]): row["version"] for row in watched.settled()}
    assert {settled[uid] for uid in traffic.sender.accepted} == {"one", "two"}, "the shadow is in no finding"

    recorded = "SELECT instance_id, live_version, shadow_version, live_score, shadow_score FROM shadow_finding"
    assert wait_until(lambda: len(watched.ledger.rows(recorded)) >= MANY, 60, 0.2), watched.metrics()
    rows = watched.ledger.rows(recorded)
    assert len({row["instance_id"] for row in rows}) == len(rows)
    assert {row["shadow_version"] for row in rows} == {"three"}
    live = {row["id"]: row["version"] for row in watched.settled()}
    assert all(live[row["instance_id"]] == row["live_version"] for row in rows)
    report = _shadow_report(watched.feed, monkeypatch, capsys)
    assert {row["live_version"] for row in report["summary"]} <= {"one", "two"}
    assert sum(row["instances"] for row in report["summary"]) == len(watched.ledger.rows(recorded))
    # Mean grey values of the same image: which size it was shrunk to hardly matters.
    assert all(abs(row["shift_mean"]) < 0.01 for row in report["summary"])


def _most_overtaken(settled: list[dict[str, object]]) -> int:
    """Of any instance: how many were received after it and answered before it."""
    received = [str(row["received_at"]) for row in settled]
    return max(sum(earlier > mine for earlier in received[:place]) for place, mine in enumerate(received))


def _shadow_report(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, list[dict[str, float]]]:
    for name, value in feed.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
    capsys.readouterr()
    assert worker_main(["shadow-report", "--format", "json"]) == 0
    report: dict[str, list[dict[str, float]]] = json.loads(capsys.readouterr().out)
    return report
