"""`python -m worker backfill`: counts what would be done, and with ``--yes`` does it."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from prometheus_client import CollectorRegistry
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import open_spool
from models.audit.settings import AuditSettings
from models.errors import ConfigurationError
from models.settings import Settings
from models.store.store import ModelStore, ModelVersion
from models.telemetry import get_logger
from worker.audit import command_trail, tell_read_again
from worker.backfill import Backfill, BackfillOptions, queues_are_empty
from worker.backfill_selection import Candidate, read_condition, select_candidates
from worker.commands import Rows, print_rows
from worker.interruption import SIGNALLED, progress_bar, stop_on_signal
from worker.metrics import WorkerMetrics
from worker.outbox import open_outbox
from worker.retrieval import Retriever
from worker.running import connect_redis, engine_loader, pipeline_limits, stage_context
from worker.settings import WorkerSettings
from worker.settlement import Settlement

log = get_logger("worker.backfill")

NICENESS = 10


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


def backfill(
    arguments: Namespace,
    settings: Settings,
    own: WorkerSettings,
    sessions: sessionmaker[Session],
    audit: AuditSettings | None = None,
) -> int:
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
    with command_trail(settings, audit, "backfill") as trail:
        tell_read_again(trail, sessions, [each.request.sop_instance_uid for each in plan.taken])
    return _run(arguments, settings, own, sessions, version, plan, title)


def make_plan(found: list[Candidate], settings: Settings, own: WorkerSettings, limit: int) -> Plan:
    """Say where the pixels of each are; those that are nowhere do not count against the limit."""
    kept = {file.key for file in open_spool(settings).archived()}
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
    stop, received = stop_on_signal()
    spool, outbox = open_spool(settings), open_outbox(settings)
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
            with progress_bar() as progress:
                bar = progress.add_task(title, total=len(plan.taken))
                finished = work.run(plan.taken, partial(progress.advance, bar))
        finally:
            rows = [{"what": what, "why": why, "count": count} for (what, why), count in sorted(work.tally.items())]
            print_rows(rows, arguments.format, title)
    if finished:
        return 0
    print("radstream: stopped before the end; the same command goes on where it stopped", file=sys.stderr)
    return SIGNALLED + next(iter(received), signal.SIGTERM)
