"""How fast the whole feed is: instances per second from C-STORE to settled and to delivered, and where the CPU goes.

Real chest radiographs (RG1 of pydicom-data, 1955 x 1841, 15 bits) under fresh UIDs are sent by DCMTK storescu, or by
pynetdicom where DCMTK is not installed, through SCP, worker and delivery to a receiving AE, all on this machine. The
CPU of every process is read from /proc, the stages of the worker from its own metrics; both are set against the wall
time of all cores, so that what is not explained shows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from deploy.launcher import Feed, FeedOptions, free_port, wait_until

STORESCU = shutil.which("storescu", path="/usr/bin:/usr/local/bin")
TICKS = os.sysconf("SC_CLK_TCK")

SYNTAXES = {
    "uncompressed": ("RG1_UNCR.dcm", "-xe"),
    "jpeg2000-lossless": ("RG1_J2KR.dcm", "-xv"),
    "jpeg2000": ("RG1_J2KI.dcm", "-xw"),
}


def make_instances(name: str, count: int, directory: Path) -> list[Path]:
    """Write copies of a real radiograph under fresh UIDs."""
    source = dcmread(str(get_testdata_file(name, download=False)))
    paths = []
    for number in range(count):
        source.SOPInstanceUID = generate_uid()
        source.StudyInstanceUID = generate_uid()
        source.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
        path = directory / f"{number:05d}.dcm"
        source.save_as(path)
        paths.append(path)
    return paths


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue.extend(children[current])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its ended children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def command_of(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def process_groups(feed: Feed, archive: int) -> dict[str, list[int]]:
    """Processes of the feed by their part in it."""
    groups: dict[str, list[int]] = {"scp": [], "worker": [], "decoders": [], "delivery": [], "redis": []}
    for name, service in (("scp", feed.scp), ("redis", feed.redis)):
        assert service.process is not None
        groups[name] = descendants(service.process.pid)
    assert feed.worker.process is not None
    for pid in descendants(feed.worker.process.pid):
        command = command_of(pid)
        if pid == feed.worker.process.pid:
            groups["worker"].append(pid)
        elif "worker deliver" in command:
            groups["delivery"].append(pid)
        else:
            groups["decoders"].append(pid)
    groups["archive"] = descendants(archive)
    return groups


def stage_cpu(port: int) -> dict[str, float]:
    """CPU seconds by stage, from the worker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found = re.findall(r'radstream_worker_stage_cpu_seconds_total\{stage="(\w+)"\} (\S+)', page)
    return {stage: float(value) for stage, value in found}


