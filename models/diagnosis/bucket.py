"""What the `doctor` of every process asks of the object store, where one is set."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from models.diagnosis.checks import Finding, failure, ok, skipped, warning
from models.errors import RadstreamError
from models.object_store import ObjectStore
from models.settings import Settings

SLOW_S = 1.0
"""Of writing one small object; a sender waits for it."""


def check_object_store(settings: Settings) -> Iterator[Finding]:
    """Write a small object, read it, and remove it."""
    if settings.object_store is None:
        yield skipped("no object store is set; spool and outbox are local directories")
        return
    store = ObjectStore.of(settings)
    if store is None:
        return
    key, content = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(64)
    step = "written to"
    try:
        started = time.perf_counter()
        store.put_bytes(key, content)
        seconds = time.perf_counter() - started
        step = "read from"
        same = store.get_bytes(key) == content
        step = "removed from"
        store.delete(key)
    except (RadstreamError, OSError):
        where = settings.object_store_endpoint or "AWS"
        yield failure(
            f"no object can be {step} {store.url} at {where}",
            "see that it is up, that the bucket is there and that our keys may put, get, list and delete; "
            "RADSTREAM_OBJECT_STORE, _ENDPOINT, _REGION, _ACCESS_KEY_ID, _SECRET_ACCESS_KEY",
        )
        return
    if not same:
        yield failure(f"{store.url} gives back other bytes than were written", "see the object store: it is damaged")
    elif seconds > SLOW_S:
        yield warning(f"{store.url} takes {seconds:.1f} s for a small object", "see the network to the object store")
    else:
        yield ok(f"{store.url}: an object is written in {seconds * 1000:.0f} ms, read and removed")
