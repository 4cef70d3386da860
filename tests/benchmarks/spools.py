"""What a spool in a bucket costs beside one in a directory: stores, fetches and finishes per second, in one run.

The bucket is behind moto's server on loopback, a Python program that answers a few hundred requests a second on a
core of its own: a real store answers more, over a longer wire. Look at the ratios, and at how they close with the
number of threads, which hide the wire. A store is what `scp.ingest` does for Success, a fetch what the worker does
before it decodes, a finish what it does after it settled. Rounds take turns, and the best of each counts.

    python -m tests.benchmarks.spools --bytes 2000000 --count 64
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.any_spool import AnySpool
from models.object_spool import ObjectSpool
from models.object_store import ObjectStore
from models.requests import Lane
from models.spool import Spool
from tests.stand_ins.s3_server import S3Server, start_s3

CR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1"
PIECE = 1 << 17
"""Bytes that come from the wire at once."""
THREADS = (1, 4, 8)
STEPS = ("store", "fetch", "finish")


def store(spool: AnySpool, uid: str, data: bytes) -> str:
    """Take one instance in, and give its key."""
    with spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=Lane.ROUTINE,
    ) as writer:
        for start in range(0, len(data), PIECE):
            writer.write(memoryview(data)[start : start + PIECE])
        return writer.commit()


def measure(spool: AnySpool, data: bytes, count: int, threads: int) -> dict[str, float]:
    """Give instances per second of each step."""
    rates: dict[str, float] = {}
    keys: list[str] = []

    def timed(step: str, act: Callable[[int], object]) -> None:
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(act, range(count)))
        rates[step] = count / (time.perf_counter() - began)

    timed("store", lambda number: keys.append(store(spool, f"1.2.{number}", data)))
    timed("fetch", lambda number: spool.fetch(keys[number]).read_bytes())
    timed("finish", lambda number: spool.finish(keys[number]))
    return rates


def _bucket(server: S3Server, directory: Path) -> ObjectSpool:
    bucket = ObjectStore(f"s3://{server.bucket}/bench", endpoint=server.endpoint, keys=("stand-in", "stand-in"))
    return ObjectSpool(directory, bucket, cache_bytes=10**10)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of an instance")
    parser.add_argument("--count", type=int, default=64, help="instances in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where the spools lie; default a temporary directory")
    given = parser.parse_args(argv)
    directory = Path(tempfile.mkdtemp(prefix="spools-", dir=given.directory))
    server = start_s3()
    try:
        spools: dict[str, AnySpool] = {"directory": Spool(directory / "d"), "bucket": _bucket(server, directory / "b")}
        best: dict[tuple[int, str, str], float] = {}
        data = os.urandom(given.bytes)
        for spool in spools.values():
            spool.prepare()
        for _ in range(given.rounds):
            for threads in THREADS:
                for name, spool in spools.items():
                    for step, rate in measure(spool, data, given.count, threads).items():
                        best[threads, step, name] = max(rate, best.get((threads, step, name), 0.0))
    finally:
        server.stop()
        shutil.rmtree(directory)
    table = Table(title=f"instances of {given.bytes / 1e6:g} MB per second, best of {given.rounds} rounds")
    for column in ("step", "threads", "directory", "bucket", "bucket / directory"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step in STEPS:
        for threads in THREADS:
            local, remote = best[threads, step, "directory"], best[threads, step, "bucket"]
            table.add_row(step, str(threads), f"{local:.0f}", f"{remote:.0f}", f"{remote / local:.2f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
