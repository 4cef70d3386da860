"""`python -m worker backfill`: counts what would be done, and with ``--yes`` does it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ConfigurationError
from models.settings import Settings
from models.spool import Spool
from models.spool_archive import SpoolArchive
from models.store.store import ModelStore, ModelVersion
from models.telemetry import get_logger
from worker.backfill import Backfill, BackfillOptions, queues_are_empty
from worker.backfill_selection import Candidate, read_condition, select_candidates
from worker.commands import Rows, print_rows
from worker.metrics import WorkerMetrics
from worker.outbox import Outbox
from worker.retrieval import Retriever
from worker.running import connect_redis, engine_loader, pipeline_limits, stage_context
from worker.settings import WorkerSettings
from worker.settlement import Settlement

log = get_logger("worker.backfill")

NICENESS = 10
_SIGNALLED: Final = 128
"""Added to the number of a signal: how shells tell the end by it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a backfill finds to do.

    Attributes:
        archived, asked, nowhere: instances whose pixels lie in the archive, will be asked of a PACS, cannot be had.
        taken: those that can be had, as many as allowed.
    """

    archived: int
    asked: int
    nowhere: int
    taken: list[Candidate]


def backfill(arguments: Namespace, settings: Settings, own: WorkerSettings, sessions: sessionmaker[Session]) -> int:
    """Preview or run; give the exit status: 0 when it came to the end, 128 and the signal's number when stopped before.

    Raises:
        ConfigurationError: an option or setting is wrong.
        StoreError: the version cannot be run.
    """
    if arguments.deliver and not own.destinations:
        raise ConfigurationError("--deliver: RADSTREAM_WORKER_DESTINATIONS names no destination")
    if arguments.limit < 0 or arguments.rate < 0:
        raise ConfigurationError("--limit, --rate: must be 0 or more")
    conditions = [read_condition(text, arguments.task) for text in arguments.where]
    store = ModelStore(settings.model_store)
    version = store.open(arguments.task, arguments.version)
    name = version.manifest.version
    found = select_candidates(sessions, arguments.task, name, conditions)
    plan = make_plan(found, settings, own, arguments.limit)
    active = store.active(arguments.task)
    title = f"backfill of {arguments.task} {name}" + ("" if name == active else f" (not active: that is {active})")
    if not arguments.yes:
        print_rows(preview(plan), arguments.format, f"{title}: preview, --yes runs it")
        return 0
    return _run(arguments, settings, own, sessions, version, plan, title)


def make_plan(found: list[Candidate], settings: Settings, own: WorkerSettings, limit: int) -> Plan:
    """Say where the pixels of each are; those that are nowhere do not count against the limit."""
    kept = {file.key for file in SpoolArchive(settings.spool_path).files()}
    archived = [each for each in found if each.request.spool_key in kept]
    elsewhere = [each for each in found if each.request.spool_key not in kept]
    asked = [each for each in elsewhere if own.backfill_source is not None and each.series_instance_uid is not None]
    to_be_had = {each.request.spool_key for each in (*archived, *asked)}
    taken = [each for each in found if each.request.spool_key in to_be_had]
    return Plan(len(archived), len(asked), len(elsewhere) - len(asked), taken[:limit] if limit else taken)


def preview(plan: Plan) -> Rows:
    """Give the counts as rows."""
    counts = {
        "instances not yet answered by this version": plan.archived + plan.asked + plan.nowhere,
        "pixels in the spool archive": plan.archived,
        "pixels to be asked of the PACS": plan.asked,
        "pixels nowhere to be had": plan.nowhere,
        "would be run": len(plan.taken),
    }
    return [{"what": what, "count": count} for what, count in counts.items()]


def _run(
    arguments: Namespace,
    settings: Settings,
    own: WorkerSettings,
    sessions: sessionmaker[Session],
    version: ModelVersion,
    plan: Plan,
    title: str,
) -> int:
    with suppress(OSError):
        os.nice(NICENESS)  # before any thread or process is started: they inherit it
    stop, received = _stop_on_signal()
    spool, outbox = Spool(settings.spool_path), Outbox(settings.outbox_path)
    spool.prepare()
    outbox.prepare()
    context = stage_context(settings, own)
    redis = connect_redis(settings)
    destinations = own.destinations if arguments.deliver else ()
    with ExitStack() as closing:
        closing.callback(redis.close)
        engine = engine_loader(own)(version)
        closing.callback(engine.close)
        retriever = None
        if own.backfill_source is not None:
            retriever = Retriever(own.backfill_source, settings.ae_title, own.backfill_timeout_s, plan.taken)
        work = Backfill(
            spool=spool,
            outbox=outbox,
            engine=engine,
            context=context if arguments.deliver else replace(context, overlay_max_side=0, kinds=frozenset()),
            settlement=Settlement(sessions, settings.duplicate_policy, destinations),
            retriever=retriever,
            limits=pipeline_limits(own),
            metrics=WorkerMetrics(CollectorRegistry()),
            options=BackfillOptions(arguments.rate, arguments.accept_changed, arguments.deliver),
            is_idle=partial(queues_are_empty, redis) if own.backfill_idle_only else lambda: True,
            poll_s=own.backfill_poll_s,
            stop=stop,
        )
        finished = False
        try:
            with _progress() as progress:
                bar = progress.add_task(title, total=len(plan.taken))
                finished = work.run(plan.taken, partial(progress.advance, bar))
        finally:
            rows = [{"what": what, "why": why, "count": count} for (what, why), count in sorted(work.tally.items())]
            print_rows(rows, arguments.format, title)
    if finished:
        return 0
    print("radstream: stopped before the end; the same command goes on where it stopped", file=sys.stderr)
    return _SIGNALLED + next(iter(received), signal.SIGTERM)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _stop_on_signal() -> tuple[threading.Event, list[int]]:
    """Let Ctrl-C end after the instances in hand, and a second one at once; give the signals that came, too."""
    stop = threading.Event()
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop, received
