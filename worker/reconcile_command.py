"""`python -m worker reconcile`: where ledger, spool, queues, outbox and a PACS disagree; mends it if told to."""

from __future__ import annotations

import csv
import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from models.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from models.settings import Settings
    from worker.disagreements import Case
    from worker.mending import Mended
    from worker.settings import Destination, WorkerSettings

COLUMNS: Final = (
    "disagreement",
    "subject",
    "study_instance_uid",
    "sender",
    "destination",
    "detail",
    "mended",
    "to_do",
)
TABLE_ROWS: Final = 40
"""Of one disagreement in a table; the rest is counted, and in JSON and CSV."""


def add_arguments(commands: Any) -> None:
    """Add the command to the parser of `python -m worker`."""
    parser = commands.add_parser(
        "reconcile",
        help="compare ledger, spool, queues, outbox and PACS; mend what disagrees",
        description="Reports where they disagree, and with --mend mends what can be mended. Work in progress and what "
        "is younger than --min-age are left alone, so it may run beside the feed. Unfinished work is compared "
        "however old it is; results, outputs and deliveries since --since. Exit status 0 when all agrees or is "
        "mended, else 1.",
    )
    parser.add_argument(
        "--since", type=_since, metavar="TIME", help="ISO 8601, or a time ago: 90m, 36h, 7d (default 24h)"
    )
    parser.add_argument(
        "--min-age", type=_seconds, default="10", metavar="S", help="leave alone what is younger, seconds (default 10)"
    )
    parser.add_argument("--pacs", metavar="NAME", help="ask this destination (C-FIND) for what was delivered to it")
    parser.add_argument("--mend", action="store_true", help="mend; without it, only report")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="default: table")


