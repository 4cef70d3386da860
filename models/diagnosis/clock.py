"""Whether the clocks of this host, of Redis and of PostgreSQL agree: latencies and commitments are counted by them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from models.diagnosis.checks import Finding, ok, skipped, warning
from models.diagnosis.redis_server import open_redis
from models.records.sessions import open_database
from models.settings import Settings

CLOCK_TOLERANCE_S: Final = 2.0
ZONE_STEP_S: Final = 900.0
"""Time zones differ by multiples of this; so does a clock that was set in the wrong one."""


def check_clock(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    """Compare our clock with that of Redis and of PostgreSQL, and their time zone with ours."""
    here = datetime.now().astimezone()
    yield ok(f"this host is in time zone {here.tzname()} (UTC{here:%z})")
    try:
        with closing(open_redis(settings, timeout_s)) as redis:
            redis.ping()
            before = time.time()
            seconds, microseconds = redis.time()
            yield from _compare("Redis", seconds + microseconds / 1e6, before, time.time())
    except (RedisError, OSError):
        yield skipped("the clock of Redis: it does not answer")
    yield from _database_clock(settings, here)


def _database_clock(settings: Settings, here: datetime) -> Iterator[Finding]:
    if not settings.sqlalchemy_url.startswith("postgres"):
        return
    engine = open_database(settings)
    try:
        with engine.connect() as connection:
            before = time.time()
            now, offset = connection.execute(
                text("SELECT extract(epoch FROM clock_timestamp()), extract(timezone FROM clock_timestamp())")
            ).one()
            yield from _compare("PostgreSQL", float(now), before, time.time())
            own = here.utcoffset()
            if own is not None and own.total_seconds() != float(offset):
                yield warning(
                    f"PostgreSQL shows times {(float(offset) - own.total_seconds()) / 3600:+g} h from this host's",
                    "ALTER DATABASE … SET timezone = '…', so that analysts read local times; what is stored is right",
                )
    except SQLAlchemyError:
        yield skipped("the clock of PostgreSQL: it does not answer")
    finally:
        engine.dispose()


def _compare(whose: str, theirs: float, before: float, after: float) -> Iterator[Finding]:
    # It was read somewhere between; only what lies outside is a difference.
    apart = theirs - min(max(theirs, before), after)
    if abs(apart) <= CLOCK_TOLERANCE_S:
        yield ok(f"the clock of {whose} agrees with ours")
        return
    remainder = abs(apart) % ZONE_STEP_S
    zone = abs(apart) >= ZONE_STEP_S and min(remainder, ZONE_STEP_S - remainder) <= CLOCK_TOLERANCE_S * 5
    cause = ", as if one was set in another time zone" if zone else ""
    yield warning(
        f"the clock of {whose} is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} ours{cause}",
        "timedatectl set-ntp true on both hosts (chronyc tracking shows the rest)",
    )
