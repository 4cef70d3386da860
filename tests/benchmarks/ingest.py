"""How fast the SCP takes instances in, beside DCMTK storescp and Orthanc, in one run on one disk.

Every receiver is fed by DCMTK storescu with 1, 4 and 8 associations at once, with CR instances of 0.5 MB and 10 MB;
each association sends equally many. Sender and receiver share the machine, so look at the ratios. The receivers take
turns, and the best round of each counts: whatever else the machine does can only make a round slower.

What each one promises with its Success:

    radstream    file and directory are on disk (fsync), SHA-256 of the content is known; several processes, no Redis
                 and no database at hand (Success needs neither)
    storescp     the file is written, not synced; as it comes (one association after the other), with a process per
                 association (--fork), and that with PDUs of 128 KiB (-pdu)
    Orthanc      its defaults: file synced (SyncStorageArea), indexed in its SQLite, no compression
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console
from rich.table import Table

from deploy.launcher import free_port

ROOT = Path(__file__).resolve().parents[2]
ASSOCIATIONS = (1, 4, 8)
WAYS = max(ASSOCIATIONS)
START_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 300


@dataclass(frozen=True)
class Load:
    """Instances of one size; each association sends `count` of them, which lie in a directory of their own."""

    name: str
    rows: int
    columns: int
    count: int

    @property
    def bytes_each(self) -> int:
        """Bytes of pixels of one instance."""
        return self.rows * self.columns * 2


LOADS = (Load("0.5 MB", 500, 500, 80), Load("10 MB", 2240, 2240, 10))
WARM_UP = Load("warm-up", 64, 64, 2)
QUICK_LOADS = (Load("0.5 MB", 500, 500, 25), Load("10 MB", 2240, 2240, 4))


@dataclass(frozen=True)
class Cell:
    """One measurement: the best of `rounds` (instances per second); None when a sender failed in all."""

    receiver: str
    load: str
    associations: int
    rounds: list[float]
    instances_per_s: float | None
    megabytes_per_s: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 when a program is missing."""
    options = _parser().parse_args(argv)
    console = Console()
    storescu = dcmtk("storescu")
    if storescu is None:
        console.print("DCMTK storescu is not installed (apt-get install dcmtk)")
        return 1
    loads = QUICK_LOADS if options.quick else LOADS
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="ingest-") as name:
        directory = Path(name)
        for load in (*loads, WARM_UP):
            make_instances(directory / load.name, load)
        cells = list(measure(directory, storescu, loads, options.processes, 1 if options.quick else options.rounds))
    console.print(table(cells, loads))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", metavar="FILE", help="write the measurements here too")
    parser.add_argument("--quick", action="store_true", help="fewer instances, one round")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many rounds is shown (default 3)")
    parser.add_argument("--processes", type=int, default=2, help="processes of the SCP (default 2)")
    parser.add_argument("--directory", help="where everything is written; must be on a real disk, not in memory")
    return parser


# What is sent


def make_instances(directory: Path, load: Load) -> None:
    """Write valid CR instances whose pixels do not compress."""
    noise = np.random.default_rng(7).integers(0, 4096, (load.rows, load.columns), dtype=np.uint16)
    study, series = generate_uid(), generate_uid()
    for number in range(WAYS * load.count):
        dataset = Dataset()
        dataset.SOPClassUID = ComputedRadiographyImageStorage
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientName, dataset.PatientID = "Bench^Mark", f"B{number}"
        dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20240101", "120000", "1", ""
        dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, number + 1
        dataset.Rows, dataset.Columns = load.rows, load.columns
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelData = np.roll(noise, number).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        way = directory / str(number % WAYS)
        way.mkdir(parents=True, exist_ok=True)
        dataset.save_as(way / f"{number}.dcm", enforce_file_format=True)


def send(storescu: str, port: int, directory: Path, associations: int) -> float | None:
    """Send over so many associations at once; seconds it took, None when a sender failed."""
    began = time.perf_counter()
    senders = []
    for way in range(associations):
        target = ["-aec", "RADSTREAM", "127.0.0.1", str(port), str(directory / str(way))]
        command = [storescu, "-q", "+sd", "-ta", str(SEND_TIMEOUT_S), *target]
        senders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [sender.wait(SEND_TIMEOUT_S) for sender in senders]
    took = time.perf_counter() - began
    return None if any(codes) else took


# Who receives


