"""`python -m worker`: run, deliver, and look after the feed."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any

from models.audit.settings import AuditSettings
from models.errors import ConfigurationError, RadstreamError
from models.settings import Settings, load
from models.tasks import Task
from models.telemetry import configure_logging
from worker import backup_command, migrate_command, reconcile_command, results_command, trace_command
from worker.doctor import command as doctor_command
from worker.retention import command as retain_command

EPILOG = """\
settings come from RADSTREAM_* and RADSTREAM_WORKER_* variables or from the TOML file named by RADSTREAM_CONFIG.

examples:
  python -m worker migrate                     create or upgrade the results database
  python -m worker backup /backups/2026-01-31  copy spool, database and outbox while the feed runs
  python -m worker run                         infer and deliver until Ctrl-C
  python -m worker status                      what is where
  python -m worker doctor                      what is wrong, and what to do
  python -m worker trace ACCESSION             where a study is, why, and what to do
  python -m worker reconcile --mend            find what was lost between ledger, spool, queue and PACS, and mend it
  python -m worker results --since 2026-01-01 --format csv > findings.csv
  python -m worker results --view study --format parquet --output studies.parquet
  python -m worker requeue --failed            try failed instances again
  python -m worker redeliver --dead            send given-up outputs again
  python -m worker retain                      what is old enough to go; --yes clears it away
  python -m worker shadow-report --task csi    how a version in the shadow compares
  python -m worker backfill --task csi --where 'study_date >= 2026-01-01'   what a newer version could see again
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Takes queued radiographs, infers, records findings and delivers outputs. Research use only.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="infer until told to stop, deliver in a child process")
    run.add_argument("--no-delivery", action="store_true", help="start no delivery process beside this worker")
    run.add_argument("--name", help="name in `rq info`; default host and process id")
    deliver = commands.add_parser("deliver", help="only deliver outputs")
    deliver.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)
    migrate_command.add_arguments(commands)
    backup_command.add_arguments(commands)

    status = commands.add_parser("status", help="count what is where: spool, queues, ledger, deliveries")
    _add_format(status)

    results_command.add_arguments(commands, _time)

    requeue = commands.add_parser("requeue", help="infer failed instances again")
    which = requeue.add_mutually_exclusive_group(required=True)
    which.add_argument("--failed", action="store_true", help="all that are set aside")
    which.add_argument("--instance", metavar="UID", help="the one with this SOP Instance UID")
    which.add_argument("--reason", metavar="CODE", help="those that failed for this reason, e.g. decode_timeout")
    _add_format(requeue)

    redeliver = commands.add_parser("redeliver", help="send outputs again, under the same UIDs")
    chosen = redeliver.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--dead", action="store_true", help="all that were given up")
    chosen.add_argument("--study", metavar="UID", help="all outputs of this study")
    chosen.add_argument("--instance", metavar="UID", help="outputs of this source instance, or this output")
    redeliver.add_argument("--destination", metavar="NAME", help="only to this destination, also if it is new")
    _add_format(redeliver)

    report = commands.add_parser("shadow-report", help="compare versions in the shadow with those that answered")
    report.add_argument("--task", type=Task, choices=list(Task), metavar="TASK", help="only this task")
    report.add_argument("--since", type=_time, metavar="TIME", help="inferred at or after, ISO 8601")
    report.add_argument(
        "--top", type=int, default=10, metavar="N", help="most different instances per pair of versions (default 10)"
    )
    report.add_argument(
        "--format",
        choices=["table", "json", "csv"],
        default="table",
        help="default: table; csv has the most different instances alone",
    )
    _add_backfill(commands)
    trace_command.add_arguments(commands)
    reconcile_command.add_arguments(commands)
    retain_command.add_arguments(commands)
    doctor_command.add_arguments(commands)
    return parser


def _add_backfill(commands: Any) -> None:
    backfill = commands.add_parser(
        "backfill",
        help="let a version answer for instances that others have answered",
        description="Previews, unless --yes is given. An instance is taken when it is done and another version has "
        "answered the task. Views show the answer that was inferred last. Running it again goes on where it stopped.",
    )
    backfill.add_argument("--task", type=Task, choices=list(Task), required=True, metavar="TASK")
    backfill.add_argument("--version", metavar="VERSION", help="default: the active one")
    backfill.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="'KEY OP VALUE'",
        help="only such instances, e.g. 'study_date >= 2026-01-31' 'modality != CR'; all must hold",
    )
    backfill.add_argument("--limit", type=int, default=0, help="run at most so many; 0 for all (default 0)")
    backfill.add_argument(
        "--rate", type=float, default=60, metavar="PER_MINUTE", help="0 as fast as it goes (default 60)"
    )
    backfill.add_argument("--deliver", action="store_true", help="make outputs as well and send them")
    backfill.add_argument(
        "--accept-changed", action="store_true", help="take instances from the PACS whose bytes have changed"
    )
    chosen = backfill.add_mutually_exclusive_group()
    chosen.add_argument("--yes", action="store_true", help="run it")
    chosen.add_argument("--dry-run", action="store_true", help="only preview (default)")
    _add_format(backfill)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="default: table")


