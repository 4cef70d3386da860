"""`python -m worker results`: the analysts' views as a table, CSV, JSON or Parquet, to the screen or into a file."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from models.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session, sessionmaker

    from models.audit.settings import AuditSettings
    from models.settings import Settings
    from worker.exported import Exported
    from worker.result_formats import Format
    from worker.results import Batch, Choice

ROWS_OF_A_TABLE: Final = 1000
"""Shown on a screen unless more are asked for; exports give all."""


def add_arguments(commands: Any, moment: Callable[[str], datetime]) -> None:
    """Add the command to a parser; `moment` reads a time."""
    results = commands.add_parser(
        "results",
        help="findings per instance or study, daily volume, and what versions answered; newest first",
        description="Columns that tell or link a patient are left out unless --identity is given. "
        "deploy/data_dictionary.md explains every column.",
    )
    results.add_argument(
        "--view", choices=["instance", "study", "daily", "performance"], default="instance", help="default: instance"
    )
    results.add_argument("--study", metavar="UID", help="only this study")
    results.add_argument("--state", choices=["received", "queued", "done", "skipped", "failed"])
    results.add_argument("--since", type=moment, metavar="TIME", help="received at or after, ISO 8601")
    results.add_argument(
        "--limit", type=int, help=f"at most so many; 0 for all (default: {ROWS_OF_A_TABLE} in a table, all elsewhere)"
    )
    results.add_argument(
        "--format",
        choices=["table", "csv", "json", "jsonl", "parquet"],
        default="table",
        help="default: table; json is one array, jsonl one object a line",
    )
    results.add_argument("--output", type=Path, metavar="FILE", help="into this file, which is whole or not there")
    results.add_argument("--identity", action="store_true", help="with accession number, study date and patient id")


def results(
    arguments: Namespace, sessions: sessionmaker[Session], settings: Settings, audit: AuditSettings | None = None
) -> int:
    """Write what is asked for, and tell the audit trail; give the exit status.

    Raises:
        ConfigurationError: an option is wrong, or the file cannot be written.
    """
    from worker.audit import command_trail
    from worker.exported import Exported
    from worker.result_formats import Format, require_parquet

    form, choice = Format(arguments.format), _choice(arguments)
    if form is Format.PARQUET:
        require_parquet()
        if arguments.output is None and sys.stdout.isatty():
            raise ConfigurationError("--format parquet: is no text for a screen; give --output FILE")
    with command_trail(settings, audit, "results") as trail:
        exported = Exported(trail, choice, arguments)
        try:
            return _export(arguments, form, choice, sessions, exported)
        finally:
            # Also what was written before a break has been seen.
            exported.end()


def _export(
    arguments: Namespace, form: Format, choice: Choice, sessions: sessionmaker[Session], exported: Exported
) -> int:
    if arguments.output is None:
        return _to_standard_output(form, choice, sessions, exported)
    try:
        with _whole_file(arguments.output) as file:
            rows = _write(form, choice, sessions, file, exported, with_bar=True)
    except OSError as error:
        raise ConfigurationError(f"--output {arguments.output}: {error.strerror or error}") from error
    print(f"radstream: {rows} rows in {arguments.output}", file=sys.stderr)
    return 0


def _choice(arguments: Namespace) -> Choice:
    from worker.results import VIEWS, Choice

    if arguments.limit is not None and arguments.limit < 0:
        raise ConfigurationError("--limit: must be 0 or more")
    default = ROWS_OF_A_TABLE if arguments.format == "table" else 0
    return Choice(
        VIEWS[arguments.view],
        identity=arguments.identity,
        study=arguments.study,
        state=arguments.state,
        since=arguments.since,
        limit=default if arguments.limit is None else arguments.limit,
    )


def _to_standard_output(form: Format, choice: Choice, sessions: sessionmaker[Session], exported: Exported) -> int:
    try:
        rows = _write(form, choice, sessions, sys.stdout, exported, with_bar=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. What is buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if form.value == "table" and rows == choice.limit == ROWS_OF_A_TABLE:
        print(f"radstream: the newest {rows} rows; --limit 0 gives all", file=sys.stderr)
    return 0


def _write(
    form: Format,
    choice: Choice,
    sessions: sessionmaker[Session],
    target: TextIO,
    exported: Exported,
    with_bar: bool,
) -> int:
    """Write to a text stream, or to the bytes beneath it; give the number of rows."""
    from worker.result_formats import Format, write_parquet, write_text
    from worker.results import read

    counted = _Counted(exported.watch(read(sessions, choice)))
    with _bar(choice, sessions, counted) if with_bar else _no_bar():
        if form is Format.PARQUET:
            write_parquet(choice.columns, counted, target.buffer)
        else:
            write_text(form, choice.view, choice.columns, counted, target)
    return counted.rows


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.rows = 0
        self.passed: Callable[[int], None] = lambda rows: None

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield batch
            self.rows += len(batch)
            self.passed(len(batch))


@contextmanager
def _no_bar() -> Iterator[None]:
    yield


@contextmanager
def _bar(choice: Choice, sessions: sessionmaker[Session], counted: _Counted) -> Iterator[None]:
    """Show how far it is, on a terminal alone: counting costs about as much as the view does."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from worker.results import count

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(choice.view.name, total=count(sessions, choice))
        counted.passed = lambda rows: progress.advance(bar, rows)
        yield


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIOWrapper]:
    """Open a file that has its name only when it is whole and on disk; a device or pipe is written as it is."""
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
