"""`python -m worker retain`: counts what is old enough to go, and with ``--yes`` clears it away. Meant for a timer."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from models.audit.settings import AuditSettings
    from models.settings import Settings
    from worker.retention.retention import Line
    from worker.settings import WorkerSettings


def add_arguments(commands: Any) -> None:
    """Add the command to the parser of `python -m worker`."""
    parser = commands.add_parser(
        "retain",
        help="clear away what RADSTREAM_WORKER_RETAIN_* say is old",
        description="Previews, unless --yes is given. Studies go with all of their records, never with unfinished "
        "work, and nothing of them is remembered: an instance that comes again is analysed as a new one. Files of the "
        "spool archive stay as long as its own settings say. Ctrl-C ends after the batch in hand; running it again "
        "goes on where it stopped.",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="leave these studies alone: Study Instance UIDs, one a line (default RADSTREAM_WORKER_RETAIN_KEEP_FILE)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--yes", action="store_true", help="clear away")
    chosen.add_argument("--dry-run", action="store_true", help="only preview (default)")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="default: table")


def retain(
    arguments: Namespace,
    settings: Settings,
    own: WorkerSettings,
    sessions: sessionmaker[Session],
    audit: AuditSettings | None = None,
) -> int:
    """Preview or clear away; give the exit status: 0 at the end, 128 and the signal's number when stopped before.

    Raises:
        ConfigurationError: the file of studies to keep cannot be read, or is none.
    """
    from models.any_spool import open_spool
    from worker.audit import command_trail
    from worker.commands import print_rows
    from worker.interruption import SIGNALLED, progress_bar, stop_on_signal
    from worker.outbox import open_outbox
    from worker.retention.files import FileRetention
    from worker.retention.retention import Retention
    from worker.running import connect_redis

    held = read_held(arguments.keep or own.retain_keep_file)
    spool, outbox, redis = open_spool(settings), open_outbox(settings), connect_redis(settings)
    spool.prepare()
    outbox.prepare()
    with command_trail(settings, audit if arguments.yes else None, "retain") as trail:
        work = Retention(settings, own, sessions, FileRetention(spool, outbox, sessions), redis, trail, held)
        if not arguments.yes:
            print_rows(rows(work.preview()), arguments.format, "retain: preview, --yes clears away")
            return 0
        stop, received = stop_on_signal()
        with progress_bar() as progress:
            bar, totals = progress.add_task("retain", total=0), [0]

            def expect(more: int) -> None:
                totals[0] += more
                progress.update(bar, total=totals[0])

            lines = work.run(stop.is_set, expect, lambda done: progress.advance(bar, done))
    print_rows(rows(lines), arguments.format, "retain: cleared away")
    _say_space(sessions)
    if not stop.is_set():
        return 0
    print("radstream: stopped before the end; the same command goes on where it stopped", file=sys.stderr)
    return SIGNALLED + next(iter(received), signal.SIGTERM)


def read_held(path: Path | None) -> frozenset[str]:
    """Read the studies that are left alone.

    Raises:
        ConfigurationError: the file cannot be read, or a line of it is no UID. Nothing must be deleted then.
    """
    from models.spool_places import is_valid_uid

    if path is None:
        return frozenset()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read; nothing is deleted without the studies to keep") from error
    held = [(number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1)]
    for number, uid in held:
        if uid and not is_valid_uid(uid):
            raise ConfigurationError(f"{path}: line {number} is no Study Instance UID; nothing is deleted")
    return frozenset(uid for _, uid in held if uid)


def rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Give lines as rows."""
    return [{"what": line.what, "count": line.count, "bytes": line.size, "note": line.note} for line in lines]


def _say_space(sessions: sessionmaker[Session]) -> None:
    """Say how the space of deleted rows comes back."""
    from sqlalchemy import text

    with sessions() as session:
        connection = session.connection(execution_options={"read_only": True})
        if connection.dialect.name != "sqlite":
            hint = "PostgreSQL's autovacuum makes the space of deleted rows usable again"
        else:
            pages = connection.execute(text("PRAGMA freelist_count")).scalar_one()
            size = connection.execute(text("PRAGMA page_size")).scalar_one()
            hint = (
                f"{pages * size} bytes of the SQLite file are free for new rows; to give them back to the disk, stop "
                "the feed and run VACUUM"
            )
    print(f"radstream: {hint}", file=sys.stderr)
