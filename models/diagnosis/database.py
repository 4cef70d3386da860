"""What the `doctor` of every process asks of the results database: is it there, at our migration, does it keep writes.

Addresses are told without user and password. Messages of drivers are never told: they may hold either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError

from models.diagnosis.checks import Finding, Severity, failure, ok, warning
from models.diagnosis.host import NETWORK_FILE_SYSTEMS, file_system_of
from models.errors import ConfigurationError
from models.records.sessions import open_database
from models.settings import Settings

OLDEST_POSTGRES: Final = 13
CONNECTIONS_OF_A_PROCESS: Final = 10
LOCK_WAIT_MS: Final = 3000
DATABASE_REMEDY: Final = "set RADSTREAM_DATABASE_URL, or start PostgreSQL there (systemctl start postgresql)"


@dataclass(frozen=True, slots=True)
class Schema:
    """What this code knows of the schema.

    Attributes:
        newest: revision that it is written for.
        current: asks a database for its revision.
        check: raises `ConfigurationError` where this code must not use a database.
    """

    newest: str | None
    current: Callable[[Engine], str | None]
    check: Callable[[Engine], None]


def check_database(settings: Settings, schema: Schema) -> Iterator[Finding]:
    """Ask the results database whether it is there, at a migration that fits this code, and takes writes."""
    file = _sqlite_file(settings)
    if file is not None and not file.is_file():
        # Not to be opened: that would make it.
        yield failure(f"there is no database file {file}", "python -m worker migrate")
        return
    engine = open_database(settings)
    place = _place(engine)
    try:
        with engine.connect() as connection:
            connection.execution_options(read_only=True).execute(text("SELECT 1"))
        yield ok(f"{engine.dialect.name} at {place} answers")
        yield from _kind_of_database(engine)
        at = _migration(engine, schema)
        yield at
        if at.severity is not Severity.FAILURE:
            yield from _write(engine)
    except DatabaseError as error:
        yield _unreachable(error, place)
    except SQLAlchemyError as error:
        yield failure(f"the database at {place} refuses us ({type(error).__name__})", DATABASE_REMEDY)
    finally:
        engine.dispose()


def _migration(engine: Engine, schema: Schema) -> Finding:
    try:
        schema.check(engine)
    except ConfigurationError as error:
        # "…: run `…`": what stands last is what to do.
        found, _, remedy = str(error).rpartition(": ")
        return failure(found, remedy)
    at = schema.current(engine)
    if at != schema.newest:
        return warning(
            f"the schema is at migration {at}, newer than this code ({schema.newest}), which may go on for now",
            "update radstream on this host (deploy/upgrade.md)",
        )
    return ok(f"the schema is at migration {at}")


def _sqlite_file(settings: Settings) -> Path | None:
    try:
        url = make_url(settings.sqlalchemy_url)
    except ArgumentError:
        return None  # who opens it says so
    named = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    return Path(str(url.database)) if named else None


def _place(engine: Engine) -> str:
    url = engine.url
    if engine.dialect.name == "sqlite":
        return str(url.database)
    host = url.host or str(url.query.get("host", "a local socket"))
    return f"{host}:{url.port}/{url.database}" if url.port else f"{host}/{url.database}"


def _unreachable(error: DatabaseError, place: str) -> Finding:
    # libpq tells these apart by its message alone, which is read here and not told.
    said = str(error.orig).lower()
    if "password" in said or "authentication" in said:
        return failure(
            f"the database at {place} refuses our user or password", "correct them in RADSTREAM_DATABASE_URL"
        )
    if "does not exist" in said:
        return failure(f"at {place} there is no such database or user", "createdb, or correct RADSTREAM_DATABASE_URL")
    if "too many" in said or "remaining connection slots" in said:
        return failure(f"the database at {place} has no connection left", "raise max_connections of PostgreSQL")
    if "locked" in said:
        return failure(f"{place} is locked by another program", f"see what holds it: fuser -v {place}")
    if "unable to open" in said or "readonly" in said or "read-only" in said:
        return failure(f"{place} cannot be written by us", f"sudo chown of {place} and its directory to our user")
    if "malformed" in said or "not a database" in said:
        return failure(f"{place} is damaged", "restore it from the backup (deploy/backup.md)")
    if not isinstance(error, OperationalError):
        return failure(
            f"the database at {place} refuses us ({type(error.orig).__name__})", "see the log of the database"
        )
    return failure(f"the database at {place} cannot be reached", DATABASE_REMEDY)


def _kind_of_database(engine: Engine) -> Iterator[Finding]:
    if engine.dialect.name == "sqlite":
        yield from _sqlite(engine)
    else:
        with engine.connect() as connection:
            yield from _postgres(connection)


def _sqlite(engine: Engine) -> Iterator[Finding]:
    kind = file_system_of(Path(str(engine.url.database)))
    if kind in NETWORK_FILE_SYSTEMS:
        yield failure(
            f"the SQLite database lies on a network file system ({kind}), whose locks cannot be trusted",
            "set RADSTREAM_DATABASE_URL to PostgreSQL, or RADSTREAM_DATA_DIR to a local disk",
        )
    else:
        yield ok("SQLite is for one host; PostgreSQL is for several")


def _postgres(connection: Connection) -> Iterator[Finding]:
    def show(name: str) -> str:
        return str(connection.execute(text(f"SHOW {name}")).scalar_one())

    version = int(show("server_version_num")) // 10_000
    if version < OLDEST_POSTGRES:
        yield warning(f"PostgreSQL {version} is no longer maintained", "upgrade PostgreSQL")
    if show("default_transaction_read_only") == "on" or show("transaction_read_only") == "on":
        yield failure(
            "the database takes no writes (a standby, or read-only)", "set RADSTREAM_DATABASE_URL to the primary"
        )
    isolation = show("default_transaction_isolation")
    if isolation != "read committed":
        yield warning(
            f"transactions are {isolation} by default; settling is written for read committed",
            "ALTER DATABASE … SET default_transaction_isolation = 'read committed'",
        )
    if show("fsync") != "on" or show("synchronous_commit") == "off":
        yield warning(
            "a crash of PostgreSQL can lose committed findings (fsync or synchronous_commit is off)",
            "set both on in postgresql.conf; an instance leaves the spool when its finding is committed",
        )
    most = int(show("max_connections"))
    used = int(connection.execute(text("SELECT count(*) FROM pg_stat_activity")).scalar_one())
    told = f"PostgreSQL {version}, {used} of {most} connections in use"
    if most - used < 2 * CONNECTIONS_OF_A_PROCESS:
        yield warning(
            f"{told}; each process of ours takes up to {CONNECTIONS_OF_A_PROCESS}",
            "raise max_connections of PostgreSQL",
        )
    else:
        yield ok(told)


def _write(engine: Engine) -> Iterator[Finding]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.cursor().execute(f"PRAGMA busy_timeout={LOCK_WAIT_MS}")
        else:
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'"))
        started = time.perf_counter()
        connection.execute(text("INSERT INTO study (study_instance_uid) VALUES ('radstream-doctor')"))
        connection.rollback()
    yield ok(f"a row is written and taken back in {(time.perf_counter() - started) * 1000:.1f} ms")
