"""A consistent copy of the results database, made while it is used, and put back.

SQLite by its online backup; PostgreSQL by `pg_dump` and `pg_restore`, which must be of the server's release or newer.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Engine, inspect, make_url

from models.errors import ConfigurationError, Reason, Transient
from models.settings import Settings
from models.store.durable import fsync

SQLITE_COPY: Final = "database.db"
POSTGRES_COPY: Final = "database.dump"


def copy_database(settings: Settings, directory: Path) -> Path:
    """Copy it as it is at one moment, and give the file.

    Raises:
        ConfigurationError: there is no database, or no `pg_dump`.
        Transient: it does not answer, or the copy is not sound.
    """
    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite":
        target = directory / SQLITE_COPY
        _copy_sqlite(Path(str(url.database)), target)
    else:
        target = directory / POSTGRES_COPY
        _run("pg_dump", url, "--format=custom", f"--file={target}")
    fsync(target)
    return target


def _copy_sqlite(source: Path, target: Path) -> None:
    if not source.exists():
        raise ConfigurationError(f"RADSTREAM_DATABASE_URL: there is no database at {source}")
    with closing(sqlite3.connect(source)) as origin, closing(sqlite3.connect(target)) as copy:
        # In one step, under a read lock that in WAL mode keeps no writer out; in several, each write begins it anew.
        origin.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file; whoever opens it for work makes it WAL again
        (verdict,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise Transient(Reason.DATABASE_UNAVAILABLE, "the copy is damaged, and so may be the database: see its disk")


def check_empty(settings: Settings, database: Engine) -> None:
    """See that nothing would be overwritten.

    Raises:
        ConfigurationError: there is a database with something in it.
        SQLAlchemyError: it does not answer.
    """
    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite":
        if Path(str(url.database)).exists():
            raise ConfigurationError(f"{url.database} exists: stop the worker, move the file away, then restore")
        return
    with database.connect() as connection:
        if inspect(connection).get_table_names():
            raise ConfigurationError(
                f"database {url.database} is not empty: stop the worker, rename it (ALTER DATABASE ... RENAME TO), "
                "create an empty one, then restore"
            )


def put_back(settings: Settings, directory: Path) -> None:
    """Make the database what the copy in `directory` is.

    Raises:
        ConfigurationError: the copy is of the other kind of database, or there is no `pg_restore`.
        Transient: it cannot be restored.
    """
    url = make_url(settings.sqlalchemy_url)
    wanted = SQLITE_COPY if url.get_backend_name() == "sqlite" else POSTGRES_COPY
    source = directory / wanted
    if not source.exists():
        raise ConfigurationError(f"RADSTREAM_DATABASE_URL: {url.get_backend_name()}, and the backup is of another kind")
    if wanted == POSTGRES_COPY:
        options = ["--no-owner", "--exit-on-error", "--single-transaction"]
        _run("pg_restore", url, *options, f"--dbname={url.database}", str(source))
        return
    target = Path(str(url.database))
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in (f"{target}-wal", f"{target}-shm"):  # of the database that is gone; SQLite would apply them to this one
        Path(left).unlink(missing_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, partial)
    fsync(partial)
    os.replace(partial, target)
    fsync(target.parent)


def _run(program: str, url: URL, *options: str) -> None:
    executable = shutil.which(program)
    if executable is None:
        raise ConfigurationError(f"{program} is not on the PATH; install the client of your PostgreSQL release")
    done = subprocess.run(
        [executable, *options], env={**os.environ, **_connection(url)}, capture_output=True, text=True
    )
    if done.returncode:
        # The first line alone, which is the program's own; what follows may quote rows.
        why = (done.stderr.strip().splitlines() or [""])[0]
        raise Transient(Reason.DATABASE_UNAVAILABLE, why)


def _connection(url: URL) -> dict[str, str]:
    """Give the connection as variables of libpq: arguments of a process are read by everybody on the host."""
    told = {
        "PGHOST": url.host or str(url.query.get("host", "")),
        "PGPORT": str(url.port or url.query.get("port", "")),
        "PGUSER": url.username or "",
        "PGPASSWORD": url.password or "",
        "PGDATABASE": url.database or "",
        "PGSSLMODE": str(url.query.get("sslmode", "")),
        "PGSSLROOTCERT": str(url.query.get("sslrootcert", "")),
    }
    return {name: value for name, value in told.items() if value}
