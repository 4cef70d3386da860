"""The status page says what is and what needs somebody, escapes what came from outside, and always answers."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import status_facts as told
from status_facts import HOSTILE, Told

from models.settings import Settings
from worker.settings import WorkerSettings
from worker.status_page.alerts import Weight, find_alerts
from worker.status_page.chart import draw
from worker.status_page.facts import MOST_COUNTED, EngineFacts, WorkerFacts
from worker.status_page.pages import pages_of_worker, to_json
from worker.status_page.sources import Asked
from worker.status_page.words import age, bounded, duration, size


def html(facts: Told, path: str = "/") -> str:
    return facts.page().pages[path]().body.decode()


def alerts(facts: Told) -> list[tuple[Weight, str, str]]:
    return [(alert.weight, alert.text, alert.command) for alert in find_alerts(facts.page().gather())]


# Words


def test_durations_ages_and_sizes_are_said_as_a_person_would() -> None:
    said = [duration(seconds) for seconds in (0.04, 1.25, 9.97, 59.7, 60, 125, 3600 * 11 + 60, 4800, 86_400 * 3)]
    assert said == ["0.0 s", "1.2 s", "10 s", "1 min", "1 min", "2 min", "11 h", "1 h 20 min", "3 d"]
    moment = told.ago(seconds=0)
    assert age(moment - timedelta(seconds=4.4), moment) == "4 s ago"
    assert age(moment + timedelta(seconds=4), moment) == "0 s ago", "the clocks of two hosts differ"
    assert age(None, moment) == "never"
    assert [size(value) for value in (0, 600 * 2**20, 2**30 * 1234)] == ["0 MiB", "600 MiB", "1,234.0 GiB"]
    assert [bounded(value) for value in (9999, MOST_COUNTED, MOST_COUNTED + 1)] == ["9,999", "10,000", "10,000+"]


# Alerts


def test_a_feed_at_rest_needs_nobody() -> None:
    assert alerts(Told()) == []
    assert "All is well" in html(Told())


def test_outputs_that_wait_are_told_with_their_age_reason_and_what_to_type() -> None:
    waits = {"oldest_at": told.ago(hours=2), "due_at": told.ago(seconds=-90), "reason": "destination_unreachable"}
    facts = Told(told.ledger(destinations=(told.destination("PACS1", waiting=3, **waits),)))
    text = "3 outputs to PACS1 wait since 2 h (destination unreachable)."
    assert alerts(facts) == [(Weight.WARNING, text, "python -m worker doctor")]
    assert "1 thing needs somebody" in html(facts)


def test_one_output_that_waits_for_a_moment_is_a_note_and_one_on_its_way_is_none() -> None:
    waits = {"waiting": 1, "oldest_at": told.ago(seconds=20), "due_at": told.ago(seconds=-5)}
    to = told.destination("PACS1", reason="destination_refused", **waits)
    note = (Weight.NOTE, "1 output to PACS1 waits since 20 s (destination refused).", "python -m worker doctor")
    assert alerts(Told(told.ledger(destinations=(to,)))) == [note]
    assert "Runs; 1 note" in html(Told(told.ledger(destinations=(to,))))
    assert alerts(Told(told.ledger(destinations=(told.destination("PACS1", **waits),)))) == []


def test_deliveries_that_nobody_tries_are_critical() -> None:
    to = told.destination("PACS1", waiting=2, oldest_at=told.ago(minutes=10), due_at=told.ago(minutes=3))
    text = "2 outputs to PACS1 wait since 10 min, and nobody tries."
    assert alerts(Told(told.ledger(destinations=(to,)))) == [(Weight.CRITICAL, text, "python -m worker deliver")]


def test_given_up_outputs_and_those_of_a_former_destination_are_named() -> None:
    dead = told.destination("PACS1", dead=MOST_COUNTED + 1)
    former = told.destination("OLD", is_set=False, waiting=1, dead=1)
    assert alerts(Told(told.ledger(destinations=(dead, former)))) == [
        (
            Weight.CRITICAL,
            "10,000+ outputs to PACS1 were given up.",
            "python -m worker redeliver --dead --destination PACS1",
        ),
        (Weight.CRITICAL, "1 output to OLD was given up.", "python -m worker redeliver --dead"),
        (Weight.WARNING, "1 output to OLD waits, which is no destination any more.", "RADSTREAM_WORKER_DESTINATIONS"),
    ]


def test_a_backlog_failures_suspension_and_a_silent_worker_are_told() -> None:
    silent = WorkerFacts("host-2", "busy", told.ago(hours=1), told.ago(minutes=5), 12)
    failures = {"worker_died": 1, "undecodable_pixels": 1200}
    facts = Told(
        told.ledger(unfinished=40, oldest_at=told.ago(minutes=16), failed=1201, failed_of_day=failures),
        queues=told.queues(silent, suspended=True),
    )
    assert alerts(facts) == [
        (Weight.WARNING, "The workers are suspended: nothing is taken from the queues.", "rq resume"),
        (Weight.WARNING, "Worker host-2 has been silent for 5 min.", "python -m worker run"),
        (Weight.WARNING, "40 instances not finished, the oldest since 16 min.", "python -m worker reconcile"),
        (
            Weight.NOTE,
            "1,201 instances of the last day failed: undecodable pixels 1,200, worker died 1.",
            "python -m worker results --state failed",
        ),
    ]


def test_a_refused_version_says_who_serves_instead() -> None:
    engines = (EngineFacts("csi", "1.0.0", "active"), EngineFacts("csi", "1.1.0", "refused"))
    first = (
        Weight.WARNING,
        "Version 1.1.0 of csi cannot be loaded; 1.0.0 serves on.",
        "python -m training rollback --task csi",
    )
    assert alerts(Told(engines=engines)) == [first]
    ((weight, text, _),) = alerts(Told(engines=(EngineFacts("csi", "", "refused"),)))
    assert (weight, text) == (Weight.CRITICAL, "active.json of csi cannot be loaded; no version answers.")


def test_a_disk_that_does_not_answer_is_told(tmp_path: Path) -> None:
    ((weight, text, _),) = alerts(Told(spool=tmp_path / "gone"))
    assert (weight, text) == (Weight.WARNING, "The disk of the spool does not answer this worker.")


# Pages


def test_nothing_is_asked_of_the_browser_but_to_show_and_every_answer_says_so() -> None:
    page = Told().page().pages["/"]()
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    text = page.body.decode()
    assert "<script" not in text
    assert "style=" not in text
    assert 'http-equiv="refresh" content="15"' in text
    assert "http-equiv" not in html(Told(), "/still")
    assert "Research use only - not a medical device" in text


def test_hostile_words_from_outside_stay_words() -> None:
    studies = (told.study(body_parts=(HOSTILE,), modalities=('"><b>',), outcomes={("failed", HOSTILE): 2}),)
    to = told.destination(HOSTILE, waiting=1, reason=HOSTILE, is_set=False)
    worker = WorkerFacts(HOSTILE, HOSTILE, None, told.ago(hours=1), 0)
    facts = Told(
        told.ledger(studies=studies, destinations=(to,), failed_of_day={HOSTILE: 1}), queues=told.queues(worker)
    )
    text = html(facts)
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 6


def test_a_worker_shows_no_page_where_the_settings_want_none() -> None:
    unused: Any = None
    own = WorkerSettings(status_page=False)
    assert pages_of_worker(Settings(), own, "host-1", unused, unused, unused, unused, {}) == {}
    shown = pages_of_worker(Settings(), WorkerSettings(), "host-1", unused, unused, unused, unused, {})
    assert set(shown) == {"/", "/still", "/status.json"}


def test_an_empty_feed_says_what_to_do_and_a_feed_without_destinations_that_none_are_set() -> None:
    text = html(Told(told.ledger(destinations=())))
    assert "No study was answered yet. Send a radiograph by C-STORE" in text
    assert "No destination is set" in text
    assert "Nothing was settled within the last day" in text
    assert "no answer within the last hour" in text


def test_a_page_without_database_and_redis_still_shows_the_worker_and_what_is_away() -> None:
    text = html(told.all_away())
    assert "The results database does not answer." in text
    assert "Redis does not answer." in text
    assert "<span>pneumonia</span>" in text
    assert "not ready" in text
    assert text.count("Not known.") == 4


def test_what_was_known_before_an_outage_stays_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.status_page.pages.DATABASE_S", 0.0)
    monkeypatch.setattr("worker.status_page.pages.MADE_FOR_S", 0.0)
    monkeypatch.setattr("worker.status_page.sources.REST", 0)
    facts = Told(told.ledger(studies=(told.study(),)))
    page = facts.page()
    assert "study:7" in page.pages["/"]().body.decode()
    facts.ledger = told.away(told.OperationalError)
    text = page.pages["/"]().body.decode()
    assert "study:7" in text
    assert "The results database does not answer; as of" in text


def test_the_json_has_the_facts_of_the_page_and_no_more_of_a_study(tmp_path: Path) -> None:
    facts = Told(told.ledger(studies=(told.study(),)), told.pace((2, "done", 5), latencies_s=(1.0, 2.0, 3.0, 4.0)))
    document = json.loads(facts.page().pages["/status.json"]().body)
    (study,) = document["ledger"]["studies"]
    assert set(study) == {
        *("number", "received_at", "modalities", "body_parts", "instances", "tasks"),
        *("outcomes", "seconds", "outputs"),
    }
    assert study["outcomes"][1] == {"state": "skipped", "reason": "no_rule_matched", "instances": 1}
    assert document["pace"]["latency_s"] == {"p50": 2.0, "p95": 4.0, "p99": 4.0}
    assert list(document["pace"]["settled_by_minute"].values()) == [{"done": 5}]
    assert document["notice"] == "Research use only - not a medical device"
    assert json.loads(to_json(told.all_away().page().gather()))["ledger"] is None


def test_a_chart_counts_each_minute_in_its_bar_and_leaves_out_what_is_older() -> None:
    pace = told.pace((0, "done", 3), (1, "failed", 1), (59, "skipped", 2), (60, "done", 100))
    chart = draw(pace, 60, 1, "Last hour")
    assert (chart.total, chart.peak, chart.states) == (6, 3, {"done": 3, "skipped": 2, "failed": 1})
    assert chart.svg.count("<rect") == 3
    assert '<rect class="skipped" x="1.0"' in chart.svg, "59 minutes ago is the first bar, a tenth of it gap"
    assert draw(told.pace(), 60, 1, "Last hour").svg.count("<rect") == 0


# Sources


def test_many_viewers_ask_a_source_once() -> None:
    asked = 0

    def ask() -> Any:
        nonlocal asked
        asked += 1
        return told.ledger()

    page = Told(ledger=ask).page()
    viewers = [threading.Thread(target=page.pages["/"]) for _ in range(20)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(30)
    page.pages["/status.json"]()
    assert asked == 1


def test_a_source_that_hangs_is_asked_once_and_stops_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.status_page.pages.PATIENCE_S", 0.05)
    monkeypatch.setattr("worker.status_page.pages.MADE_FOR_S", 0.0)
    release, asked = threading.Event(), threading.Semaphore(0)

    def hang() -> Any:
        asked.release()
        release.wait(30)
        return told.ledger(studies=(told.study(),))

    page = Told(ledger=hang).page()
    for _ in range(3):
        assert "The results database does not answer." in page.pages["/"]().body.decode()
    release.set()
    page._ledger.wait(time.monotonic() + 30)
    assert "study:7" in page.pages["/"]().body.decode()
    assert asked.acquire(blocking=False)
    assert not asked.acquire(blocking=False)


def test_a_source_that_took_long_rests_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("worker.status_page.sources.time.monotonic", lambda: clock[0])
    asked: list[float] = []

    def slow() -> int:
        asked.append(clock[0])
        clock[0] += 3
        return len(asked)

    source = Asked("slow", slow, 5.0)
    source._run(threading.Event())  # took 3 s until 103, rests for 60
    clock[0] = 162.9
    source.begin()
    assert asked == [100.0]
    clock[0] = 163.1
    source.begin()
    source.wait(1000.0)
    assert asked == [100.0, 163.1]