def start_archive(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a receiving AE in a process of its own: DCMTK storescp, else ours."""
    port = free_port()
    storescp = shutil.which("storescp", path="/usr/bin:/usr/local/bin")
    if storescp:
        command = [storescp, "-od", str(directory), "-aet", "ARCHIVE", "+B", str(port)]
    else:
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom deploy.receiver import Receiver\n"
            "Receiver(Path(sys.argv[1]), int(sys.argv[2])).start()\ntime.sleep(1e6)"
        )
        command = [sys.executable, "-c", code, str(directory), str(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port


def send(paths: list[Path], option: str, port: int, ways: int) -> None:
    """Send files over `ways` associations at once."""
    senders = []
    for way in range(ways):
        part = [str(path) for path in paths[way::ways]]
        program = [STORESCU, option] if STORESCU else [sys.executable, "-m", "pynetdicom", "storescu", option]
        senders.append(subprocess.Popen([*program, "-aec", "RADSTREAM", "127.0.0.1", str(port), *part]))
    for sender in senders:
        if sender.wait() != 0:
            raise SystemExit("a sender failed")


def measure(syntax: str, count: int, ways: int, environment: dict[str, str]) -> dict[str, object]:
    """Run one feed and give its figures."""
    name, option = SYNTAXES[syntax]
    with tempfile.TemporaryDirectory(prefix="radstream-bench-") as temporary:
        root = Path(temporary)
        (root / "in").mkdir()
        (root / "archive").mkdir()
        paths = make_instances(name, count + 4, root / "in")
        archive, archive_port = start_archive(root / "archive")
        destination = {"name": "archive", "host": "127.0.0.1", "port": archive_port, "ae_title": "ARCHIVE"}
        options = FeedOptions(root / "feed", processes=2, destinations=[destination], environment=environment)
        try:
            with Feed(options) as feed:
                return _measure_running(feed, archive.pid, paths, option, ways)
        finally:
            archive.terminate()
            archive.wait()


def _measure_running(feed: Feed, archive: int, paths: list[Path], option: str, ways: int) -> dict[str, object]:
    engine = create_engine(f"sqlite:///{feed.directory / 'radstream.db'}")

    def count(where: str) -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(f"SELECT COUNT(*) FROM instance WHERE {where}")).scalar_one())

    warm, timed = paths[:4], paths[4:]
    send(warm, option, feed.port, 1)
    wait_until(lambda: count("delivered_at IS NOT NULL") == len(warm), 120, 0.1)
    groups = process_groups(feed, archive)
    before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
    stages_before = stage_cpu(feed.worker_telemetry_port)
    own_before, began = os.times(), time.monotonic()

    send(timed, option, feed.port, ways)
    sent_s = time.monotonic() - began
    if not wait_until(lambda: count("settled_at IS NOT NULL") == len(paths), 600, 0.05):
        raise SystemExit("not everything was settled")
    settled_s = time.monotonic() - began
    if not wait_until(lambda: count("delivered_at IS NOT NULL") == len(paths), 600, 0.05):
        raise SystemExit("not everything was delivered")
    delivered_s = time.monotonic() - began

    number, own = len(timed), os.times()
    cpu = {name: sum(map(cpu_seconds, pids)) - before[name] for name, pids in groups.items()}
    cpu["senders"] = own.children_user + own.children_system - own_before.children_user - own_before.children_system
    cpu["benchmark"] = own.user + own.system - own_before.user - own_before.system
    stages = {
        stage: value - stages_before.get(stage, 0.0) for stage, value in stage_cpu(feed.worker_telemetry_port).items()
    }
    cores = os.cpu_count() or 1
    engine.dispose()
    return {
        "instances": number,
        "accepted_per_s": number / sent_s,
        "settled_per_s": number / settled_s,
        "delivered_per_s": number / delivered_s,
        "cpu_ms_per_instance_by_process": {name: 1000 * value / number for name, value in cpu.items()},
        "cpu_ms_per_instance_by_stage": {name: 1000 * value / number for name, value in stages.items()},
        "explained_of_all_cores": sum(cpu.values()) / (cores * delivered_s),
        "stages_explain_of_worker": sum(stages.values()) / max(1e-9, cpu["worker"] + cpu["decoders"]),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.feed", description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="instances per transfer syntax (default 60)")
    parser.add_argument("--associations", type=int, default=2, help="associations of the sender (default 2)")
    parser.add_argument("--syntax", choices=sorted(SYNTAXES), action="append", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few instances, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    number = 8 if arguments.quick else arguments.count
    figures = {}
    for syntax in arguments.syntax or list(SYNTAXES):
        console.print(f"feeding {number} instances, {syntax} ...")
        figures[syntax] = measure(syntax, number, arguments.associations, {})
    _print(console, figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _print(console: Console, figures: dict[str, dict[str, object]]) -> None:
    table = Table(title="feed", title_justify="left")
    table.add_column("figure")
    for syntax in figures:
        table.add_column(syntax, justify="right")
    for key, form in (("accepted_per_s", ".1f"), ("settled_per_s", ".1f"), ("delivered_per_s", ".1f")):
        table.add_row(key.replace("_", " "), *(format(values[key], form) for values in figures.values()))
    for part in ("cpu_ms_per_instance_by_process", "cpu_ms_per_instance_by_stage"):
        table.add_section()
        names = sorted({name for values in figures.values() for name in values[part]})  # type: ignore[attr-defined]
        for name in names:
            cells = [f"{values[part].get(name, 0.0):.1f} ms" for values in figures.values()]  # type: ignore[attr-defined]
            table.add_row(f"{part.removeprefix('cpu_ms_per_instance_by_')} {name}", *cells)
    table.add_section()
    for key in ("explained_of_all_cores", "stages_explain_of_worker"):
        table.add_row(key.replace("_", " "), *(f"{values[key]:.0%}" for values in figures.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
