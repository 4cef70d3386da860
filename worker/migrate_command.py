"""`python -m worker migrate`: brings the results database to the newest level, and takes nothing from who runs.

A contract takes away what older code needs. It waits until no process with such code is registered: each process
says in the database that it is there (`migrations.presence`), those from before migration 0009 only in RQ's registry.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from models.errors import ConfigurationError, Reason, Transient

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from migrations.schema import Declaration
    from models.settings import Settings


def add_arguments(commands: Any) -> None:
    """Add the command to the parser of `python -m worker`."""
    parser = commands.add_parser(
        "migrate",
        help="create or upgrade the results database",
        description="Runs what is pending, in the order of --plan; may run while the feed runs. An expand only adds. A "
        "contract takes away what older code needs, and is refused while processes with such code run.",
    )
    parser.add_argument("--plan", action="store_true", help="only show what would run, and who would be in the way")
    parser.add_argument("--force", action="store_true", help="run a contract even so; such processes then stop or fail")


def migrate(arguments: Namespace, settings: Settings, database: Engine) -> int:
    """Show or run what is pending; give the exit status.

    Raises:
        ConfigurationError: a contract is pending and older processes run.
        Transient: Redis, which knows of them, does not answer; or the database is in use.
        SQLAlchemyError: the database does not answer, or refuses a migration.
    """
    from migrations import schema
    from migrations.compatibility import SchemaGate

    steps, at = schema.pending(database), schema.current_revision(database)
    if arguments.plan:
        _print_plan(steps, at, _in_the_way(steps, at, settings, database))
        return 0
    if not steps and at != schema.newest_revision():
        SchemaGate(database).check()  # newer than this code: says so if it is of no use to it
        print(f"the results database is at migration {at}, newer than this code ({schema.newest_revision()})")
        return 0
    if not arguments.force:
        _refuse(steps, _in_the_way(steps, at, settings, database))
    schema.migrate(database)
    print(f"the results database is at migration {schema.newest_revision()}")
    return 0


def _refuse(steps: list[Declaration], in_the_way: list[str]) -> None:
    if in_the_way:
        contract = next(each for each in reversed(steps) if each.oldest_code is not None)
        raise ConfigurationError(
            f"migration {contract.revision} is a contract, and older processes run: {', '.join(in_the_way)}; update "
            f"them to radstream {contract.oldest_release} or stop them (one that was killed is forgotten after 90 s), "
            "then run this again; --force runs it even so"
        )


def _in_the_way(steps: list[Declaration], at: str | None, settings: Settings, database: Engine) -> list[str]:
    """Name the processes whose code may not go on after these steps."""
    from alembic.script import ScriptDirectory

    from migrations.schema import alembic_config, declarations
    from models.records.processes import Process, running_processes
    from models.records.sessions import session_factory

    names = [each.revision for each in declarations(ScriptDirectory.from_config(alembic_config()))]
    demanded = [names.index(each.oldest_code) for each in steps if each.oldest_code is not None]
    if not demanded or at is None:
        return []  # nothing is taken away, or nobody can be at an empty database
    if not _has_table(database, Process.__tablename__):
        return _registered_with_rq(settings)
    with session_factory(database)() as session:
        session.connection(execution_options={"read_only": True})
        running = running_processes(session)
    older = set(names[: max(demanded)])
    return [f"{each.name} (radstream {each.release}, migration {each.code})" for each in running if each.code in older]


def _has_table(database: Engine, name: str) -> bool:
    from sqlalchemy import inspect

    with database.connect().execution_options(read_only=True) as connection:
        return inspect(connection).has_table(name)


def _registered_with_rq(settings: Settings) -> list[str]:
    from redis.exceptions import RedisError
    from rq.worker_registration import get_keys

    from worker.running import connect_redis

    redis = connect_redis(settings)
    try:
        return sorted(key.removeprefix("rq:worker:") for key in get_keys(connection=redis) if redis.exists(key))
    except RedisError as error:
        raise Transient(
            Reason.REDIS_UNAVAILABLE, "so it is not known whether older workers run; --force does not ask"
        ) from error
    finally:
        redis.close()


def _print_plan(steps: list[Declaration], at: str | None, in_the_way: list[str]) -> None:
    from worker.commands import print_rows

    if not steps:
        print(f"the results database is at migration {at or 'none'}; nothing is pending")
        return
    rows = [
        {
            "migration": each.revision,
            "kind": each.kind.value,
            "oldest code after it": each.oldest_code,
            "what": each.title,
        }
        for each in steps
    ]
    print_rows(rows, "table", f"pending, from migration {at or 'none'} on")
    for name in in_the_way:
        print(f"in the way of the contract: {name}")
