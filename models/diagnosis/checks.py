"""Looking for what is wrong with a feed: one vocabulary of checks and findings for the `doctor` of every process.

A check never raises, hangs or quotes: whatever goes wrong inside becomes a finding that names the kind of error alone,
because the messages of libraries may hold passwords and patients.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TextIO

import structlog

from models.errors import ConfigurationError


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


GOOD: Final = 0
FAILED: Final = 1
WRONG_SETTINGS: Final = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        text: what is so, one line in our own words.
        remedy: what to type or set; a failure always has one.
        check, subject: set by whoever runs the check.
    """

    severity: Severity
    text: str
    remedy: str = ""
    check: str = ""
    subject: str = ""


def ok(text: str) -> Finding:
    """Give a finding that all is well."""
    return Finding(Severity.OK, text)


def warning(text: str, remedy: str) -> Finding:
    """Give a finding of what works but should be otherwise."""
    return Finding(Severity.WARNING, text, remedy)


def failure(text: str, remedy: str) -> Finding:
    """Give a finding of what does not work."""
    return Finding(Severity.FAILURE, text, remedy)


def skipped(text: str) -> Finding:
    """Give a finding that something was not looked at, and why."""
    return Finding(Severity.SKIPPED, text)


@dataclass(frozen=True, slots=True)
class Check:
    """One look at one part of a feed.

    Attributes:
        name: by which `--only` and `--skip` choose it; several checks may share one.
        run: gives its findings, one after the other, so that those made before a hang or an error are kept.
        subject: which of several it looks at, e.g. a destination.
        deadline_s: after which it is given up.
        waits: mostly for others, so that it runs beside all that do; the rest run one by one, because they measure.
    """

    name: str
    run: Callable[[], Iterable[Finding]]
    subject: str = ""
    deadline_s: float = 15.0
    waits: bool = True


