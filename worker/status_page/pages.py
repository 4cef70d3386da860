"""The status page of a worker: what it gathers, and how that becomes HTML and JSON.

Looking on is free of effects and cheap: sources are asked at most once in some seconds, a page is made at most once in
two, whoever and however many look. The page needs no script and loads nothing; every text is escaped by the templates.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from redis import Redis
from sqlalchemy.orm import Session, sessionmaker

from models.identity import DISCLAIMER, VERSION
from models.records.base import utc_now
from models.settings import Settings
from models.telemetry import Page
from worker.engine_set import EngineSet
from worker.metrics import WorkerMetrics
from worker.settings import WorkerSettings
from worker.status_page import words as status_page_words
from worker.status_page.alerts import find_alerts
from worker.status_page.chart import draw
from worker.status_page.engines import in_hand, read_engines
from worker.status_page.facts import EngineFacts, Facts, HereFacts, LedgerFacts, PaceFacts, QueueFacts
from worker.status_page.ledger import LedgerReader
from worker.status_page.queues import read_queues
from worker.status_page.sources import Asked

MADE_FOR_S: Final = 2.0
"""How long a page that was made is given to others."""
PATIENCE_S: Final = 2.0
"""How long a page waits for sources that are being asked."""
DATABASE_S: Final = 5.0
PACE_S: Final = 15.0
REDIS_S: Final = 2.0
DISK_S: Final = 10.0

_TEMPLATES: Final = resources.files("worker.status_page")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is asked of whom.

    Attributes:
        ledger, pace: of the database.
        queues: of Redis.
        spool: the directory on the disk whose free space is shown.
        checks: readiness checks of this process.
    """

    ledger: Callable[[], LedgerFacts]
    pace: Callable[[], PaceFacts]
    queues: Callable[[], QueueFacts]
    engines: Callable[[], tuple[EngineFacts, ...]]
    in_hand: Callable[[], int]
    checks: Mapping[str, Callable[[], str | None]]
    spool: Path


def pages_of_worker(
    settings: Settings,
    own: WorkerSettings,
    name: str,
    redis: Redis,
    sessions: sessionmaker[Session],
    metrics: WorkerMetrics,
    engines: EngineSet,
    checks: Mapping[str, Callable[[], str | None]],
) -> dict[str, Callable[[], Page]]:
    """Give the pages of a worker by their paths, for its telemetry port; none where the settings want none."""
    if not own.status_page:
        return {}
    reader = LedgerReader(sessions, [to.name for to in own.destinations])
    sources = Sources(
        ledger=reader.read_now,
        pace=reader.read_pace,
        queues=lambda: read_queues(redis),
        engines=lambda: read_engines(metrics, engines),
        in_hand=lambda: in_hand(metrics),
        checks=checks,
        spool=settings.spool_path,
    )
    return StatusPage(name, sources).pages


class StatusPage:
    """Makes `/` and `/status.json`; may be asked by any thread."""

    def __init__(self, name: str, sources: Sources) -> None:
        self._name = name
        self._sources = sources
        self._started_at = utc_now()
        self._ledger = Asked("database", sources.ledger, DATABASE_S)
        self._pace = Asked("pace", sources.pace, PACE_S)
        self._queues = Asked("redis", sources.queues, REDIS_S)
        self._disk = Asked("disk", lambda: shutil.disk_usage(sources.spool).free, DISK_S)
        self._checks = Asked("checks", self._failing, REDIS_S)
        self._lock = threading.Lock()
        self._made_at = float("-inf")
        self._made: dict[str, Page] = {}
        self._template, self._style = _load()

    @property
    def pages(self) -> dict[str, Callable[[], Page]]:
        """What the port serves, by path."""
        return {path: lambda path=path: self._page(path) for path in ("/", "/still", "/status.json")}  # type: ignore[misc]

    def _page(self, path: str) -> Page:
        with self._lock:  # whoever comes meanwhile gets what the first one had made
            if time.monotonic() - self._made_at > MADE_FOR_S:
                facts = self.gather()
                self._made = {
                    "/": self._render(facts, moving=True),
                    "/still": self._render(facts, moving=False),
                    "/status.json": Page("application/json", to_json(facts).encode()),
                }
                self._made_at = time.monotonic()
            return self._made[path]

    def gather(self) -> Facts:
        """Ask whatever is due, wait a little, and give what is known."""
        asked: tuple[Asked[Any], ...] = (self._checks, self._ledger, self._pace, self._queues, self._disk)
        for source in asked:
            source.begin()
        until = time.monotonic() + PATIENCE_S
        for source in asked:
            source.wait(until)
        (ledger, of_ledger), (queues, of_queues) = self._ledger.known, self._queues.known
        (pace, of_pace), (free, of_disk), (failing, _) = self._pace.known, self._disk.known, self._checks.known
        here = HereFacts(
            name=self._name,
            started_at=self._started_at,
            failing=failing or {},
            in_hand=self._sources.in_hand(),
            engines=self._sources.engines(),
            free_bytes=free if of_disk.answers else None,
        )
        sources = {"database": of_ledger, "pace": of_pace, "redis": of_queues, "disk": of_disk}
        return Facts(utc_now(), here, queues, ledger, pace, sources)

    def _failing(self) -> dict[str, str]:
        return {name: reason for name, check in self._sources.checks.items() if (reason := check()) is not None}

    def _render(self, facts: Facts, *, moving: bool) -> Page:
        pace = facts.pace
        html = self._template.render(
            facts=facts,
            here=facts.here,
            alerts=find_alerts(facts),
            hour=draw(pace, 60, 1, "Last hour") if pace else None,
            day=draw(pace, 24 * 60, 30, "Last day") if pace else None,
            words=status_page_words,
            zone=facts.at.astimezone().tzname(),
            moving=moving,
            style=self._style,
            version=VERSION,
            disclaimer=DISCLAIMER,
        )
        return Page("text/html; charset=utf-8", html.encode(), _headers(self._style))


def _load() -> tuple[Any, Markup]:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = _TEMPLATES.joinpath("page.html").read_text(encoding="utf-8")
    style = _TEMPLATES.joinpath("page.css").read_text(encoding="utf-8")
    return environment.from_string(text), Markup(style)


def _headers(style: str) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


def to_json(facts: Facts) -> str:
    """Write facts and alerts as JSON; times are ISO 8601 in UTC."""
    document = asdict(facts)
    document["alerts"] = [asdict(alert) for alert in find_alerts(facts)]
    document["version"], document["notice"] = VERSION, DISCLAIMER
    if facts.pace is not None:
        quantiles = {f"p{part:.0%}".rstrip("%"): facts.pace.quantile_s(part) for part in (0.5, 0.95, 0.99)}
        document["pace"] = {"settled_by_minute": facts.pace.by_minute, "latency_s": quantiles}
    if facts.ledger is not None:
        studies = zip(document["ledger"]["studies"], facts.ledger.studies, strict=True)
        for written, study in studies:
            written["outcomes"] = [
                {"state": state, "reason": reason or None, "instances": count}
                for (state, reason), count in study.outcomes.items()
            ]
    return json.dumps(document, default=_plain, indent=1) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")
