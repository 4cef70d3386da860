"""What the `doctor` of every process asks of Redis: is it there, does it keep what it is given, who works for us.

Addresses are told without user and password. Messages of drivers are never told: they may hold either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from models.diagnosis.checks import Finding, failure, ok, skipped, warning
from models.diagnosis.host import GIBIBYTE
from models.errors import ConfigurationError
from models.requests import QUEUE_NAMES
from models.settings import Settings

OLDEST_REDIS: Final = (5, 0)
GOOD_REDIS: Final = (6, 2)
"""The first that moves a job from its queue in one step (LMOVE), so that a killed worker drops none on the floor."""
APPEND_REMEDY: Final = (
    "redis-cli CONFIG SET appendonly yes && redis-cli CONFIG REWRITE; until then a restart only costs time: "
    "no instance is lost, the SCP queues it again"
)
REDIS_REMEDY: Final = "set RADSTREAM_REDIS_URL, or start Redis there (systemctl start redis)"


def place_of(url: str) -> str:
    """Give host and port, or the path, of a URL without anything secret."""
    parts = urlsplit(url)
    if not parts.hostname:
        return parts.path or parts.scheme
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname


def open_redis(settings: Settings, timeout_s: float) -> Redis:
    """Make a client that waits no longer than told.

    Raises:
        ConfigurationError: the URL is none.
    """
    try:
        return Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigurationError("RADSTREAM_REDIS_URL: not a Redis URL; use redis://HOST:6379/0") from error


def check_redis(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    """Ask Redis whether it is there, keeps what it is given, and who works for us."""
    place = place_of(settings.redis_url.get_secret_value())
    with closing(open_redis(settings, timeout_s)) as redis:
        try:
            info: dict[str, Any] = redis.info()
        except AuthenticationError:
            yield failure(
                f"Redis at {place} refuses our user or password",
                "set RADSTREAM_REDIS_URL=redis://:PASSWORD@HOST:6379/0",
            )
            return
        except ResponseError:
            yield failure(
                f"Redis at {place} does not let us ask (no permission, or a password is missing)",
                "set RADSTREAM_REDIS_URL with user and password; its ACL must allow the commands that RQ uses",
            )
            return
        except RedisTimeoutError:
            yield failure(f"Redis at {place} gives no answer within {timeout_s:g} s", REDIS_REMEDY)
            return
        except (RedisError, OSError):
            yield failure(f"Redis at {place} cannot be reached", REDIS_REMEDY)
            return
        yield from _version(info, place)
        yield from _persistence(redis, info)
        yield from _memory(info)
        yield from _workers(redis)


def _version(info: dict[str, Any], place: str) -> Iterator[Finding]:
    version = str(info.get("redis_version", "0"))
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if info.get("role") == "slave":
        yield failure(f"Redis at {place} is a replica, which takes no writes", "set RADSTREAM_REDIS_URL to the primary")
    elif number < OLDEST_REDIS:
        yield failure(f"Redis {version} at {place} is too old", "upgrade Redis to 6.2 or later")
    elif number < GOOD_REDIS:
        yield warning(f"Redis {version} at {place}: a worker killed at the wrong moment delays a job", "upgrade to 6.2")
    else:
        yield ok(f"Redis {version} at {place} answers")


def _persistence(redis: Redis, info: dict[str, Any]) -> Iterator[Finding]:
    appends = bool(info.get("aof_enabled"))
    if appends and info.get("aof_last_write_status", "ok") != "ok":
        yield failure(
            "Redis cannot write its append-only file, and takes no jobs", "free space on its disk; see its log"
        )
        return
    saves = _saves(redis)
    if saves and info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield failure(
            "the last save of Redis failed; by default it then takes no jobs",
            "free space and memory on its host, then: redis-cli BGSAVE; see its log",
        )
        return
    if appends:
        yield ok("Redis keeps an append-only file")
    elif saves:
        yield warning(
            "Redis saves now and then, without an append-only file: a crash forgets minutes of the queue",
            APPEND_REMEDY,
        )
    elif saves is None:
        yield skipped("whether Redis saves is not told (CONFIG is not allowed); its provider knows")
    else:
        yield warning(
            "Redis keeps nothing on disk: a restart empties the queues",
            APPEND_REMEDY,
        )


def _saves(redis: Redis) -> bool | None:
    try:
        answer: dict[str, str] = redis.config_get("save")  # type: ignore[assignment]
    except RedisError:
        return None
    return bool(answer.get("save"))


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy, most, used = (
        info.get("maxmemory_policy", "noeviction"),
        info.get("maxmemory", 0),
        info.get("used_memory", 0),
    )
    if policy != "noeviction":
        remedy = "redis-cli CONFIG SET maxmemory-policy noeviction && redis-cli CONFIG REWRITE"
        if most:
            yield failure(f"Redis throws jobs away when it is full (maxmemory-policy {policy})", remedy)
        else:
            yield warning(f"Redis would throw jobs away if maxmemory were set (maxmemory-policy {policy})", remedy)
    if most and used > 0.8 * most:
        yield warning(f"Redis uses {used / most:.0%} of its memory", "raise maxmemory, or see why the queue grows")
    else:
        of = f" of {most / GIBIBYTE:.1f} GiB" if most else ""
        yield ok(f"Redis uses {used / (1 << 20):.0f} MiB{of}")


def _workers(redis: Redis) -> Iterator[Finding]:
    # The keys of RQ: a worker's own key runs out when it is silent, its name in the set stays until it is cleaned.
    names: set[bytes] = redis.smembers("rq:workers")  # type: ignore[assignment]
    alive = sum(bool(redis.exists(name)) for name in names)
    waiting = {name: int(redis.llen(f"rq:queue:{name}")) for name in QUEUE_NAMES}
    queued = ", ".join(f"{count} in {name}" for name, count in waiting.items())
    if not alive:
        remedy = "python -m worker run (systemctl start radstream-worker)"
        if any(waiting.values()):
            yield failure(f"no worker is registered while jobs wait ({queued})", remedy)
        else:
            yield warning("no worker is registered", remedy)
    else:
        yield ok(f"{alive} worker{'s' if alive > 1 else ''} registered; jobs waiting: {queued}")
