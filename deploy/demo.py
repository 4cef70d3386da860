"""`make demo`: the main job on real radiographs, from C-STORE to findings and Secondary Captures.

Starts Redis, the SCP, a worker and a receiving AE, sends radiographs, prints a table of findings, and writes the
Secondary Captures that came back as pictures.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import Comprehensive3DSRStorage
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import create_engine, text

from deploy.launcher import Feed, FeedOptions, LaunchError, wait_until
from deploy.receiver import Receiver
from deploy.sending import Sent, files_under, send_files
from models.identity import DISCLAIMER
from models.zones import ZONE_COLUMNS, ZONES

RADIOGRAPHS: Final = {
    "RG1_UNCR.dcm": "chest, explicit little endian",
    "RG1_J2KR.dcm": "chest, JPEG 2000 lossless",
    "RG1_J2KI.dcm": "chest, JPEG 2000",
    "RG1_UNCI.dcm": "the same SOP Instance in implicit little endian: one result, not two",
    "RG3_J2KR.dcm": "an extremity, which no task is for",
}
"""Real CR images of the PyPI package pydicom-data, by file name."""

SETTLE_TIMEOUT_S: Final = 300.0

_ZONE_SCORES: Final = tuple(f"csi_{zone}" for zone in ZONES)
_VERSIONS: Final = ("pneumonia_version", "csi_version", "landmarks_version")
"""Each that answered an instance makes a picture of it."""
_FINDINGS: Final = text(
    "SELECT sop_instance_uid, modality, body_part_examined, view_position, state, reason, pneumonia_label,"
    f" pneumonia_probability, pneumonia_version, csi_version, csi_mean, {', '.join(_ZONE_SCORES)}, landmarks_version,"
    " landmarks_review, cobb_main, cobb_main_upper_vertebra, cobb_main_lower_vertebra, delivered_at"
    " FROM instance_findings ORDER BY received_at"
)


def demo_files() -> list[Path]:
    """Find the radiographs of the demo.

    Raises:
        LaunchError: the package that carries them is not installed.
    """
    found = [get_testdata_file(name, download=False) for name in RADIOGRAPHS]
    if not all(found):
        raise LaunchError("the demo's radiographs are missing: pip install pydicom-data")
    return [Path(str(path)) for path in found]


def main(argv: list[str] | None = None) -> int:
    """Run the demo and give its exit status: 0 when every instance sent was settled and every output came back."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--send", type=Path, metavar="PATH", help="send these files (a directory tree or one file)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where the pictures go")
    parser.add_argument("--keep", action="store_true", help="keep spool, database and logs beside the pictures")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.send is not None and not arguments.send.exists():
        console.print(f"--send {arguments.send}: no such file or directory")
        return 2
    directory = arguments.output / "feed" if arguments.keep else Path(tempfile.mkdtemp(prefix="radstream-demo-"))
    try:
        files = files_under(arguments.send) if arguments.send is not None else demo_files()
        good = _run(files, directory, arguments.output, console)
    except LaunchError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    if good and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    elif not good:
        console.print(f"[red]not everything went through[/red]; logs are in {directory / 'logs'}")
    return 0 if good else 1


def _run(files: list[Path], directory: Path, output: Path, console: Console) -> bool:
    pictures = output / "received"
    shutil.rmtree(pictures, ignore_errors=True)
    for old in output.glob("overlay_*.png"):
        old.unlink()
    with Receiver(pictures) as archive:
        destination = {"name": "archive", "host": "127.0.0.1", "port": archive.port, "ae_title": archive.ae_title}
        feed = Feed(FeedOptions(directory, destinations=[destination]))
        steps = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console)
        with steps:
            step = steps.add_task("starting Redis, SCP and worker", total=None)
            with feed:
                steps.update(step, description=f"sending {len(files)} files by C-STORE to port {feed.port}")
                sent = list(send_files(files, "127.0.0.1", feed.port, "RADSTREAM"))
                steps.update(step, description="waiting for findings and for outputs to come back")
                rows, settled = wait_for_findings(feed, sent)
                steps.update(step, description="stopping")
    return settled and show(console, sent, rows, pictures, output)


def show(console: Console, sent: list[Sent], rows: list[dict[str, Any]], received: Path, output: Path) -> bool:
    """Print a table of findings and write the pictures that an archive received; False when any is missing."""
    _print_findings(console, sent, rows)
    made, reports = _write_pictures(received, output)
    console.print(
        f"\n{len(made)} Secondary Captures and {reports} structured reports came back to the archive; "
        f"pictures in [bold]{output}[/bold]:"
    )
    for path in made:
        console.print(f"  {path}")
    console.print(f"\n{DISCLAIMER}.")
    expected = sum(row[version] is not None for row in rows for version in _VERSIONS)
    return len(made) == reports == expected


