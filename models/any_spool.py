"""The one way to the spool: a local directory, or a bucket where `RADSTREAM_OBJECT_STORE` names one.

Both kinds have the same methods, to which mypy sees wherever an `AnySpool` is used.
"""

from __future__ import annotations

from typing import TypeAlias

from models.object_spool import ObjectSpool
from models.object_store import ObjectStore, Observe
from models.settings import Settings
from models.spool import Spool
from models.telemetry import get_logger

log = get_logger("any_spool")

AnySpool: TypeAlias = Spool | ObjectSpool


def open_spool(settings: Settings, observe: Observe | None = None) -> AnySpool:
    """Give the spool of the settings, which `prepare` has yet to prepare; `observe` is told what a bucket takes.

    Raises:
        ConfigurationError: the bucket of the settings cannot be used.
    """
    archives = settings.spool_archive_days > 0
    store = ObjectStore.of(settings, observe)
    if store is None:
        return Spool(settings.spool_path, archives=archives)
    return ObjectSpool(settings.spool_path, store, cache_bytes=cache_bytes(settings), archives=archives)


def cache_bytes(settings: Settings) -> int:
    """Give the bound of each directory of copies."""
    return int(settings.object_store_cache_gb * 1e9)


def warn_of_sqlite(settings: Settings) -> None:
    """Say so where the spool serves many hosts and the results database only one."""
    if settings.object_store is not None and settings.sqlalchemy_url.startswith("sqlite"):
        log.warning("sqlite_serves_one_host", mend="set RADSTREAM_DATABASE_URL to a PostgreSQL database")
