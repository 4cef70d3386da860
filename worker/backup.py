"""A backup of a running feed: unfinished instances, the results database, outputs that wait; put back together.

The order is what makes it whole. The spool is copied before the database: an instance whose file is gone by then is
settled in a database that is copied later; the other way round it could be in neither. The outbox comes last: each
output that the copied database knows was written before it. So what was accepted before the backup began is in it, as
unfinished work or as a result. In a bucket, spool and outbox are the bucket's own matter (see deploy/backup.md).

The manifest is written last: a backup without one is none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, or_, select

from migrations.presence import release_of_this_code
from migrations.schema import current_revision
from models.errors import ConfigurationError
from models.records.base import utc_now
from models.records.outputs import Delivery, DeliveryState, Output
from models.settings import Settings
from models.store.durable import fsync, write_whole
from worker.database_copies import check_empty, copy_database, put_back

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
SPOOL_PARTS: Final = ("commitments", "commitment_reports", "set_aside", "pending")
"""Of the spool, in this order: what `requeue` makes pending meanwhile is found there."""

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""By so much, at most, between the hosts of a feed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is of.

    Attributes:
        began_at: ISO 8601; all that was accepted before is in it.
        database_at: when the database was copied; what was settled later is unfinished in it, or not known.
        migration: of the database.
        counts: of files, by part.
        sha256: of every file, by its path in the backup.
    """

    format: int
    release: str
    migration: str
    began_at: str
    database_at: str
    counts: dict[str, int]
    sha256: dict[str, str]


def back_up(settings: Settings, database: Engine, directory: Path) -> Manifest:
    """Write a backup into a new directory, while the feed runs.

    Raises:
        ConfigurationError: the directory exists, or the settings allow no copy.
        Transient: the database cannot be copied.
        OSError: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, mode=0o700)  # patients are in it
    except FileExistsError as error:
        raise ConfigurationError(f"{directory} exists; a backup goes into a directory of its own") from error
    began_at = utc_now()
    local = settings.object_store is None
    counts = {}
    for part in SPOOL_PARTS if local else ():
        source, target = settings.spool_path / part, directory / "spool" / part
        counts[f"spool/{part}"] = sum(_copy(file, target / file.relative_to(source)) for file in _files(source))
    database_at = utc_now()
    copy_database(settings, directory)
    if local:
        names = _waiting_outputs(database, database_at)
        counts["outbox"] = sum(_copy(settings.outbox_path / name, directory / "outbox" / name) for name in names)
    manifest = Manifest(
        format=FORMAT,
        release=release_of_this_code(),
        migration=current_revision(database) or "none",
        began_at=began_at.isoformat(),
        database_at=database_at.isoformat(),
        counts=counts,
        sha256={str(file.relative_to(directory)): _sha256(file) for file in _files(directory)},
    )
    write_whole(directory / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read a backup's manifest, and every file of it.

    Raises:
        ConfigurationError: it is no whole backup, or a file is damaged.
    """
    try:
        manifest = TypeAdapter(Manifest).validate_json((directory / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{directory}: no whole backup, it has no {MANIFEST} that can be read") from error
    if manifest.format != FORMAT:
        raise ConfigurationError(f"{directory}: of a newer radstream ({manifest.release}); restore it with that")
    for name, expected in manifest.sha256.items():
        file = directory / name
        if not file.is_file() or _sha256(file) != expected:
            raise ConfigurationError(
                f"{file}: missing or damaged; take another copy of this backup, or an older backup"
            )
    return manifest


def restore(settings: Settings, database: Engine, directory: Path) -> dict[str, int]:
    """Put a backup back; files of spool and outbox that are there stay. Give how many files came back, by part.

    Raises:
        ConfigurationError: it is no whole backup, or there is a database already.
        Transient: the database cannot be restored.
        SQLAlchemyError: it does not answer.
    """
    manifest = read_manifest(directory)
    check_empty(settings, database)
    put_back(settings, directory)
    came_back = dict.fromkeys(manifest.counts, 0)
    for part, root in (("spool", settings.spool_path), ("outbox", settings.outbox_path)):
        for file in _files(directory / part):
            name = file.relative_to(directory / part)
            if not (root / name).exists():
                _copy(file, root / name)
                came_back[part if part == "outbox" else f"spool/{name.parts[0]}"] += 1
    return came_back


def _waiting_outputs(database: Engine, copied_at: datetime) -> list[str]:
    """List the files of outputs that had yet to reach a destination, or were given up, when the database was copied.

    What was delivered since waits in the copy; its file is kept for days after.
    """
    since = or_(Delivery.state != DeliveryState.DELIVERED, Delivery.delivered_at > copied_at - CLOCKS_DIFFER)
    waiting = select(Delivery.output_id).where(since)
    with database.connect().execution_options(read_only=True) as connection:
        return list(connection.scalars(select(Output.file_name).where(Output.id.in_(waiting))))


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> int:
    """Copy a file with its time, which is that of its acceptance; 0 when it is gone meanwhile, that is, done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    try:
        shutil.copy2(source, partial)
    except FileNotFoundError:
        return 0
    fsync(partial)
    partial.rename(target)
    fsync(target.parent)
    return 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