def _since(text: str) -> datetime:
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if text[:-1].isdigit() and text[-1:] in units and len(text) < 8:
        return datetime.now().astimezone() - timedelta(**{units[text[-1]]: int(text[:-1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither an ISO 8601 time nor a time ago, e.g. 24h") from None


def _seconds(text: str) -> timedelta:
    try:
        age = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        age = timedelta(seconds=-1)
    if age < timedelta(0):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return age


def reconcile(arguments: Namespace, settings: Settings, own: WorkerSettings, sessions: sessionmaker[Session]) -> int:
    """Report or mend; give the exit status.

    Raises:
        ConfigurationError: an option or setting is wrong.
        Transient: the PACS does not answer.
        SQLAlchemyError: the database does not answer.
    """
    from models.any_spool import open_spool
    from models.queues import Queues
    from worker.mending import Mender
    from worker.outbox import open_outbox
    from worker.output_reconciliation import OutputReconciliation
    from worker.reconciliation import FeedReconciliation

    pacs = _destination(arguments.pacs, own) if arguments.pacs else None
    since = arguments.since or datetime.now().astimezone() - timedelta(hours=24)
    spool = open_spool(settings)
    outbox = open_outbox(settings)
    spool.prepare()
    outbox.prepare()
    with ExitStack() as closing:
        queues = Queues(settings.redis_url.get_secret_value())
        closing.callback(queues.close)
        feed = FeedReconciliation(sessions, spool, queues, arguments.min_age)
        outputs = OutputReconciliation(sessions, outbox, own.destinations, since, arguments.min_age)
        mender = Mender(sessions, spool, queues, outbox, own.destinations, settings.duplicate_policy)
        deal = mender.mend if arguments.mend else mender.plan
        writer = closing.enter_context(_writer(arguments.format, sys.stdout, arguments.mend))
        progress = closing.enter_context(_progress())
        total = feed.count() + outputs.count() + (outputs.count_delivered(pacs.name) if pacs else 0)
        advance = partial(progress.advance, progress.add_task("reconcile", total=total))
        left = 0
        for case in _cases(feed, outputs, pacs, settings, own, advance):
            what = deal(case)
            left += what.left is not None or not arguments.mend
            _log(case, what, arguments.mend)
            writer.write(case, what)
    if not feed.redis_up:
        print("radstream: Redis does not answer: the queues were not compared", file=sys.stderr)
    return 1 if left or not feed.redis_up else 0


def _cases(
    feed: Any, outputs: Any, pacs: Destination | None, settings: Settings, own: WorkerSettings, advance: Any
) -> Iterator[Case]:
    yield from feed.run(advance)
    yield from outputs.run(advance)
    if pacs is None:
        return
    from worker.pacs_query import PacsQuery

    query = PacsQuery(pacs, settings.ae_title, own.delivery_timeout_s)
    try:
        yield from outputs.pacs_side(pacs.name, query, advance)
    finally:
        query.release()


def _destination(name: str, own: WorkerSettings) -> Destination:
    from worker.settings import Destination

    known = {to.name: to for to in own.destinations}
    if name not in known:
        raise ConfigurationError(
            f"--pacs {name}: not one of RADSTREAM_WORKER_DESTINATIONS ({', '.join(sorted(known)) or 'none is set'})"
        )
    to = known[name]
    if not isinstance(to, Destination):
        raise ConfigurationError(f"--pacs {name}: is reached by STOW-RS, and only C-FIND can be asked")
    return to


def _log(case: Case, what: Mended, mends: bool) -> None:
    from models.telemetry import get_logger

    if mends:
        get_logger("worker.reconcile").info(
            "disagreement",
            disagreement=case.disagreement.value,
            uid=case.subject,
            destination=case.destination,
            done=what.done,
            left=what.left,
        )


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


# Writing, as it is found


class _Writer(Protocol):
    def __enter__(self) -> _Writer: ...

    def __exit__(self, *error: object) -> None: ...

    def write(self, case: Case, what: Mended) -> None:
        """Take one case."""


def _writer(form: str, stream: TextIO, mends: bool) -> _Writer:
    if form == "json":
        return _JsonWriter(stream, mends)
    return _CsvWriter(stream, mends) if form == "csv" else _TableWriter(stream, mends)


def _row(case: Case, what: Mended, mends: bool) -> dict[str, str | None]:
    would = None if what.done is None or mends else f"--mend {what.done}"
    return {
        "disagreement": case.disagreement.value,
        "subject": case.subject,
        "study_instance_uid": case.study_instance_uid,
        "sender": case.sender,
        "destination": case.destination,
        "detail": case.detail or None,
        "mended": what.done if mends else None,
        "to_do": what.left or would,
    }


class _JsonWriter:
    """An array of objects, one a line."""

    def __init__(self, stream: TextIO, mends: bool) -> None:
        self._stream, self._mends, self._first = stream, mends, True

    def __enter__(self) -> _JsonWriter:
        self._stream.write("[")
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.write("\n]\n" if not self._first else "]\n")

    def write(self, case: Case, what: Mended) -> None:
        """Write it."""
        self._stream.write("\n" if self._first else ",\n")
        json.dump(_row(case, what, self._mends), self._stream)
        self._first = False


class _CsvWriter:
    """A header and a line of each."""

    def __init__(self, stream: TextIO, mends: bool) -> None:
        self._writer, self._mends = csv.DictWriter(stream, COLUMNS), mends

    def __enter__(self) -> _CsvWriter:
        self._writer.writeheader()
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def write(self, case: Case, what: Mended) -> None:
        """Write it."""
        self._writer.writerow(_row(case, what, self._mends))


class _TableWriter:
    """The first of each disagreement, and counts of all, at the end."""

    def __init__(self, stream: TextIO, mends: bool) -> None:
        self._stream, self._mends = stream, mends
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._rows: list[dict[str, str | None]] = []

    def __enter__(self) -> _TableWriter:
        return self

    def write(self, case: Case, what: Mended) -> None:
        """Keep it, if there are not many of its kind."""
        name = case.disagreement.value
        if self._counts[name, True] + self._counts[name, False] < TABLE_ROWS:
            self._rows.append(_row(case, what, self._mends))
        self._counts[name, what.left is None] += 1

    def __exit__(self, *error: object) -> None:
        from worker.commands import write_rows

        if error[0] is not None:
            return
        if not self._counts:
            self._stream.write("all agrees\n")
            return
        write_rows(self._rows, "table", self._stream, "disagreements")
        can = "mended" if self._mends else "can be mended"
        names = sorted({name for name, _ in self._counts})
        counts = [
            {"disagreement": name, can: self._counts[name, True], "for a person": self._counts[name, False]}
            for name in names
        ]
        write_rows(counts, "table", self._stream, "counts")
        if any(sum(self._counts[name, good] for good in (True, False)) > TABLE_ROWS for name in names):
            self._stream.write(f"{TABLE_ROWS} of each are shown; --format csv has all\n")
