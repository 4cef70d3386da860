"""What the status page costs on a large database: each question, and a page from the sources' cache.

A database of made-up instances, all of the last day, which is the worst for the throughput; each has two outputs, and
one destination has been away for a tenth of them. SQLite in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from models.records.sessions import open_database, session_factory
from models.settings import Settings
from tests.benchmarks.results import NUMBERS, fill, prepare
from worker.status_page.facts import QueueFacts
from worker.status_page.ledger import LedgerReader
from worker.status_page.pages import Sources, StatusPage

DESTINATIONS = ("archive", "pacs1")


def spread(database: Engine, instances: int) -> None:
    """Spread the instances over the last day, and give each two outputs on their way to two destinations."""
    outputs = NUMBERS.format(first=1, last=instances * 2)
    aged = f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (86000.0 * ({instances} - id) / {instances}) || ' seconds')"
    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    statements = [
        f"UPDATE instance SET received_at = {aged}, settled_at = {aged},"
        " state = CASE WHEN id % 50 = 0 THEN 'failed' WHEN id % 7 = 0 THEN 'skipped' ELSE 'done' END,"
        " reason = CASE WHEN id % 50 = 0 THEN 'undecodable_pixels' WHEN id % 7 = 0 THEN 'no_rule_matched' END",
        "INSERT INTO output (id, instance_id, model_version_id, kind, sop_class_uid, sop_instance_uid,"
        f" series_instance_uid, file_name, created_at) {outputs} SELECT i, (i + 1) / 2, 1, 'secondary_capture', '1.2',"
        f" '2.25.' || i, '2.25.1', i || '.dcm', {now} FROM n",
        *(
            "INSERT INTO delivery (output_id, destination, state, attempts, requested_at, next_attempt_at,"
            f" delivered_at) SELECT id, '{name}', CASE WHEN '{name}' = 'pacs1' AND id % 10 = 0 THEN 'pending'"
            f" ELSE 'delivered' END, 0, {now}, {now}, {now} FROM output"
            for name in DESTINATIONS
        ),
    ]
    with database.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def times_ms(ask: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Ask again and again; give the median and the longest in milliseconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began) * 1000)
    return {"median_ms": round(statistics.median(taken), 2), "longest_ms": round(max(taken), 2)}


def measure(database: Engine, repeats: int, directory: Path) -> dict[str, dict[str, float]]:
    """Measure what a page asks, and the page."""
    reader = LedgerReader(session_factory(database), DESTINATIONS)
    sources = Sources(
        ledger=reader.read_now,
        pace=reader.read_pace,
        queues=lambda: QueueFacts((), (), False),
        engines=lambda: (),
        in_hand=lambda: 0,
        checks={},
        spool=directory,
    )
    page = StatusPage("benchmark", sources)
    first = times_ms(page.pages["/"], 1)

    def again() -> None:
        page._made_at = float("-inf")
        page.pages["/"]()

    return {
        "queue, studies, destinations (at most every 5 s)": times_ms(reader.read_now, repeats),
        "throughput and latency (at most every 15 s)": times_ms(reader.read_pace, repeats),
        "first page, everything asked": first,
        "a page made anew from what is known (at most every 2 s)": times_ms(again, repeats),
        "a page that another viewer had made": times_ms(page.pages["/"], repeats),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the times, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as kept:
        directory = Path(kept)
        database = open_database(Settings(database_url=SecretStr(f"sqlite:///{directory / 'page.db'}")))
        prepare(database)
        fill(database, 1, arguments.instances)
        spread(database, arguments.instances)
        found = measure(database, arguments.repeats, directory)
        database.dispose()
    table = Table("what", "median, ms", "longest, ms", title=f"{arguments.instances:,} instances of a day, SQLite")
    for what, taken in found.items():
        table.add_row(what, f"{taken['median_ms']:.2f}", f"{taken['longest_ms']:.2f}")
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"instances": arguments.instances, "times": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
