"""The command ``python -m scp``: the DICOM Storage SCP of the feed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from textwrap import dedent, fill

from models.audit.settings import AuditSettings
from models.errors import ConfigurationError
from models.settings import Settings, load
from models.telemetry import configure_logging
from scp import doctor
from scp.settings import ScpSettings

DESCRIPTION = """\
Receive radiographs by C-STORE and queue them for inference.

A sender gets Success (0000) when its instance is durable on disk; nothing else is needed for that, neither Redis nor
the database. Stop with SIGTERM or Ctrl-C: open C-STOREs are finished first.
"""

EXAMPLES = """\
examples:
  python -m scp                                   listen on port 11112 as RADSTREAM
  python -m scp --port 104 --ae-title CHEST_AI --processes 4
  echoscu -aec RADSTREAM 127.0.0.1 11112          ask whether it is there (DCMTK)
  storescu -aec RADSTREAM 127.0.0.1 11112 a.dcm   send a file (DCMTK)
  curl http://127.0.0.1:9108/metrics              also /healthz and /readyz
  python -m scp doctor                            look for what is wrong, and say what to do

settings:
  Options win over environment variables, those over the [scp] table of the TOML file that RADSTREAM_CONFIG names.
  Lists and tables are given as JSON. All settings of the SCP:

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the SCP; 0 after a stop, 2 when a setting is wrong. Its doctor: see `scp.doctor`."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["doctor"]:
        return doctor.main(given[1:])
    options = _parser().parse_args(given)
    try:
        settings = load(Settings, ae_title=options.ae_title, data_dir=options.data_dir)
        scp_settings = load(
            ScpSettings,
            host=options.host,
            port=options.port,
            processes=options.processes,
            telemetry_port=options.telemetry_port,
            accept_all_storage=options.accept_all_storage,
        )
        configure_logging(settings, "scp")
        # Here, not above: every receiving process imports this module, and needs neither database nor queues.
        from scp.supervisor import Supervisor

        supervisor = Supervisor(settings, scp_settings, load(AuditSettings))
    except ConfigurationError as error:
        print(f"scp: {error}", file=sys.stderr)
        return 2
    supervisor.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scp",
        description=DESCRIPTION,
        epilog=dedent(EXAMPLES) + "\n".join(_setting_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on (default 0.0.0.0)")
    parser.add_argument("--port", type=int, help="port of the SCP (default 11112)")
    parser.add_argument("--ae-title", help="our AE title (default RADSTREAM)")
    parser.add_argument("--processes", type=int, metavar="N", help="receiving processes (default: cores, at most 4)")
    parser.add_argument("--data-dir", metavar="DIR", help="parent of spool and database (default radstream-data)")
    parser.add_argument("--telemetry-port", type=int, metavar="PORT", help="port of /metrics (default 9108)")
    parser.add_argument(
        "--accept-all-storage",
        action="store_true",
        default=None,
        help="accept every storage class, not only radiographs",
    )
    return parser


def _setting_lines() -> list[str]:
    prefix = str(ScpSettings.model_config["env_prefix"])
    lines = []
    for name, field in ScpSettings.model_fields.items():
        lines.append(f"  {prefix}{name.upper()}")
        lines.append(fill(field.description or "", width=100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return lines


if __name__ == "__main__":
    sys.exit(main())