def _time(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not an ISO 8601 time, e.g. 2026-01-31T08:00") from None
    return moment.astimezone()


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit status: 0 good, 1 failed, 2 wrong settings or arguments."""
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except ConfigurationError as error:
        print(f"radstream: {error}", file=sys.stderr)
        return 2
    except RadstreamError as error:
        print(f"radstream: {error}", file=sys.stderr)
        return 1


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "doctor":  # wrong settings are a finding of it
        return doctor_command.doctor(arguments)
    from worker.settings import WorkerSettings

    settings, own, audit = load(Settings), load(WorkerSettings), load(AuditSettings)
    if arguments.command == "run":
        from worker import running

        configure_logging(settings, "worker")
        return running.run(settings, own, with_delivery=not arguments.no_delivery, name=arguments.name, audit=audit)
    if arguments.command == "deliver":
        from worker import delivering, running

        configure_logging(settings, "delivery")
        if arguments.parent_pid is not None:
            running.end_with_parent(arguments.parent_pid)
        return delivering.deliver(settings, own, audit)
    configure_logging(settings, "command")
    if arguments.command == "trace":  # works while the database is away
        return trace_command.trace(arguments, settings, own)
    return _look_after(arguments, settings, own, audit)


def _look_after(arguments: argparse.Namespace, settings: Settings, own: Any, audit: AuditSettings) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    from models.any_spool import open_spool
    from models.records.sessions import open_database, session_factory
    from worker import commands
    from worker.running import check_schema, connect_redis

    database = open_database(settings)
    try:
        if arguments.command == "migrate":
            return migrate_command.migrate(arguments, settings, database)
        if arguments.command == "restore":
            return backup_command.restore(arguments, settings, database)
        check_schema(database)
        if arguments.command == "backup":
            return backup_command.backup(arguments, settings, database)
        if arguments.command == "shadow-report":
            _report_shadows(arguments, session_factory(database))
            return 0
        if arguments.command == "results":
            return results_command.results(arguments, session_factory(database), settings, audit)
        if arguments.command == "backfill":
            from worker.backfill_command import backfill

            return backfill(arguments, settings, own, session_factory(database), audit)
        if arguments.command == "retain":
            return retain_command.retain(arguments, settings, own, session_factory(database), audit)
        if arguments.command == "reconcile":
            return reconcile_command.reconcile(arguments, settings, own, session_factory(database))
        sessions, spool = session_factory(database), open_spool(settings)
        if arguments.command == "status":
            rows, title = commands.status(sessions, spool, connect_redis(settings)), "status"
        elif arguments.command == "requeue":
            spool.prepare()
            rows = commands.requeue(
                sessions,
                spool,
                instance=arguments.instance,
                reason=arguments.reason,
                all_failed=arguments.failed,
            )
            title = "requeued (the SCP's next sweep queues them)"
        else:
            rows = _redeliver(arguments, sessions, own)
            title = "to be delivered again"
        commands.print_rows(rows, arguments.format, title)
        return 0
    except SQLAlchemyError as error:
        print(f"radstream: the results database does not answer ({type(error).__name__})", file=sys.stderr)
        return 1
    finally:
        database.dispose()


def _report_shadows(arguments: argparse.Namespace, sessions: Any) -> None:
    from worker.shadow_report import shadow_report, write_report

    if arguments.top < 0:
        raise ConfigurationError("--top: must be 0 or more")
    report = shadow_report(sessions, task=arguments.task, since=arguments.since, top=arguments.top)
    write_report(report, arguments.format, sys.stdout)


def _redeliver(arguments: argparse.Namespace, sessions: Any, own: Any) -> Any:
    from worker import commands

    known = {to.name: to for to in own.destinations}
    if arguments.destination and arguments.destination not in known:
        raise ConfigurationError(
            f"--destination {arguments.destination}: not one of RADSTREAM_WORKER_DESTINATIONS "
            f"({', '.join(sorted(known)) or 'none is set'})"
        )
    return commands.redeliver(
        sessions,
        study=arguments.study,
        instance=arguments.instance,
        destination=arguments.destination,
        all_dead=arguments.dead,
        new_destinations=[known[arguments.destination]] if arguments.destination and not arguments.dead else [],
    )


if __name__ == "__main__":
    sys.exit(main())
