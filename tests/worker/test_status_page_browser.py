"""The status page in a real Chromium: readable on a phone and a desk, in light and dark, by anybody, without script."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import status_facts as told
from prometheus_client import CollectorRegistry
from status_facts import HOSTILE, Told

from models.telemetry import TelemetryServer
from worker.status_page.facts import EngineFacts, WorkerFacts

PHONE, DESK = (390, 844), (1280, 900)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
PICTURES = os.environ.get("RADSTREAM_TEST_PICTURES")
"""A directory for pictures of the pages that these tests look at."""


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    if found is None:
        reason = f"{name} is not installed: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is a failure)")
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = program("chromium"), program("chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    found.set_page_load_timeout(60)
    yield found
    found.quit()


def busy() -> Told:
    """A feed with everything at once: findings, failures, canary, shadow, a refused version, outputs that wait."""
    studies = tuple(told.study(number, received_at=told.ago(seconds=41 * number)) for number in range(9, 1, -1))
    bad = told.study(
        None, tasks=(), outputs={}, instances=1, outcomes={("failed", "undecodable_pixels"): 1}, body_parts=(HOSTILE,)
    )
    waits = {"waiting": 1234, "oldest_at": told.ago(hours=2, minutes=5), "due_at": told.ago(seconds=-600)}
    return Told(
        told.ledger(
            unfinished=42,
            oldest_at=told.ago(minutes=4),
            failed=12,
            failed_of_day={"undecodable_pixels": 9, "worker_died": 1},
            studies=(bad, told.study(11, outputs={"pending": 2, "dead": 1}), *studies),
            destinations=(
                told.destination("archive"),
                told.destination("radiology-PACS.hospital.example", reason="destination_unreachable", **waits),
                told.destination("former", is_set=False, dead=3),
            ),
        ),
        told.pace(
            *((minute, state, 1 + (minute * 7) % 5) for minute in range(0, 1400, 3) for state in ("done",)),
            *((minute, "skipped", 2) for minute in range(1, 900, 20)),
            *((minute, "failed", 1) for minute in range(2, 60, 17)),
            latencies_s=tuple(step / 100 for step in range(40, 400)),
        ),
        told.queues(
            WorkerFacts("host-1", "busy", told.ago(days=3), told.ago(seconds=2), 123_456),
            WorkerFacts("reading-room-workstation-2.hospital.example", "idle", told.ago(hours=2), told.ago(hours=1), 7),
            stat=2,
            routine=40,
        ),
        (
            EngineFacts("csi", "1.0.0", "active", "onnxruntime", "int8", "cpu"),
            EngineFacts("csi", "1.1.0", "shadow", "onnxruntime", "fp32"),
            EngineFacts("pneumonia", "2.0.0", "active", "tensorrt", "fp16", "NVIDIA RTX 4000 Ada Generation"),
            EngineFacts("pneumonia", "2.1.0", "canary", "tensorrt", "fp16", "NVIDIA RTX 4000 Ada Generation", 5.0),
            EngineFacts("landmarks", "1.2.0", "refused"),
        ),
    )


FEEDS: dict[str, Callable[[], Told]] = {
    "busy": busy,
    "empty": lambda: Told(told.ledger(destinations=())),
    "away": told.all_away,
}


@pytest.fixture(params=FEEDS)
def shown(request: pytest.FixtureRequest, browser: Any) -> Iterator[str]:
    """Open the page of a feed in the browser; give the name of the feed."""
    page = FEEDS[request.param]().page()
    server = TelemetryServer("127.0.0.1", 0, CollectorRegistry(), {}, page.pages)
    server.start()
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"http://127.0.0.1:{server.port}/still")
    yield request.param
    server.stop()


def set_window(browser: Any, window: tuple[int, int], dark: bool) -> None:
    metrics = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": window == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def keep_picture(browser: Any, name: str) -> None:
    if PICTURES:
        import base64

        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (Path(PICTURES) / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def too_wide(browser: Any) -> list[str]:
    """Elements that reach beyond the window, or whose text reaches beyond them."""
    script = """
    const wide = document.documentElement.clientWidth;
    return [...document.body.querySelectorAll('*')].filter(element => {
      const style = getComputedStyle(element);
      if (style.clipPath !== 'none' || element.closest('thead, caption, svg')) return false;
      return element.getBoundingClientRect().right > wide + 0.5
        || (style.display !== 'inline' && element.scrollWidth > element.clientWidth + 1);
    }).map(element => element.outerHTML.slice(0, 120));"""
    found: list[str] = browser.execute_script(script)
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("window", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_and_passes_the_accessibility_checker(
    browser: Any, shown: str, window: tuple[int, int], dark: bool
) -> None:
    from axe_core_python.selenium import Axe

    set_window(browser, window, dark)
    keep_picture(browser, f"{shown}_{'phone' if window == PHONE else 'desk'}_{'dark' if dark else 'light'}")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= window[0]
    assert too_wide(browser) == []
    results = Axe().run(browser)
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in results["violations"]] == []
    checked = {rule["id"] for rule in results["passes"]}
    assert {"color-contrast", "document-title", "html-has-lang", "landmark-one-main"} <= checked
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []


def test_the_browser_shows_the_words_of_a_busy_feed_and_runs_nothing_of_a_sender(browser: Any) -> None:
    server = TelemetryServer("127.0.0.1", 0, CollectorRegistry(), {}, busy().page().pages)
    server.start()
    try:
        set_window(browser, DESK, dark=False)
        browser.get(f"http://127.0.0.1:{server.port}/still")
        body = browser.find_element("tag name", "body").text
        assert (
            "1,234 outputs to radiology-PACS.hospital.example wait since 2 h 5 min (destination unreachable)." in body
        )
        assert HOSTILE in body, "the body part as it was sent"
        assert "canary (5 %)" in body
        assert "study:11" in body
        assert "Research use only - not a medical device." in body
        assert browser.find_elements("css selector", "script, img, iframe, object, form") == []
        assert len(browser.find_elements("css selector", "svg rect")) > 60
        colours = {
            state: browser.find_element("css selector", f"svg .{state}").value_of_css_property("fill")
            for state in ("done", "skipped", "failed")
        }
        assert len(set(colours.values())) == 3, "the policy let the style in"
        headings = [each.text for each in browser.find_elements("css selector", "h1, h2")]
        assert headings == [
            *("radstream", "Queue", "Throughput", "This worker", "Engines", "Delivery", "Latest studies", "All workers")
        ]
    finally:
        server.stop()
