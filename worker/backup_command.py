"""`python -m worker backup` and `restore`: what is copied, put back, and left to be done. See deploy/backup.md."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.settings import Settings

BUCKET_NOTE = "spool and outbox are in the bucket and not in this backup: keep versions of its objects"


def add_arguments(commands: Any) -> None:
    """Add the commands to the parser of `python -m worker`."""
    backup = commands.add_parser(
        "backup",
        help="copy unfinished instances, the results database and waiting outputs, while the feed runs",
        description="Copies spool, database and outbox in the order in which nothing falls between them. Not the model "
        "store and not the settings: copy those as files. PostgreSQL needs pg_dump. The copy holds patient data.",
    )
    backup.add_argument("directory", type=Path, metavar="DIR", help="is made; must not exist")
    restore = commands.add_parser(
        "restore",
        help="put a backup back, and tell what came after it",
        description="For a database that is gone: stop the worker first, and with SQLite the SCP. Nothing that exists "
        "is overwritten. Then type what it says. Exit status 1 when something must be sent again.",
    )
    restore.add_argument("directory", type=Path, metavar="DIR", help="a backup")


def backup(arguments: Namespace, settings: Settings, database: Engine) -> int:
    """Make a backup and say what is in it; give the exit status."""
    from worker.backup import back_up

    manifest = back_up(settings, database, arguments.directory)
    print(f"backup of {manifest.began_at} in {arguments.directory}, database at migration {manifest.migration}")
    for part, count in manifest.counts.items():
        print(f"  {part}: {count} files")
    if settings.object_store is not None:
        print(f"  {BUCKET_NOTE}")
    return 0


def restore(arguments: Namespace, settings: Settings, database: Engine) -> int:
    """Put a backup back and say what is left to do; give the exit status."""
    from models.any_spool import open_spool
    from worker import backup as backups
    from worker.after_backup import studies_to_resend, take_from_archive
    from worker.outbox import open_outbox

    spool, outbox = open_spool(settings), open_outbox(settings)
    spool.prepare()
    outbox.prepare()
    manifest = backups.read_manifest(arguments.directory)
    for part, count in backups.restore(settings, database, arguments.directory).items():
        print(f"{part}: {count} of {manifest.counts[part]} files came back, the others are there")
    taken = take_from_archive(database, spool)
    print(f"spool archive: {taken} instances from after the backup are pending again")
    studies = studies_to_resend(database, spool, outbox)
    for study, outputs in sorted(studies.items()):
        print(f"study {study}: not in the restored database ({outputs} of its outputs are here); have it sent again")
    print(f"the database is as it was at {manifest.database_at}; now type:")
    print("  python -m worker migrate")
    print("  (start SCP and worker)")
    print(f"  python -m worker reconcile --since {manifest.began_at} --mend")
    print(f"and have senders send again what they sent since {manifest.began_at}: what is known is not done twice")
    return 1 if studies else 0
