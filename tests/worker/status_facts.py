"""Facts of a feed at a moment, as the status page's sources would tell them, for pages whose words are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError

from models.records.base import utc_now
from worker.status_page.facts import (
    DestinationFacts,
    EngineFacts,
    LaneFacts,
    LedgerFacts,
    PaceFacts,
    QueueFacts,
    StudyFacts,
    WorkerFacts,
)
from worker.status_page.pages import Sources, StatusPage

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def ago(**parts: float) -> datetime:
    return utc_now() - timedelta(**parts)


def study(number: int | None = 7, **changes: Any) -> StudyFacts:
    facts: dict[str, Any] = {
        "number": number,
        "received_at": ago(minutes=3),
        "modalities": ("DX",),
        "body_parts": ("CHEST",),
        "instances": 2,
        "tasks": ("csi", "pneumonia"),
        "outcomes": {("done", ""): 1, ("skipped", "no_rule_matched"): 1},
        "seconds": 1.25,
        "outputs": {"delivered": 4},
    }
    return StudyFacts(**{**facts, **changes})


def destination(name: str = "pacs1", **changes: Any) -> DestinationFacts:
    facts: dict[str, Any] = {
        "is_set": True,
        "waiting": 0,
        "dead": 0,
        "oldest_at": None,
        "due_at": None,
        "delivered_at": ago(seconds=30),
        "reason": None,
    }
    return DestinationFacts(name, **{**facts, **changes})


def ledger(**changes: Any) -> LedgerFacts:
    facts: dict[str, Any] = {
        "unfinished": 0,
        "oldest_at": None,
        "failed": 0,
        "failed_of_day": {},
        "studies": (),
        "destinations": (destination(),),
    }
    return LedgerFacts(**{**facts, **changes})


def pace(*settled: tuple[int, str, int], latencies_s: tuple[float, ...] = ()) -> PaceFacts:
    """Give a pace: so many minutes ago, so many instances of a state."""
    until = int(utc_now().timestamp()) // 60 + 1
    return PaceFacts(until, {until - 1 - minutes: {state: count} for minutes, state, count in settled}, latencies_s)


def queues(*workers: WorkerFacts, stat: int = 0, routine: int = 0, suspended: bool = False) -> QueueFacts:
    return QueueFacts((LaneFacts("stat", stat, 0), LaneFacts("routine", routine, 2)), workers, suspended)


def away(kind: type[Exception]) -> Any:
    """Be a source that does not answer."""

    def ask() -> Any:
        raise OperationalError("SELECT 1", {}, Exception()) if kind is OperationalError else kind()

    return ask


@dataclass
class Told:
    """What each source tells; change it between pages."""

    ledger: Any = field(default_factory=ledger)
    pace: Any = field(default_factory=pace)
    queues: Any = field(default_factory=queues)
    engines: tuple[EngineFacts, ...] = (EngineFacts("pneumonia", "2.0.0", "active", "onnxruntime", "fp32", "cpu"),)
    failing: dict[str, str] = field(default_factory=dict)
    spool: Path = Path("/")

    def page(self, name: str = "host-1") -> StatusPage:
        """A page over this."""

        def tell(which: str) -> Any:
            told = getattr(self, which)
            return told() if callable(told) else told

        return StatusPage(
            name,
            Sources(
                ledger=lambda: tell("ledger"),
                pace=lambda: tell("pace"),
                queues=lambda: tell("queues"),
                engines=lambda: self.engines,
                in_hand=lambda: 3,
                checks={"redis": lambda: self.failing.get("redis"), "database": lambda: self.failing.get("database")},
                spool=self.spool,
            ),
        )


def all_away() -> Told:
    """A worker whose database and Redis do not answer."""
    failing = {"redis": "redis_unavailable", "database": "database_unavailable"}
    return Told(away(OperationalError), away(OperationalError), away(RedisError), failing=failing)