@dataclass(slots=True)
class _Run:
    """A check in a thread of its own, which is left behind when it hangs."""

    check: Check
    findings: list[Finding] = field(default_factory=list)
    thread: threading.Thread | None = None
    ends_at: float = 0.0

    def start(self) -> None:
        self.ends_at = time.monotonic() + self.check.deadline_s
        self.thread = threading.Thread(target=self._work, name=f"check-{self.check.name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            for finding in self.check.run():
                self.findings.append(finding)
        except ConfigurationError as error:
            self.findings.append(failure(str(error), "correct what this names"))  # such a message is our own words
        except BaseException as error:
            # The border: a check that fails in an unforeseen way is a finding, and the others go on.
            self.findings.append(
                failure(
                    f"the check itself failed ({type(error).__qualname__})",
                    "look at the log of the process that this concerns; if that says nothing, report it as a defect",
                )
            )

    def result(self) -> list[Finding]:
        """Wait for the end or the deadline."""
        if self.thread is None:
            self.start()
        if self.thread is not None:
            self.thread.join(max(0.0, self.ends_at - time.monotonic()))
        found = list(self.findings)
        if self.thread is not None and self.thread.is_alive():
            found.append(
                failure(
                    f"no answer within {self.check.deadline_s:g} s",
                    "see whether what it looks at hangs: a peer, a file system, a lock",
                )
            )
        return [replace(finding, check=self.check.name, subject=self.check.subject) for finding in found]


def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run checks and give their findings in the order of the checks; nothing that hangs holds this up for long."""
    runs = [_Run(check) for check in checks]
    for run in runs:
        if run.check.waits:
            run.start()
    results = {id(run): run.result() for run in runs if not run.check.waits}
    return [finding for run in runs for finding in results.get(id(run)) or run.result()]


# The command


def silence() -> None:
    """Let no library and no thread write beside the findings; for a process that does nothing else."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    threading.excepthook = lambda found: None
    sys.unraisablehook = lambda found: None


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add what the `doctor` of every process takes.

    Args:
        parser: of the command.
        names: of its checks.
    """
    listed = ", ".join(names)
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", default=[], help=f"run this check alone; {listed}"
    )
    parser.add_argument(
        "--skip", action="append", choices=names, metavar="NAME", default=[], help="leave this check out"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="S", help="longest wait for a service or peer (default 5)"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="default: table")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 60")
    return seconds


def chosen(checks: Sequence[Check], only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """Give the checks that `--only` and `--skip` leave."""
    return [check for check in checks if (not only or check.name in only) and check.name not in skip]


def exit_status(findings: Iterable[Finding], *, settings_wrong: bool = False) -> int:
    """Give the status: 0 without a failure, 1 with one, 2 when settings cannot be read."""
    if settings_wrong:
        return WRONG_SETTINGS
    return FAILED if any(finding.severity is Severity.FAILURE for finding in findings) else GOOD


def diagnose(
    arguments: argparse.Namespace, names: Sequence[str], checks: Sequence[Check], *, settings_wrong: bool
) -> int:
    """Run the checks that were asked for, print what they find, and give the exit status.

    Args:
        arguments: see `add_arguments`.
        names: of all checks, that of the settings first.
        checks: all; where settings are wrong, that of the settings alone, which is then told whatever was asked for.
        settings_wrong: whether they are.
    """
    only, skip = arguments.only, arguments.skip
    if settings_wrong:
        checks = [*checks, *(Check(name, _unknown) for name in names[1:])]
        only, skip = [*only, names[0]] if only else [], []
    findings = run_checks(chosen(checks, only, skip))
    status = exit_status(findings, settings_wrong=settings_wrong)
    write_findings(findings, arguments.format, sys.stdout, status)
    return status


def _unknown() -> Iterator[Finding]:
    yield skipped("settings are wrong, so it is not known what to look at")


def write_findings(findings: Sequence[Finding], form: str, stream: TextIO, status: int) -> None:
    """Write findings as a table for people or as JSON.

    Args:
        findings: in the order in which they are to be shown.
        form: ``table`` or ``json``.
        stream: where to.
        status: that the command will end with.
    """
    counts = {kind: sum(finding.severity is kind for finding in findings) for kind in Severity}
    if form == "json":
        rows = [
            {
                "check": finding.check,
                "subject": finding.subject,
                "severity": finding.severity.value,
                "finding": finding.text,
                "remedy": finding.remedy,
            }
            for finding in findings
        ]
        json.dump({"exit_status": status, "counts": counts, "findings": rows}, stream, indent=2)
        stream.write("\n")
        return
    _write_table(findings, counts, stream)


_COLOURS: Final = {
    Severity.OK: "green",
    Severity.WARNING: "yellow",
    Severity.FAILURE: "bold red",
    Severity.SKIPPED: "dim",
}
_MARKS: Final = {Severity.OK: "✓", Severity.WARNING: "!", Severity.FAILURE: "✗", Severity.SKIPPED: "-"}
_PLAIN_MARKS: Final = {Severity.OK: "ok", Severity.WARNING: "!", Severity.FAILURE: "X", Severity.SKIPPED: "-"}
_WIDTH_OF_A_FILE: Final = 120


def _write_table(findings: Sequence[Finding], counts: dict[Severity, int], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks, arrow = (_MARKS, "→") if _takes(stream, "✓✗→") else (_PLAIN_MARKS, "->")
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_FILE, highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=22, overflow="fold")
    table.add_column(overflow="fold")
    before = ""
    for finding in findings:
        label = f"{finding.check} {finding.subject}".strip()
        colour = _COLOURS[finding.severity]
        text = Text(finding.text, style="dim" if finding.severity is Severity.SKIPPED else "")
        if finding.remedy:
            text.append(f"\n{arrow} {finding.remedy}", style=_COLOURS[Severity.WARNING])
        table.add_row(Text(marks[finding.severity], style=colour), Text("" if label == before else label), text)
        before = label
    console.print(table)
    named = {
        Severity.FAILURE: "failures",
        Severity.WARNING: "warnings",
        Severity.OK: "good",
        Severity.SKIPPED: "skipped",
    }
    summary = Text("\n")
    for kind, name in named.items():
        name = name.removesuffix("s") if counts[kind] == 1 and name.endswith("s") else name
        summary.append(f"{counts[kind]} {name}", style=_COLOURS[kind] if counts[kind] else "dim")
        summary.append("  ")
    console.print(summary)


def _takes(stream: TextIO, signs: str) -> bool:
    try:
        signs.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
