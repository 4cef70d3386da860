"""The checks that the `doctor` of every process makes of what all processes share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from models.audit.settings import AuditSettings
from models.diagnosis.audit import check_audit
from models.diagnosis.bucket import check_object_store
from models.diagnosis.checks import Check
from models.diagnosis.clock import check_clock
from models.diagnosis.database import Schema, check_database
from models.diagnosis.redis_server import check_redis
from models.settings import Settings

OBJECT_STORE_S: Final = 60.0
"""The requests of the object store have limits of their own, which are longer than ours."""


def service_checks(settings: Settings, audit: AuditSettings, schema: Schema, timeout_s: float) -> list[Check]:
    """Give the checks of Redis, database, clocks, object store and audit trail."""
    deadline_s = 3 * timeout_s + 5
    return [
        Check("redis", partial(check_redis, settings, timeout_s), deadline_s=deadline_s),
        Check("database", partial(check_database, settings, schema), deadline_s=deadline_s),
        Check("clock", partial(check_clock, settings, timeout_s), deadline_s=deadline_s),
        Check("audit", partial(check_audit, audit, timeout_s), deadline_s=deadline_s),
        Check("object-store", partial(check_object_store, settings), deadline_s=OBJECT_STORE_S),
    ]


def database_directory(settings: Settings) -> Path | None:
    """Give the directory of the SQLite file, None where the database is none."""
    try:
        url = make_url(settings.sqlalchemy_url)
    except ArgumentError:
        return None
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database)).absolute().parent