@contextlib.contextmanager
def radstream(directory: Path, port: int, processes: int) -> Iterator[None]:
    """Our SCP; Redis is named where none listens, and the database has no tables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RADSTREAM_")}
    environment |= {
        "RADSTREAM_DATA_DIR": str(directory),
        "RADSTREAM_REDIS_URL": "redis://127.0.0.1:1/0",
        "RADSTREAM_LOG_LEVEL": "error",
        "RADSTREAM_SCP_HOST": "127.0.0.1",
        "RADSTREAM_SCP_PORT": str(port),
        "RADSTREAM_SCP_PROCESSES": str(processes),
        "RADSTREAM_SCP_TELEMETRY_PORT": "0",
    }
    with running([sys.executable, "-m", "scp"], port, environment, cwd=ROOT):
        yield


@contextlib.contextmanager
def storescp(directory: Path, port: int, *options: str) -> Iterator[None]:
    """DCMTK's SCP."""
    program = dcmtk("storescp")
    with running([str(program), "-q", *options, "-aet", "RADSTREAM", "-od", str(directory), str(port)], port):
        yield


@contextlib.contextmanager
def orthanc(directory: Path, port: int) -> Iterator[None]:
    """Orthanc with its defaults, storage and index in `directory`."""
    configuration = directory / "orthanc.json"
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "index"),
        "StorageCompression": False,
        "HttpServerEnabled": False,
        "DicomAet": "RADSTREAM",
        "DicomPort": port,
        "Plugins": [],
    }
    configuration.write_text(json.dumps(settings))
    with running([str(find("Orthanc")), str(configuration)], port):
        yield


@contextlib.contextmanager
def running(
    command: list[str], port: int, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[None]:
    """Run a server until it listens, then until the end of the block."""
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start")
            time.sleep(0.05)
        time.sleep(2.0)  # several processes of ours may still be starting
        yield
    finally:
        process.terminate()
        process.wait(30)


def measure(directory: Path, storescu: str, loads: Sequence[Load], processes: int, rounds: int) -> Iterator[Cell]:
    """Measure each receiver with each load and number of associations, a fresh receiver and directory each time."""
    receivers = {"radstream": lambda place, port: radstream(place, port, processes)}
    if dcmtk("storescp"):
        receivers["storescp"] = storescp
        receivers["storescp --fork"] = lambda place, port: storescp(place, port, "--fork")
        receivers["storescp --fork -pdu"] = lambda place, port: storescp(place, port, "--fork", "-pdu", "131072")
    if find("Orthanc"):
        receivers["Orthanc"] = orthanc
    for load in loads:
        for associations in ASSOCIATIONS:
            rates: dict[str, list[float]] = {name: [] for name in receivers}
            for turn in range(rounds):
                names = list(receivers)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    place = directory / "receiver"
                    place.mkdir()
                    port = free_port()
                    with receivers[name](place, port):
                        send(storescu, port, directory / WARM_UP.name, 4)
                        took = send(storescu, port, directory / load.name, associations)
                    shutil.rmtree(place)
                    os.sync()  # what one leaves in the page cache must not be written in the time of the next
                    if took is not None:
                        rates[name].append(round(associations * load.count / took, 2))
                print(f"{load.name} x{associations}, round {turn + 1} of {rounds}", file=sys.stderr)
            for name, values in rates.items():
                rate = max(values, default=None)
                yield Cell(name, load.name, associations, values, rate, rate and rate * load.bytes_each / 1e6)


def table(cells: Sequence[Cell], loads: Sequence[Load]) -> Table:
    """Lay the measurements out, one line per load and number of associations."""
    names = list(dict.fromkeys(cell.receiver for cell in cells))
    result = Table(title="instances/s (MB/s)")
    result.add_column("load", no_wrap=True)
    for name in names:
        result.add_column(name.replace("storescp -", "storescp\n-"), justify="right")
    result.add_column("ours / best\nstorescp", justify="right")
    result.add_column("ours /\nOrthanc", justify="right")
    for load in loads:
        for associations in ASSOCIATIONS:
            row = {c.receiver: c for c in cells if (c.load, c.associations) == (load.name, associations)}
            shown = [_shown(row[name]) for name in names]
            ours = row["radstream"].instances_per_s
            others = [c.instances_per_s for name, c in row.items() if name.startswith("storescp")]
            best = max((rate for rate in others if rate), default=None)
            theirs = row["Orthanc"].instances_per_s if "Orthanc" in row else None
            result.add_row(f"{load.name} x{associations}", *shown, _ratio(ours, best), _ratio(ours, theirs))
    return result


def _shown(cell: Cell) -> str:
    if cell.instances_per_s is None or cell.megabytes_per_s is None:
        return "failed"
    return f"{cell.instances_per_s:.1f} ({cell.megabytes_per_s:.0f})"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else "-"


def find(program: str) -> str | None:
    """Find a program, in the directories of system services too."""
    return shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def dcmtk(program: str) -> str | None:
    """Find a program of DCMTK; pynetdicom installs others of the same names."""
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        path = shutil.which(program, path=directory)
        if path and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout:
            return path
    return None


if __name__ == "__main__":
    sys.exit(main())
