"""`results`: every view in every format, typed, chosen, without patients unless asked, and a file that is whole."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ConfigurationError, Reason, Skipped
from models.records.dictionary import DICTIONARY, Column, ValueType
from worker import result_formats
from worker.__main__ import main
from worker.result_formats import Format, write_parquet, write_text
from worker.results import VIEWS, Choice, count, read
from worker.settlement import Settlement

Sessions = sessionmaker[Session]

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def settled(sessions: Sessions, outcomes: Any) -> Sessions:
    """Three instances of two studies, received a minute apart from 2026-01-01 on."""
    start = START.timestamp()
    batch = [
        outcomes.done("1.1.1", probability=0.75, received_at=start),
        outcomes.done("1.1.2", probability=0.25, received_at=start + 60),
    ]
    skipped = outcomes.refused(Skipped(Reason.EXCLUDED_BY_RULE, "lateral"), "1.2.1", outcomes.facts("1.2.1"))
    batch.append(replace(skipped, request=replace(skipped.request, received_at=start + 120)))
    Settlement(sessions, "keep_first", []).settle(batch)
    return sessions


def _rows(sessions: Sessions, view: str = "instance", **chosen: Any) -> list[dict[str, Any]]:
    choice = Choice(VIEWS[view], **chosen)
    names = [column.name for column in choice.columns]
    return [dict(zip(names, row, strict=True)) for batch in read(sessions, choice) for row in batch]


def _written(sessions: Sessions, form: str, view: str = "instance", **chosen: Any) -> str:
    choice, stream = Choice(VIEWS[view], **chosen), io.StringIO()
    write_text(Format(form), choice.view, choice.columns, read(sessions, choice), stream)
    return stream.getvalue()


# What is read


def test_results_are_one_row_per_instance_newest_first(settled: Sessions) -> None:
    rows = _rows(settled)
    assert [row["sop_instance_uid"] for row in rows] == ["1.2.1", "1.1.2", "1.1.1"]
    assert [row["pneumonia_probability"] for row in rows] == [None, 0.25, 0.75]
    assert [(row["state"], row["reason"]) for row in rows][:2] == [("skipped", "excluded_by_rule"), ("done", None)]
    assert rows[2]["received_at"] == START
    assert rows[2]["received_day"] == date(2026, 1, 1)
    assert rows[2]["pneumonia_positive"] is True
    assert rows[2]["delivered_at"] is None


def test_other_views_are_read_likewise(settled: Sessions) -> None:
    assert [row["study_instance_uid"] for row in _rows(settled, "study")] == ["1.2.1000", "1.1.1000"]
    (day,) = _rows(settled, "daily")
    assert (day["day"], day["received"], day["done"], day["skipped"]) == (date(2026, 1, 1), 3, 2, 1)
    (month,) = _rows(settled, "performance")
    assert (month["month"], month["answers"], month["positive_share"]) == (date(2026, 1, 1), 2, 0.5)


def test_nothing_of_the_patient_is_read_unless_asked_for(settled: Sessions) -> None:
    for view in VIEWS:
        plain, asked = _rows(settled, view), _rows(settled, view, identity=True)
        assert not {"patient_id", "accession_number", "study_date"} & set(plain[0])
        assert "ID7" not in json.dumps(plain, default=str)
        expected = {"patient_id": "ID7", "accession_number": "ACC1", "study_date": date(2026, 1, 31)}
        identified = asked[0].keys() - plain[0].keys()
        assert identified == ({*expected, "patient_id_issuer"} if view in {"instance", "study"} else set())
        assert {name: asked[0][name] for name in identified if asked[0][name]} == (expected if identified else {})


def test_results_can_be_chosen(settled: Sessions) -> None:
    def uids(**chosen: Any) -> list[str]:
        rows = _rows(settled, **chosen)
        assert count(settled, Choice(VIEWS["instance"], **chosen)) == len(rows)
        return [row["sop_instance_uid"] for row in rows]

    assert uids(study="1.1.1000") == ["1.1.2", "1.1.1"]
    assert uids(state="skipped") == ["1.2.1"]
    assert uids(limit=1) == ["1.2.1"]
    assert uids(limit=0) == ["1.2.1", "1.1.2", "1.1.1"]
    # The same moment, said in Delhi.
    in_delhi = datetime.fromisoformat("2026-01-01T05:31:00+05:30")
    assert uids(since=in_delhi) == ["1.2.1", "1.1.2"]
    assert uids(since=in_delhi, state="done", study="1.1.1000", limit=5) == ["1.1.2"]


def test_days_and_months_are_chosen_by_the_utc_day_of_a_time(settled: Sessions) -> None:
    def found(view: str, since: str) -> int:
        return len(_rows(settled, view, since=datetime.fromisoformat(since)))

    # 04:00 in Delhi is still the day before in UTC.
    assert (found("daily", "2026-01-01T23:00+00:00"), found("daily", "2026-01-02T04:00+05:30")) == (1, 1)
    assert found("daily", "2026-01-02T00:00+00:00") == 0
    assert (found("performance", "2026-01-31T12:00+00:00"), found("performance", "2026-02-01T00:00+00:00")) == (1, 0)
    assert (found("study", "2026-01-01T00:02+00:00"), found("study", "2026-01-01T00:03+00:00")) == (1, 0)


@pytest.mark.parametrize(
    ("view", "chosen", "option"),
    [
        ("study", {"state": "done"}, "--state: the view study_findings has no column state"),
        ("daily", {"study": "1.2"}, "--study: the view daily_volume has no column study_instance_uid"),
        ("performance", {"state": "done"}, "--state: the view model_performance has no column state"),
    ],
)
def test_a_choice_that_a_view_cannot_make_is_refused(
    sqlite_sessions: Sessions, view: str, chosen: dict[str, str], option: str
) -> None:
    with pytest.raises(ConfigurationError, match=option):
        _rows(sqlite_sessions, view, **chosen)


def test_rows_are_handed_over_in_batches_by_a_cursor_in_the_database(settled: Sessions) -> None:
    batches = read(settled, Choice(VIEWS["instance"]), rows_at_once=2)
    declared: list[str] = []
    event.listen(
        settled.kw["bind"],
        "after_cursor_execute",
        lambda connection, cursor, *rest: declared.append(type(cursor).__name__),
    )
    assert [len(batch) for batch in batches] == [2, 1]
    # psycopg's server cursor; SQLite computes rows as they are fetched.
    assert declared[-1] == ("ServerCursor" if settled.kw["bind"].dialect.name == "postgresql" else "Cursor")


# How it is written


def test_csv_json_and_json_lines_hold_the_same_rows(settled: Sessions) -> None:
    rows = json.loads(_written(settled, "json"))
    assert [json.loads(line) for line in _written(settled, "jsonl").splitlines()] == rows
    assert rows[2]["received_at"] == "2026-01-01T00:00:00+00:00"
    assert rows[2]["received_day"] == "2026-01-01"
    read_back = list(csv.DictReader(io.StringIO(_written(settled, "csv"))))
    assert [list(row) for row in read_back] == [list(row) for row in rows]
    as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert read_back == as_text
    assert [column.name for column in Choice(VIEWS["instance"]).columns] == list(rows[0])


def test_nothing_is_an_empty_array_a_header_no_line_and_a_word(sqlite_sessions: Sessions) -> None:
    assert json.loads(_written(sqlite_sessions, "json")) == []
    assert _written(sqlite_sessions, "csv", "daily").startswith("day,modality,calling_ae_title,received,")
    assert _written(sqlite_sessions, "csv").count("\n") == 1
    assert _written(sqlite_sessions, "jsonl") == ""
    assert _written(sqlite_sessions, "table") == "results: nothing\n"


def test_the_zones_are_each_in_json_and_csv_and_together_in_a_table(sessions: Sessions, outcomes: Any) -> None:
    congested = outcomes.done("1.1.1")
    congested = replace(congested, results=(*congested.results, outcomes.congestion(3, 2, 0, 1, None, 1)))
    Settlement(sessions, "keep_first", []).settle([congested, outcomes.done("1.1.2")])
    rows = {row["sop_instance_uid"]: row for row in _rows(sessions)}
    found = {name: value for name, value in rows["1.1.1"].items() if "csi" in name or "heart" in name}
    assert found == {
        "csi_mean": pytest.approx(1.4),
        "heart_failure_class": "medium",
        "csi_right_sup": 3,
        "csi_left_sup": 2,
        "csi_right_mid": 0,
        "csi_left_mid": 1,
        "csi_right_inf": None,
        "csi_left_inf": 1,
        "csi_gradable_zones": 5,
        "csi_lungs_found": True,
        "csi_version": "3.0.0",
    }
    assert {value for name, value in rows["1.1.2"].items() if "csi" in name or "heart" in name} == {None}
    read_back = {row["sop_instance_uid"]: row for row in csv.DictReader(io.StringIO(_written(sessions, "csv")))}
    assert (read_back["1.1.1"]["csi_right_sup"], read_back["1.1.1"]["csi_right_inf"]) == ("3", "")
    table = _written(sessions, "table")
    assert "3 2 / 0 1 / - 1" in table
    assert "1.400" in table
    assert table.count(" / ") == 2, "an instance without the task has no zones, not six dashes"


def test_every_angle_is_in_json_and_csv_and_the_main_one_in_a_table(sessions: Sessions, outcomes: Any) -> None:
    answers: dict[str, dict[str, Any]] = {
        "1.1.1": {},
        "1.1.2": {"confidence": 0.2, "thresholds": {"T5:top_left": 0.3}},
    }
    batch = [replace(outcomes.done(uid), results=(outcomes.landmarks(**answer),)) for uid, answer in answers.items()]
    Settlement(sessions, "keep_first", []).settle([*batch, outcomes.done("1.1.3")])
    rows = {row["sop_instance_uid"]: row for row in _rows(sessions)}
    found = {name: value for name, value in rows["1.1.1"].items() if "cobb" in name or "landmarks" in name}
    assert found == {
        "cobb_main": pytest.approx(25, abs=1e-3),
        "cobb_main_upper_vertebra": "T4",
        "cobb_main_lower_vertebra": "T11",
        "cobb_upper": pytest.approx(15, abs=1e-3),
        "cobb_lower": pytest.approx(10, abs=1e-3),
        "landmarks_confidence": pytest.approx(0.9),
        "landmarks_review": False,
        "landmarks_review_reasons": None,
        "landmarks_version": "5.0.0",
    }
    assert (rows["1.1.2"]["cobb_main"], rows["1.1.2"]["landmarks_review_reasons"]) == (None, "low_confidence")
    assert {value for name, value in rows["1.1.3"].items() if "cobb" in name or "landmarks" in name} == {None}
    read_back = {row["sop_instance_uid"]: row for row in csv.DictReader(io.StringIO(_written(sessions, "csv")))}
    assert (read_back["1.1.1"]["cobb_main_lower_vertebra"], read_back["1.1.2"]["cobb_main"]) == ("T11", "")
    table = _written(sessions, "table")
    assert "25.0 T4-T11" in table
    assert "low_confidence" in table
    assert "None" not in table


def test_more_rows_than_a_table_takes_are_several_tables(settled: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_formats, "TABLE_ROWS", 2)
    table = _written(settled, "table", identity=True)
    assert table.count("┏") == 2
    assert table.count("results") == 1
    assert table.count("ID7") == 3


@pytest.mark.parametrize("view", VIEWS)
def test_parquet_has_the_rows_typed_and_described(settled: Sessions, view: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, of the extra parquet, is not installed")
    choice, stream = Choice(VIEWS[view], identity=True), io.BytesIO()
    write_parquet(choice.columns, read(settled, choice), stream)
    table = parquet.read_table(stream)
    assert table.to_pylist() == _rows(settled, view, identity=True)
    types = {
        ValueType.TEXT: "string",
        ValueType.INTEGER: "int64",
        ValueType.NUMBER: "double",
        ValueType.BOOLEAN: "bool",
        ValueType.DATE: "date32[day]",
        ValueType.TIME: "timestamp[us, tz=UTC]",
    }
    for column in choice.columns:
        field = table.schema.field(column.name)
        assert (str(field.type), field.nullable) == (types[column.type], bool(column.null)), column.name
        assert field.metadata[b"meaning"].decode() == column.meaning


def test_parquet_has_row_groups_of_bounded_size_and_a_schema_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, of the extra parquet, is not installed")
    monkeypatch.setattr(result_formats, "ROW_GROUP", 4)
    columns = [Column("number", ValueType.INTEGER, "", "A number."), Column("text", ValueType.TEXT, "", "A.", "none")]
    stream = io.BytesIO()
    write_parquet(columns, [[(number, None), (number + 1, "x")] for number in range(0, 10, 2)], stream)
    found = parquet.ParquetFile(stream)
    assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [4, 4, 2]
    assert found.read().column("number").to_pylist() == list(range(10))
    empty = io.BytesIO()
    write_parquet(columns, [], empty)
    assert parquet.read_table(empty).to_pydict() == {"number": [], "text": []}


# The command


@pytest.fixture
def on_command_line(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", database_url)
    monkeypatch.setenv("RADSTREAM_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)


@pytest.mark.usefixtures("on_command_line")
def test_the_command_prints_to_standard_output(settled: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--format", "json", "--state", "done", "--since", "2026-01-01T00:01:00+00:00"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["sop_instance_uid"] == "1.1.2"
    assert row["received_at"] == "2026-01-01T00:01:00+00:00"
    assert main(["results", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["results"]) == 0
    assert "1.1.2" in capsys.readouterr().out
    assert main(["results", "--view", "study", "--format", "jsonl", "--identity", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["patient_id"] == "ID7"
    assert main(["results", "--view", "daily", "--state", "done"]) == 2
    assert capsys.readouterr().err == "radstream: --state: the view daily_volume has no column state\n"
    assert main(["results", "--limit", "-1"]) == 2
    assert capsys.readouterr().err == "radstream: --limit: must be 0 or more\n"


@pytest.mark.usefixtures("on_command_line")
def test_a_table_is_cut_and_says_so_and_an_export_is_whole(
    settled: Sessions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.results_command.ROWS_OF_A_TABLE", 2)
    assert main(["results"]) == 0
    shown = capsys.readouterr()
    assert ("1.1.2" in shown.out, "1.1.1" in shown.out) == (True, False)
    assert shown.err == "radstream: the newest 2 rows; --limit 0 gives all\n"
    assert main(["results", "--limit", "0"]) == 0
    assert "1.1.1" in capsys.readouterr().out
    assert main(["results", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.usefixtures("on_command_line")
def test_a_file_has_its_name_when_it_is_whole(
    settled: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("older")
    os.umask(mask := os.umask(0))
    assert main(["results", "--format", "csv", "--output", str(target)]) == 0
    assert capsys.readouterr() == ("", f"radstream: 3 rows in {target}\n")
    assert len(target.read_text().splitlines()) == 4
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask

    def fail(*arguments: Any) -> None:
        assert list(tmp_path.glob(".rows.csv.*.part")), "it is written beside"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.result_formats.write_text", fail)
    assert main(["results", "--format", "csv", "--output", str(target)]) == 2
    assert capsys.readouterr().err == f"radstream: --output {target}: No space left on device\n"
    assert len(target.read_text().splitlines()) == 4, "what was there stays"
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.usefixtures("on_command_line", "settled")
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere" / "rows.csv"
    assert main(["results", "--format", "csv", "--output", str(nowhere)]) == 2
    assert capsys.readouterr().err == f"radstream: --output {nowhere}: No such file or directory\n"
    assert main(["results", "--format", "csv", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"radstream: --output {tmp_path}: Is a directory\n"


@pytest.mark.usefixtures("on_command_line", "settled")
def test_without_pyarrow_parquet_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["results", "--format", "parquet", "--output", str(tmp_path / "rows")]) == 2
    assert capsys.readouterr().err == ("radstream: --format parquet: needs pyarrow; pip install 'radstream[parquet]'\n")


def test_parquet_is_written_into_a_pipe_and_a_reader_may_leave(sqlite_sessions: Sessions, project_root: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, of the extra parquet, is not installed")
    command = [sys.executable, "-m", "worker", "results", "--format"]
    environment = {**os.environ, "RADSTREAM_DATABASE_URL": str(sqlite_sessions.kw["bind"].url)}
    piped = {"env": environment, "cwd": project_root, "stderr": subprocess.PIPE}
    kept = subprocess.run([*command, "parquet"], stdout=subprocess.PIPE, timeout=60, **piped)
    assert (kept.returncode, kept.stderr) == (0, b"")
    assert parquet.read_table(io.BytesIO(kept.stdout)).num_columns == len(Choice(VIEWS["instance"]).columns)
    with subprocess.Popen([*command, "csv"], stdout=subprocess.PIPE, **piped) as left:
        assert left.stdout is not None
        assert left.stderr is not None
        left.stdout.close()
        assert (left.wait(60), left.stderr.read()) == (0, b"")


def test_every_view_has_a_name_on_the_command_line() -> None:
    assert list(VIEWS.values()) == list(DICTIONARY.values())
