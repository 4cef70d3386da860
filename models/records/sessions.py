"""Connections to the results database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ConfigurationError
from models.settings import Settings

SQLITE_BUSY_TIMEOUT_MS = 30_000

CONNECT_TIMEOUT_S = 5
CUT_OFF_AFTER_S = 15
"""A peer that is cut off says nothing. After so long either side takes the connection for lost, and ends it."""
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3}


def open_database(settings: Settings) -> Engine:
    """Make an engine for the configured database; nothing connects yet.

    Raises:
        ConfigurationError: the URL is wrong or its driver is not installed.
    """
    url = _parse(settings.sqlalchemy_url)
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    # hide_parameters keeps column values, and with them patients, out of every error text.
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": CUT_OFF_AFTER_S * 1000, **_KEEPALIVE}
    untold = {name: value for name, value in arguments.items() if name not in url.query}
    engine = create_engine(
        url, hide_parameters=True, pool_pre_ping=True, pool_size=5, max_overflow=5, connect_args=untold
    )
    event.listen(engine, "connect", _let_the_server_notice)
    return engine


def session_factory(engine: Engine) -> sessionmaker[Session]:
    """Make sessions whose objects stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


def is_outage(error: SQLAlchemyError) -> bool:
    """Tell a database that is away or not migrated yet (try later) from a statement that it refuses."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # TimeoutError: every connection of the pool is in use.
    return isinstance(error, OperationalError | ProgrammingError | InterfaceError | PoolTimeoutError)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(
            "RADSTREAM_DATABASE_URL: not a database URL; use sqlite:///FILE or postgresql+psycopg://USER:PASS@HOST/DB"
        ) from error
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigurationError("RADSTREAM_DATABASE_URL: only sqlite and postgresql are supported")
    try:
        url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"RADSTREAM_DATABASE_URL: driver {error.name} is not installed; pip install 'radstream[postgres]'"
        ) from error
    return url


def _let_the_server_notice(connection: Any, record: Any) -> None:
    # The server would keep the transaction of a client that is cut off, and with it the locks, for the two hours of
    # its system's keepalive. Set by a statement, since a pooler in between may not pass start-up options on.
    told = {f"tcp_{name}": value for name, value in _KEEPALIVE.items()} | {"tcp_user_timeout": CUT_OFF_AFTER_S * 1000}
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in told.items()))
    connection.commit()


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver must not open transactions itself, or BEGIN IMMEDIATE below would come too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a spool file is removed after the commit, so the commit must survive a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A read that later writes would fail at once with SQLITE_BUSY instead of waiting; take the write lock first.
    if connection.get_execution_options().get("read_only"):
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
