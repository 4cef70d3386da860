"""How fast results are exported, and that ten times the rows take the same memory.

A database of made-up instances, each with a pneumonia and a six-zone answer, is exported by `python -m worker results`
in a process of its own, whose peak memory (resident set, as the kernel counts it) is read when it ends. SQLite in a
temporary directory, or with `--database-url` any empty database, which is filled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from migrations.schema import migrate
from models.records.sessions import open_database
from models.settings import Settings
from models.zones import ZONES

FORMATS = ("csv", "json", "jsonl", "parquet")
MOMENT = "'2026-01-01 12:00:00+00:00'"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"


def fill(database: Engine, first: int, last: int) -> None:
    """Add instances `first` to `last`, two to a study."""
    numbers = NUMBERS.format(first=first, last=last)
    studies = NUMBERS.format(first=(first + 1) // 2, last=last // 2)
    uid = "'2.25.1234567890123456789012345678.' || i"
    # A random-looking number in [0, 1] of each row, the same on every database.
    score = "CAST((i * 7919) % 10007 AS DOUBLE PRECISION) / 10007"
    statements = [
        f"INSERT INTO study (id, study_instance_uid, accession_number, study_date, patient_id) {studies}"
        f" SELECT i, {uid} || '.1', 'A' || i, CAST('2026-01-01' AS DATE), 'P' || (i % 1000) FROM n",
        f"INSERT INTO series (id, study_id, series_instance_uid, modality, body_part_examined) {studies}"
        f" SELECT i, i, {uid} || '.2', 'DX', 'CHEST' FROM n",
        "INSERT INTO instance (id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, content_sha256, revision,"
        " calling_ae_title, lane, state, duplicates, conflicts, attempts, series_id, received_at, settled_at)"
        f" {numbers} SELECT i, {uid}, '1.2', '1.2', 'h', 0, 'DX1', 'routine', 'done', 0, 0, 0, (i + 1) / 2,"
        f" {MOMENT}, {MOMENT} FROM n",
        "INSERT INTO inference (id, instance_id, model_version_id, provider, precision, inferred_at)"
        f" {numbers} SELECT i * 2 - 1, i, 1, 'onnxruntime', 'fp32', {MOMENT} FROM n",
        "INSERT INTO inference (id, instance_id, model_version_id, provider, precision, inferred_at)"
        f" {numbers} SELECT i * 2, i, 2, 'onnxruntime', 'fp32', {MOMENT} FROM n",
        f"INSERT INTO classification_finding (inference_id, label, positive, probability, threshold) {numbers}"
        f" SELECT i * 2 - 1, 'pneumonia', TRUE, {score}, 0.5 FROM n",
        "INSERT INTO zone_summary (inference_id, mean_csi, gradable_zones, heart_failure_class, lungs_found,"
        f" frame_left, frame_top, frame_right, frame_bottom) {numbers}"
        f" SELECT i * 2, {score}, 6, 'low', TRUE, 0, 0, 9, 9 FROM n",
        *(
            f"INSERT INTO zone_finding (inference_id, zone, score, probability, expected_score) {numbers}"
            f" SELECT i * 2, '{zone}', i % 4, {score}, {score} FROM n"
            for zone in ZONES
        ),
    ]
    with database.begin() as connection:
        for statement in statements:
            # Times are text on SQLite, as SQLAlchemy writes them.
            plain = statement.replace(MOMENT, "'2026-01-01 12:00:00.000000'")
            connection.execute(text(plain if database.dialect.name == "sqlite" else statement))


def prepare(database: Engine) -> None:
    """Migrate, and write the two versions that answer."""
    migrate(database)
    moment = "'2026-01-01 12:00:00.000000'" if database.dialect.name == "sqlite" else MOMENT
    with database.begin() as connection:
        for number, task in ((1, "pneumonia"), (2, "csi")):
            connection.execute(
                text(f"INSERT INTO model_version VALUES ({number}, '{task}', '1.0', 'n', 'h', {moment})")
            )


def export(url: str, view: str, form: str, target: Path) -> tuple[float, int]:
    """Export in a process of its own; give its wall time in seconds and its peak resident set in bytes."""
    command = [sys.executable, "-m", "worker", "results", "--view", view, "--format", form, "--output", str(target)]
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "RADSTREAM_DATABASE_URL": url}, stderr=subprocess.PIPE)
    # wait4 tells the use of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"the export ended with {process.returncode}: {process.stderr.read().decode()}")
    return seconds, usage.ru_maxrss * 1024


def measure(
    database: Engine, url: str, view: str, formats: Sequence[str], rows: int, directory: Path
) -> list[dict[str, Any]]:
    """Export one view in some formats at `rows` and ten times as many instances."""
    found: list[dict[str, Any]] = []
    for first, last in ((1, rows), (rows + 1, rows * 10)):
        fill(database, first, last)
        for form in formats:
            target = directory / f"rows.{form}"
            seconds, peak = export(url, view, form, target)
            found.append(
                {
                    "format": form,
                    "instances": last,
                    "rows_per_s": last / (2 if view == "study" else 1) / seconds,
                    "peak_mib": peak / 2**20,
                    "file_mib": target.stat().st_size / 2**20,
                }
            )
            target.unlink()
    return found


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print a row per format with the ratio of peak memories."""
    table = Table(header_style="bold")
    for name in (
        "format",
        "rows/s, N",
        "rows/s, 10 N",
        "MiB file, 10 N",
        "MiB peak, N",
        "MiB peak, 10 N",
        "peak ratio",
    ):
        table.add_column(name, justify="right")
    for form in dict.fromkeys(row["format"] for row in found):
        few, many = (row for row in found if row["format"] == form)
        table.add_row(
            form,
            *(f"{row['rows_per_s']:,.0f}" for row in (few, many)),
            f"{many['file_mib']:.1f}",
            *(f"{row['peak_mib']:.0f}" for row in (few, many)),
            f"{many['peak_mib'] / few['peak_mib']:.2f}",
        )
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Fill a database, export it and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.results", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="N, even (default 20000)")
    parser.add_argument("--view", choices=["instance", "study"], default="instance")
    parser.add_argument("--format", choices=FORMATS, action="append", help="default: all")
    parser.add_argument("--database-url", help="of an empty database; default SQLite in a temporary directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="radstream-results-") as name:
        directory = Path(name)
        url = arguments.database_url or f"sqlite:///{directory / 'results.db'}"
        database = open_database(Settings(database_url=SecretStr(url)))
        prepare(database)
        rows, formats = arguments.rows - arguments.rows % 2, arguments.format or FORMATS
        found = measure(database, url, arguments.view, formats, rows, directory)
        database.dispose()
    report(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
