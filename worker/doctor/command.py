"""The command ``python -m worker doctor``: looks at all that a worker needs, and says what to do where it fails."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from models.diagnosis.checks import Check, Finding, diagnose, ok, silence, skipped
from models.diagnosis.checks import add_arguments as add_common_arguments
from models.errors import ConfigurationError

NAMES: Final = (
    "settings",
    "disk",
    "limits",
    "clock",
    "redis",
    "database",
    "object-store",
    "audit",
    "telemetry",
    "fonts",
    "codecs",
    "engines",
    "gpu",
    "scp",
    "destination",
    "phantom",
)
DESCRIPTION: Final = """\
Look at everything that a worker needs, and say what to type or set for each failure. Nothing is changed; the database
and the directories are written to, and what was written is taken back. No output names a patient or a secret.

checks, for --only and --skip (each may be given several times):
  settings      all are readable; files with secrets are not open to everybody
  disk          spool, outbox, database: there, writable, durable, with room, on a real disk
  limits        open files, memory of the container, threads against cores
  clock         this host, Redis and PostgreSQL agree
  redis         answers, keeps its data, throws no job away; workers and queues
  database      answers, has the right migration, takes writes
  object-store  takes, gives and removes an object, where one is set
  audit         the audit repository takes connections, where one is set
  telemetry     the metrics ports are free, or answer as ours, and are ready
  fonts         overlays can be written
  codecs        a known image is decoded right in every transfer syntax that the SCP takes
  engines       every version that serves is whole, loads and answers; seconds per image
  gpu           what the engine provider needs is there
  scp           the SCP answers C-ECHO (needs --scp)
  destination   each PACS answers C-ECHO and takes our objects, each DICOMweb server answers; certificates
  phantom       a made radiograph goes the whole way (needs --scp and --phantom)
"""
EPILOG: Final = """\
exit status: 0 no failure (warnings are allowed), 1 a failure, 2 settings or arguments are wrong

examples:
  python -m worker doctor
  python -m worker doctor --scp 127.0.0.1:11112 --phantom     before the first patient, and after every change
  python -m worker doctor --only destination --timeout 10
  python -m worker doctor --format json | jq '.findings[] | select(.severity == "failure")'
"""


def add_arguments(commands: Any) -> None:
    """Add the command to those of the worker."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is wrong, and say what to do",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_arguments(parser, NAMES)
    parser.add_argument(
        "--scp",
        metavar="HOST:PORT",
        help='ask our SCP there; with TLS as JSON: \'{"host": …, "port": …, "ae_title": …, "tls": true, '
        '"tls_ca": …, "calling_ae_title": …}\'; we call as RADSTREAM_DOCTOR',
    )
    parser.add_argument(
        "--phantom", action="store_true", help="send a made radiograph through SCP and worker; its outputs go to nobody"
    )
    parser.add_argument(
        "--deliver", action="store_true", help="with --phantom: its outputs go to every destination, and stay there"
    )
    parser.add_argument(
        "--phantom-timeout", type=float, default=60.0, metavar="S", help="longest wait for each leg (default 60)"
    )


