"""The command ``python -m scp doctor``: looks at all that the SCP needs, and says what to do where it fails."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from models.diagnosis.checks import Check, Finding, add_arguments, diagnose, silence

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
    "port",
    "callers",
    "certificates",
    "stow",
)
DESCRIPTION: Final = """\
Look at everything that the SCP needs, and say what to type or set for each failure. Nothing is changed; the database
and the directories are written to, and what was written is taken back. No output names a patient or a secret. What
comes after the SCP is looked at by `python -m worker doctor`, which can also send a phantom through both.

checks, for --only and --skip (each may be given several times):
  settings      all are readable; files with secrets are not open to everybody
  disk          the spool: there, writable, durable, with room, on a real disk, one file system
  limits        open files for the associations that are allowed
  clock         this host, Redis and PostgreSQL agree
  redis         answers, keeps its data, throws no job away; workers and queues
  database      answers, has the right migration, takes writes
  object-store  takes, gives and removes an object, where one is set
  audit         the audit repository takes connections, where one is set
  telemetry     the metrics port is free, or answers as ours, and is ready
  port          the DICOM port is free, or answers C-ECHO as ours
  callers       lists of AE titles that contradict each other; who may send
  certificates  TLS files fit together; days that they are still good
  stow          the STOW-RS entry: tokens, and who can read them
"""
EPILOG: Final = """\
exit status: 0 no failure (warnings are allowed), 1 a failure, 2 settings or arguments are wrong

examples:
  python -m scp doctor
  python -m scp doctor --only disk --only port
  python -m scp doctor --format json | jq '.findings[] | select(.severity == "failure")'
"""
FILES_OF_AN_ASSOCIATION: Final = 4
"""Its socket, the spool file it writes, the directory that is made durable, and one in reserve."""
OTHER_FILES: Final = 256
MEGABYTES_OF_A_PROCESS: Final = 150


def main(argv: Sequence[str]) -> int:
    """Run the checks, print what they find, and give the exit status."""
    arguments = _parser().parse_args(argv)
    from models.audit.settings import AuditSettings
    from models.diagnosis.settings import check_settings, read_settings
    from models.settings import Settings
    from scp.settings import ScpSettings

    silence()
    settings, wrong = read_settings(Settings)
    own, own_wrong = read_settings(ScpSettings)
    audit, audit_wrong = read_settings(AuditSettings)
    faults = [each for each in (wrong, own_wrong, audit_wrong) if each is not None]
    checks = [Check("settings", partial(check_settings, settings, faults))]
    if not faults:
        checks += _checks(settings, own, audit, arguments.timeout)
    return diagnose(arguments, NAMES, checks, settings_wrong=bool(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scp doctor",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, NAMES)
    return parser


def _checks(settings: Any, own: Any, audit: Any, timeout_s: float) -> list[Check]:
    from models.diagnosis.services import service_checks
    from scp.doctor_entry import check_callers, check_certificates, check_port, check_stow

    checks = [
        *service_checks(settings, audit, _schema(), timeout_s),
        Check("disk", partial(_disk, settings, own), waits=False, deadline_s=20),
        Check("limits", partial(_limits, own)),
        Check("telemetry", partial(_telemetry, own, timeout_s)),
        Check("port", partial(check_port, settings, own, timeout_s), deadline_s=5 * timeout_s),
        Check("callers", partial(check_callers, settings, own)),
        Check("certificates", partial(check_certificates, own)),
        Check("stow", partial(check_stow, own)),
    ]
    return sorted(checks, key=lambda check: NAMES.index(check.name))


def _schema() -> Any:
    from migrations.compatibility import SchemaGate
    from migrations.schema import current_revision, newest_revision
    from models.diagnosis.database import Schema

    return Schema(newest_revision(), current_revision, lambda engine: SchemaGate(engine).check())


def _disk(settings: Any, own: Any) -> Iterator[Finding]:
    from models.diagnosis.host import check_directory, check_one_file_system

    yield from check_directory(settings.spool_path, "spool", "RADSTREAM_SPOOL_DIR", own.min_free_bytes, "python -m scp")
    yield from check_one_file_system(settings.spool_path)


def _limits(own: Any) -> Iterator[Finding]:
    from models.diagnosis.host import check_memory, check_open_files

    yield from check_open_files(FILES_OF_AN_ASSOCIATION * own.max_associations + OTHER_FILES)
    needed = (own.processes + 1 + bool(own.stow_port)) * (MEGABYTES_OF_A_PROCESS << 20)
    yield from check_memory(needed, "RADSTREAM_SCP_PROCESSES")


def _telemetry(own: Any, timeout_s: float) -> Iterator[Finding]:
    from models.diagnosis.host import check_telemetry

    yield from check_telemetry(
        own.telemetry_address, own.telemetry_port, "RADSTREAM_SCP_TELEMETRY_PORT", "scp", timeout_s
    )
