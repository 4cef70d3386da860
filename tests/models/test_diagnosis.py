"""Running checks and telling what they found: nothing hangs, nothing is quoted, each failure has a remedy."""

from __future__ import annotations

import argparse
import io
import json
import threading
import time
from collections.abc import Iterator

import pytest

from models.diagnosis.checks import (
    Check,
    Finding,
    Severity,
    add_arguments,
    chosen,
    exit_status,
    failure,
    ok,
    run_checks,
    skipped,
    warning,
    write_findings,
)
from models.errors import ConfigurationError

SECRET = "hunter2-of-the-database"


def _written(findings: list[Finding], form: str = "table", encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write_findings(findings, form, stream, exit_status(findings))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_what_a_check_raises_is_told_by_its_kind_and_never_by_its_message() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("first step")
        raise KeyError(SECRET)

    found = run_checks([Check("broken", broken, subject="one")])
    assert [(each.severity, each.check, each.subject) for each in found] == [
        (Severity.OK, "broken", "one"),
        (Severity.FAILURE, "broken", "one"),
    ]
    assert "KeyError" in found[1].text
    assert SECRET not in _written(found) + _written(found, "json")


def test_our_own_word_on_a_wrong_setting_is_told() -> None:
    def wrong() -> Iterator[Finding]:
        raise ConfigurationError("RADSTREAM_X: not a number")
        yield

    assert run_checks([Check("x", wrong)])[0].text == "RADSTREAM_X: not a number"


@pytest.mark.parametrize("waits", [True, False])
def test_a_check_that_hangs_is_given_up_and_the_others_are_told(waits: bool) -> None:
    never = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("name is known")
        never.wait(60)
        yield ok("too late")

    checks = [
        Check("a", lambda: [ok("good")]),
        Check("b", hangs, deadline_s=0.1, waits=waits),
        Check("c", lambda: [warning("slow", "buy a faster one")], waits=False),
    ]
    started = time.monotonic()
    found = run_checks(checks)
    never.set()
    assert time.monotonic() - started < 30
    assert [(each.check, each.severity.value) for each in found] == [
        ("a", "ok"),
        ("b", "ok"),
        ("b", "failure"),
        ("c", "warning"),
    ]
    assert "no answer within 0.1 s" in found[2].text


def test_checks_that_wait_for_others_run_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    def meets() -> Iterator[Finding]:
        both.wait()
        yield ok("met")

    assert [each.text for each in run_checks([Check("a", meets), Check("b", meets)])] == ["met", "met"]


@pytest.mark.parametrize(
    ("findings", "status"),
    [([], 0), ([ok("a"), warning("b", "c"), skipped("d")], 0), ([ok("a"), failure("b", "c")], 1)],
)
def test_only_a_failure_makes_the_status_one(findings: list[Finding], status: int) -> None:
    assert exit_status(findings) == status
    assert exit_status(findings, settings_wrong=True) == 2


def test_only_and_skip_choose_checks() -> None:
    checks = [Check(name, lambda: []) for name in "abc"]
    assert [each.name for each in chosen(checks, [], [])] == ["a", "b", "c"]
    assert [each.name for each in chosen(checks, ["b", "c"], ["c"])] == ["b"]


def test_a_name_that_is_no_check_and_a_timeout_that_is_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, ["disk", "redis"])
    for wrong in (["--only", "disc"], ["--timeout", "0"], ["--timeout", "soon"]):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(wrong)
        assert ended.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_table_shows_mark_check_and_remedy_once_each() -> None:
    found = run_checks(
        [Check("disk", lambda: [ok("spool is writable"), failure("spool is full", "free space")]), Check("gpu", list)]
    )
    assert [line.rstrip() for line in _written(found).splitlines()] == [
        "✓ disk spool is writable",
        "✗      spool is full",
        "       → free space",
        "",
        "1 failure  0 warnings  1 good  0 skipped",
    ]


def test_table_is_readable_where_the_terminal_knows_only_ascii() -> None:
    text = _written([failure("full [bold]", "free space")], encoding="ascii")
    assert "X" in text
    assert "full [bold]" in text
    assert "-> free space" in text


def test_json_has_every_finding_and_the_exit_status() -> None:
    told = json.loads(_written(run_checks([Check("disk", lambda: [failure("full", "free space")])]), "json"))
    assert told["exit_status"] == 1
    assert told["counts"] == {"ok": 0, "warning": 0, "failure": 1, "skipped": 0}
    assert told["findings"] == [
        {"check": "disk", "subject": "", "severity": "failure", "finding": "full", "remedy": "free space"}
    ]