def wait_for_findings(feed: Feed, sent: list[Sent]) -> tuple[list[dict[str, Any]], bool]:
    """Wait until whatever was accepted is settled and delivered; give all rows, and whether it came to that.

    Raises:
        LaunchError: a process of the feed ended.
    """
    accepted = {item.sop_instance_uid for item in sent if item.status == 0}
    engine = create_engine(f"sqlite:///{feed.directory / 'radstream.db'}")
    rows: list[dict[str, Any]] = []

    def through() -> bool:
        for service in (feed.scp, feed.worker):
            if not service.running:
                raise LaunchError(f"{service.name} ended, see {service.log}")
        with engine.connect() as connection:
            rows[:] = [dict(row) for row in connection.execute(_FINDINGS).mappings()]
        ended = {
            row["sop_instance_uid"] for row in rows if row["state"] in {"skipped", "failed"} or row["delivered_at"]
        }
        return accepted <= ended

    settled = wait_until(through, SETTLE_TIMEOUT_S, every_s=0.3)
    engine.dispose()
    return rows, settled


def _print_findings(console: Console, sent: list[Sent], rows: list[dict[str, Any]]) -> None:
    by_uid = {row["sop_instance_uid"]: row for row in rows}
    first_file: dict[str, str] = {}
    table = Table(title="Findings per instance", title_justify="left", header_style="bold")
    has_csi = any(row["csi_version"] is not None for row in rows)
    has_spines = any(row["landmarks_version"] is not None for row in rows)
    for name in (
        *("file", "sent", "modality", "body part", "view", "state", "why", "finding", "probability"),
        *(("mean CSI", "zones") if has_csi else ()),
        *(("main Cobb angle",) if has_spines else ()),
    ):
        table.add_column(name)
    for item in sent:
        row = by_uid.get(item.sop_instance_uid, {})
        answer = item.problem or (f"0x{item.status:04x}" if item.status is not None else "")
        first = (
            first_file.setdefault(item.sop_instance_uid, item.path.name) if item.sop_instance_uid else item.path.name
        )
        if first != item.path.name:
            table.add_row(item.path.name, answer, "", "", "", "", f"the same SOP Instance as {first}", "", "")
            continue
        probability = row.get("pneumonia_probability")
        table.add_row(
            item.path.name,
            answer,
            row.get("modality") or "",
            row.get("body_part_examined") or "",
            row.get("view_position") or "",
            row.get("state") or "",
            row.get("reason") or "",
            row.get("pneumonia_label") or "",
            f"{probability:.3f}" if probability is not None else "",
            *(_congestion(row) if has_csi else ()),
            *((_main_angle(row),) if has_spines else ()),
        )
    console.print(table)


def _main_angle(row: dict[str, Any]) -> str:
    """Give the main Cobb angle with its end vertebrae, and whether somebody should look; empty where not analysed."""
    if row.get("landmarks_version") is None:
        return ""
    review = " (review)" if row["landmarks_review"] else ""
    if row["cobb_main"] is None:
        return f"none{review}"
    return f"{row['cobb_main']:.1f}° {row['cobb_main_upper_vertebra']}-{row['cobb_main_lower_vertebra']}{review}"


def _congestion(row: dict[str, Any]) -> tuple[str, str]:
    """Give mean CSI and the scores of the six zones, `right left` from top to bottom; empty where not analysed."""
    if row.get("csi_version") is None:
        return "", ""
    scores = ["-" if row[name] is None else str(row[name]) for name in _ZONE_SCORES]
    mean = "" if row["csi_mean"] is None else f"{row['csi_mean']:.2f}"
    lines = (" ".join(scores[first : first + ZONE_COLUMNS]) for first in range(0, len(scores), ZONE_COLUMNS))
    return mean, " / ".join(lines)


def _write_pictures(received: Path, output: Path) -> tuple[list[Path], int]:
    """Write what came back as pictures, and count the reports, which have none."""
    from PIL import Image

    made, reports = [], 0
    for path in sorted(received.glob("*.dcm")):
        dataset = dcmread(path)
        if dataset.SOPClassUID == Comprehensive3DSRStorage:
            reports += 1
            continue
        source = str(dataset.SourceImageSequence[0].ReferencedSOPInstanceUID)
        # "AI pneumonia overlay 1.0": one source has a picture for each task.
        task = str(dataset.SeriesDescription).split()[1]
        picture = output / f"overlay_{task}_{source}.png"
        Image.fromarray(dataset.pixel_array).save(picture)
        made.append(picture)
    return made, reports


if __name__ == "__main__":
    sys.exit(main())