def doctor(arguments: argparse.Namespace) -> int:
    """Run the checks, print what they find, and give the exit status.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    from models.audit.settings import AuditSettings
    from models.diagnosis.settings import read_settings
    from models.settings import Settings
    from worker.settings import WorkerSettings

    _refuse(arguments)
    silence()
    settings, wrong = read_settings(Settings)
    own, own_wrong = read_settings(WorkerSettings)
    audit, audit_wrong = read_settings(AuditSettings)
    faults = [each for each in (wrong, own_wrong, audit_wrong) if each is not None]
    checks = [Check("settings", partial(_settings, settings, own, faults))]
    if not faults:
        checks += _checks(arguments, settings, own, audit)
    return diagnose(arguments, NAMES, checks, settings_wrong=bool(faults))


def _refuse(arguments: argparse.Namespace) -> None:
    if arguments.deliver and not arguments.phantom:
        raise ConfigurationError("--deliver: goes with --phantom")
    if arguments.phantom and arguments.scp is None:
        raise ConfigurationError("--phantom: say where the SCP is, e.g. --scp 127.0.0.1:11112")
    if arguments.scp is not None:
        parse_scp(arguments.scp, "ANY")


def _settings(settings: Any, own: Any, faults: list[Finding]) -> Iterator[Finding]:
    from models.diagnosis.settings import check_settings

    yield from check_settings(settings, faults)
    if own is not None:
        from worker.routing import Routing

        rules = Routing.read(own.routing_file).rules  # refuses with what to do
        yield ok(
            f"{len(rules)} routing rules, {'of ' + str(own.routing_file) if own.routing_file else 'the shipped ones'}"
        )


def _checks(arguments: argparse.Namespace, settings: Any, own: Any, audit: Any) -> list[Check]:
    # Imported here, so that --help is quick, and a broken library is the finding of a check.
    from models.diagnosis.services import service_checks
    from worker.doctor.destinations import checks_of_destinations

    timeout_s = arguments.timeout
    checks = service_checks(settings, audit, _schema(), timeout_s)
    checks += [
        Check("disk", partial(_disk, settings), waits=False, deadline_s=20),
        Check("limits", partial(_limits, settings, own)),
        Check("telemetry", partial(_telemetry, own, timeout_s)),
        Check("fonts", _fonts, waits=False, deadline_s=20),
        Check("codecs", _codecs, waits=False, deadline_s=60),
        Check("engines", partial(_engines, settings, own), waits=False, deadline_s=300),
        Check("gpu", partial(_gpu, own), deadline_s=20),
        *_scp_checks(arguments, settings),
        *checks_of_destinations(settings, own, timeout_s),
    ]
    return sorted(checks, key=lambda check: NAMES.index(check.name))


def _schema() -> Any:
    from migrations.compatibility import SchemaGate
    from migrations.schema import current_revision, newest_revision
    from models.diagnosis.database import Schema

    return Schema(newest_revision(), current_revision, lambda engine: SchemaGate(engine).check())


def _disk(settings: Any) -> Iterator[Finding]:
    from models.diagnosis.host import GIBIBYTE, check_directory, check_one_file_system
    from models.diagnosis.services import database_directory

    yield from check_directory(settings.spool_path, "spool", "RADSTREAM_SPOOL_DIR", GIBIBYTE, "python -m scp")
    yield from check_one_file_system(settings.spool_path)
    yield from check_directory(settings.outbox_path, "outbox", "RADSTREAM_OUTBOX_DIR", GIBIBYTE, "python -m worker run")
    database = database_directory(settings)
    if database is not None:
        yield from check_directory(database, "database", "RADSTREAM_DATA_DIR", GIBIBYTE, "python -m worker migrate")


def _limits(settings: Any, own: Any) -> Iterator[Finding]:
    from worker.doctor.limits import check_limits

    yield from check_limits(settings, own)


def _telemetry(own: Any, timeout_s: float) -> Iterator[Finding]:
    from models.diagnosis.host import check_telemetry

    address = own.telemetry_address
    yield from check_telemetry(address, own.telemetry_port, "RADSTREAM_WORKER_TELEMETRY_PORT", "worker run", timeout_s)
    if own.destinations:
        port = own.delivery_telemetry_port
        yield from check_telemetry(
            address, port, "RADSTREAM_WORKER_DELIVERY_TELEMETRY_PORT", "worker deliver", timeout_s
        )


def _fonts() -> Iterator[Finding]:
    from worker.doctor.codecs import check_fonts

    yield from check_fonts()


def _codecs() -> Iterator[Finding]:
    from worker.doctor.codecs import check_codecs

    yield from check_codecs()


def _engines(settings: Any, own: Any) -> Iterator[Finding]:
    from worker.doctor.engines import check_engines

    yield from check_engines(settings, own)


def _gpu(own: Any) -> Iterator[Finding]:
    from worker.doctor.engines import check_gpu

    yield from check_gpu(own)


# The SCP and the phantom


def _scp_checks(arguments: argparse.Namespace, settings: Any) -> list[Check]:
    if arguments.scp is None:
        nowhere = [skipped("not asked: give --scp HOST:PORT")]
        return [Check("scp", lambda: nowhere), Check("phantom", lambda: nowhere)]

    from models.diagnosis.peers import DOCTOR_AE_TITLE
    from models.identity import IMPLEMENTATION_CLASS_UID
    from worker.doctor.destinations import check_entity

    scp = parse_scp(arguments.scp, settings.ae_title)
    ask = partial(
        check_entity, scp, settings, "--scp", arguments.timeout, {}, DOCTOR_AE_TITLE, str(IMPLEMENTATION_CLASS_UID)
    )
    checks = [Check("scp", ask, deadline_s=6 * arguments.timeout)]
    if not arguments.phantom:
        return [*checks, Check("phantom", lambda: [skipped("not sent: give --phantom")])]
    from worker.doctor.phantom import Trip, check_phantom

    trip = Trip(scp, arguments.deliver, arguments.phantom_timeout, arguments.timeout)
    # Last and alone, so that what it takes is not slowed by the others.
    longest_s = 2 * arguments.phantom_timeout + 4 * arguments.timeout + 10
    return [*checks, Check("phantom", partial(check_phantom, settings, trip), waits=False, deadline_s=longest_s)]


def parse_scp(text: str, ae_title: str) -> Any:
    """Read ``HOST:PORT``, or JSON like that of a destination.

    Raises:
        ConfigurationError: it is neither.
    """
    from pydantic import ValidationError

    from worker.settings import RemoteEntity

    try:
        if text.lstrip().startswith("{"):
            return RemoteEntity.model_validate({"ae_title": ae_title, **json.loads(text)})
        host, _, port = text.rpartition(":")
        return RemoteEntity.model_validate({"host": host.strip("[]"), "port": port, "ae_title": ae_title})
    except (ValidationError, ValueError, TypeError) as error:
        raise ConfigurationError("--scp: HOST:PORT, or JSON like one of RADSTREAM_WORKER_DESTINATIONS") from error
