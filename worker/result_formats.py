"""Writes a stream of rows as CSV, JSON, JSON lines, Parquet or readable tables; none of them waits for the last row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import IO, Any, Final, TextIO

from models.errors import ConfigurationError
from models.records.dictionary import INSTANCE_FINDINGS, MODEL_PERFORMANCE, STUDY_FINDINGS, Column, ValueType, View
from models.zones import ZONE_COLUMNS, ZONES
from worker.commands import write_rows
from worker.results import Batch

ROW_GROUP: Final = 20_000
"""Rows of a Parquet row group, which is held in memory."""
TABLE_ROWS: Final = 1000
"""Rows of one readable table; more of them are several tables."""

ZONE_SCORES: Final = tuple(f"csi_{zone}" for zone in ZONES)

_IN_TABLES: Final = {
    INSTANCE_FINDINGS.name: (
        "sop_instance_uid",
        "modality",
        "body_part_examined",
        "view_position",
        "state",
        "reason",
        "pneumonia_label",
        "pneumonia_probability",
        "csi_mean",
        "heart_failure_class",
        "csi_zones",
        "cobb",
        "review",
        "received_at",
        "delivered_at",
    ),
    STUDY_FINDINGS.name: (
        "study_instance_uid",
        "instances",
        "instances_done",
        "instances_skipped",
        "instances_failed",
        "pneumonia_probability",
        "csi_mean",
        "heart_failure_class",
        "cobb_main",
        "landmarks_review",
        "first_received_at",
        "last_settled_at",
        "last_delivered_at",
    ),
    MODEL_PERFORMANCE.name: (
        "task",
        "version",
        "month",
        "answers",
        "positive_share",
        "without_score",
        "score_mean",
        "review_share",
        "infer_to_settle_mean_s",
        "shadow_compared",
        "shadow_agreement",
    ),
}
"""Columns of readable tables, so that they fit a screen; a view that is not named here is shown whole."""


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


def write_text(form: Format, view: View, columns: Sequence[Column], batches: Iterable[Batch], stream: TextIO) -> None:
    """Write all formats but Parquet."""
    if form is Format.CSV:
        _write_csv(columns, batches, stream)
    elif form is Format.JSON:
        _write_json(columns, batches, stream)
    elif form is Format.JSONL:
        stream.writelines(f"{line}\n" for line in _objects(columns, batches))
    else:
        _write_tables(view, columns, batches, stream)


def _write_csv(columns: Sequence[Column], batches: Iterable[Batch], stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow([column.name for column in columns])
    for batch in batches:
        writer.writerows([_plain(value) for value in row] for row in batch)


def _write_json(columns: Sequence[Column], batches: Iterable[Batch], stream: TextIO) -> None:
    between = "[\n"
    for line in _objects(columns, batches):
        stream.write(f"{between}  {line}")
        between = ",\n"
    stream.write("[]\n" if between == "[\n" else "\n]\n")


def _objects(columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[str]:
    names = [column.name for column in columns]
    for batch in batches:
        for row in batch:
            yield json.dumps(dict(zip(names, row, strict=True)), default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime | date) else value


# Parquet


def require_parquet() -> None:
    """See that Parquet can be written.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigurationError("--format parquet: needs pyarrow; pip install 'radstream[parquet]'") from error


def write_parquet(columns: Sequence[Column], batches: Iterable[Batch], stream: IO[bytes]) -> None:
    """Write Parquet: typed columns, whose unit, meaning and null are in the metadata of each, and row groups."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {
        ValueType.TEXT: pa.string(),
        ValueType.INTEGER: pa.int64(),
        ValueType.NUMBER: pa.float64(),
        ValueType.BOOLEAN: pa.bool_(),
        ValueType.DATE: pa.date32(),
        ValueType.TIME: pa.timestamp("us", tz="UTC"),
    }
    described = [
        pa.field(
            column.name,
            types[column.type],
            nullable=bool(column.null),
            metadata={"unit": column.unit, "meaning": column.meaning, "null": column.null},
        )
        for column in columns
    ]
    schema = pa.schema(described)
    with ParquetWriter(stream, schema, compression="zstd") as writer:
        waiting: list[Any] = []
        for batch in batches:
            arrays = [
                pa.array(values, type=kind.type)
                for values, kind in zip(zip(*batch, strict=True), described, strict=True)
            ]
            waiting.append(pa.record_batch(arrays, schema=schema))
            if sum(len(part) for part in waiting) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))


# Tables


def _write_tables(view: View, columns: Sequence[Column], batches: Iterable[Batch], stream: TextIO) -> None:
    names = [column.name for column in columns]
    identifying = [column.name for column in columns if column.identifying]
    title = "results"
    waiting: list[dict[str, Any]] = []
    for batch in batches:
        waiting += [_condense(view, identifying, dict(zip(names, row, strict=True))) for row in batch]
        while len(waiting) >= TABLE_ROWS:
            write_rows(waiting[:TABLE_ROWS], "table", stream, title)
            del waiting[:TABLE_ROWS]
            title = ""
    if waiting or title:
        write_rows(waiting, "table", stream, title)


def _condense(view: View, identifying: Sequence[str], row: dict[str, Any]) -> dict[str, Any]:
    """Give a row as tables have it: six zones in one column, `right left` from top to bottom, and the main angle."""
    if view is INSTANCE_FINDINGS:
        reasons = row["landmarks_review_reasons"]
        row["csi_zones"] = _zones_in_words(row)
        row["cobb"] = _angle_in_words(row)
        row["review"] = reasons and reasons.replace(",", ", ")
    shown = _IN_TABLES.get(view.name) or [name for name in row if name not in identifying]
    return {name: row[name] for name in (*identifying, *shown)}


def _zones_in_words(row: dict[str, Any]) -> str | None:
    if row["csi_version"] is None:
        return None
    scores = ["-" if row[name] is None else str(row[name]) for name in ZONE_SCORES]
    return " / ".join(" ".join(scores[first : first + ZONE_COLUMNS]) for first in range(0, len(scores), ZONE_COLUMNS))


def _angle_in_words(row: dict[str, Any]) -> str | None:
    """Give the main angle with its end vertebrae; a dash where a spine has none."""
    if row["landmarks_version"] is None:
        return None
    if row["cobb_main"] is None:
        return "-"
    return f"{row['cobb_main']:.1f} {row['cobb_main_upper_vertebra']}-{row['cobb_main_lower_vertebra']}"
