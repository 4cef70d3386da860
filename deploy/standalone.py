"""`make run`: leave a whole feed running on this machine, and say how to point a PACS at it."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path

from deploy.launcher import Feed, FeedOptions, LaunchError
from models.errors import ConfigurationError
from models.records.outputs import OutputKind
from models.settings import Settings, load

EPILOG = """\
examples:
  make run
  make run ARGS="--archive 10.0.0.5:104:ORTHANC"       send pictures and structured reports back to a PACS
  make run ARGS="--archive 10.0.0.5:104:ORTHANC --outputs secondary_capture,presentation_state"
  make run ARGS="--port 11113 --data /srv/radstream"
"""


def _destination(value: str) -> dict[str, object]:
    parts = value.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        raise argparse.ArgumentTypeError("give HOST:PORT:AE_TITLE, e.g. 10.0.0.5:104:ORTHANC")
    return {"name": parts[2].lower(), "host": parts[0], "port": int(parts[1]), "ae_title": parts[2]}


def _kinds(value: str) -> tuple[str, ...]:
    given = tuple(part.strip() for part in value.split(","))
    unknown = sorted(set(given) - set(OutputKind))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; kinds are {', '.join(OutputKind)}")
    return given


def main(argv: list[str] | None = None) -> int:
    """Run the feed until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.standalone",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address that the SCP listens on (default all)")
    parser.add_argument("--port", type=int, default=11112, help="port that the SCP listens on (default 11112)")
    parser.add_argument("--processes", type=int, default=1, help="accepting processes of the SCP")
    parser.add_argument("--data", type=Path, help="spool, database, logs (default RADSTREAM_DATA_DIR)")
    parser.add_argument(
        "--archive", type=_destination, action="append", default=[], metavar="HOST:PORT:AE", help="where outputs go"
    )
    parser.add_argument(
        "--outputs",
        type=_kinds,
        metavar="KIND,KIND",
        help=f"what they get: {', '.join(OutputKind)} (default the first two)",
    )
    arguments = parser.parse_args(argv)
    try:
        settings = load(Settings, data_dir=arguments.data)
    except ConfigurationError as error:
        print(f"radstream: {error}", file=sys.stderr)
        return 2
    chosen = {"outputs": arguments.outputs} if arguments.outputs else {}
    feed = Feed(
        FeedOptions(
            settings.data_dir.absolute(),
            port=arguments.port,
            host=arguments.host,
            processes=arguments.processes,
            destinations=[{**to, **chosen} for to in arguments.archive],
        )
    )
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, frame: stopping.set())
    try:
        with feed:
            print(_directions(feed, settings, arguments.archive), flush=True)
            while not stopping.wait(1):
                for service in (feed.redis, feed.scp, feed.worker):
                    if not service.running:
                        print(f"{service.name} ended, starting it again; see {service.log}", file=sys.stderr)
                        service.start()
            print("stopping", flush=True)
    except LaunchError as error:
        print(f"radstream: {error}", file=sys.stderr)
        return 1
    return 0


def _directions(feed: Feed, settings: Settings, archives: list[dict[str, object]]) -> str:
    back = ", ".join(f"{to['ae_title']} at {to['host']}:{to['port']}" for to in archives)
    return f"""
The feed is running. In your PACS or modality, add a DICOM node:

    AE title   {settings.ae_title}
    host       this machine's address
    port       {feed.port}

and send radiographs to it by C-STORE, for example with DCMTK:

    storescu -aec {settings.ae_title} 127.0.0.1 {feed.port} FILE.dcm

Outputs go to: {back or 'nowhere yet; start with ARGS="--archive HOST:PORT:AE_TITLE"'}

In another shell, to see whether all is well, what is where, and what was found:

    . {shlex.quote(str(_settings_file(feed)))}
    .venv/bin/python -m worker doctor --scp 127.0.0.1:{feed.port} --phantom
    .venv/bin/python -m worker status
    .venv/bin/python -m worker results
    .venv/bin/python -m worker trace ACCESSION_NUMBER

Status:  http://127.0.0.1:{feed.worker_telemetry_port}/ in a browser
Metrics: http://127.0.0.1:{feed.scp_telemetry_port}/metrics (SCP)
         http://127.0.0.1:{feed.worker_telemetry_port}/metrics (worker)
Logs:    {feed.logs}

Research use only - not a medical device. Ctrl-C stops it; what was accepted is kept.
"""


def _settings_file(feed: Feed) -> Path:
    """Write the feed's settings for a shell, so that commands there speak of this feed."""
    path = feed.directory / "feed.env"
    path.touch(mode=0o600)
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in feed.environment.items())
    path.write_text("".join(lines), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
