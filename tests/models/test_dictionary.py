"""The data dictionary describes every column of every view, and what it says of a column is so on both databases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_records import NOON, Records

from models.records.dicom import InstanceState, Study
from models.records.dictionary import DICTIONARY, ValueType, View
from models.records.patient_identity import ATTRIBUTES, Kept
from models.records.views import VIEWS
from models.tasks import Task


def test_every_column_of_every_view_is_described_in_its_order(database: Engine) -> None:
    found = inspect(database)
    assert tuple(DICTIONARY) == VIEWS
    for name, view in DICTIONARY.items():
        assert [column.name for column in view.columns] == [column["name"] for column in found.get_columns(name)]


@pytest.mark.parametrize("view", DICTIONARY.values(), ids=list(DICTIONARY))
def test_every_description_is_whole(view: View) -> None:
    assert view.row.endswith(".")
    assert view.column(view.moment) is not None
    for column in view.columns:
        assert column.meaning.endswith("."), column
        assert column.unit or column.type in {ValueType.TEXT, ValueType.BOOLEAN}, f"{column.name} has no unit"
        assert "|" not in f"{column.unit}{column.meaning}{column.null}"


PYTHON_TYPES: dict[ValueType, tuple[type, ...]] = {
    ValueType.TEXT: (str,),
    ValueType.INTEGER: (int,),
    ValueType.NUMBER: (float,),
    ValueType.BOOLEAN: (bool,),
    ValueType.DATE: (date,),
    ValueType.TIME: (datetime,),
}


@pytest.fixture
def filled(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """Rows such that every column of every view has a value somewhere, and null where it may be."""
    with sessions.begin() as session:
        write = Records(session)
        write.study("1", patient_id="JANE", patient_id_issuer="CLINIC")
        series = write.series("1", "1.1")
        series.body_part_examined = "CHEST"
        times = {name: NOON for name in ("queued_at", "inferred_at", "delivered_at", "committed_at")}
        whole = write.instance("1.1", series, view_position="PA", **times)
        write.finding(whole, 0.75)
        write.finding(whole, 0.25, task=Task.NORMALITY)
        write.congestion(whole, (1,) * 6, 1.0, "low")
        write.spine(whole, (20.5, 10.5, 5.5), "low_confidence")
        write.shadow(whole, True)
        bare = write.add(Study(study_instance_uid="2"))
        write.instance("2.1", write.series(bare.study_instance_uid, "2.1"), InstanceState.QUEUED)
        skipped = write.instance("3", None, InstanceState.SKIPPED, reason="no_rule_matched", reason_detail="words")
        write.congestion(skipped, (None,) * 6, None, None, "4.0", inferred_at=datetime(2026, 2, 1, tzinfo=UTC))
    return sessions


def _values(sessions: sessionmaker[Session], view: str) -> dict[str, Sequence[Any]]:
    with sessions() as session:
        rows = session.execute(text(f"SELECT * FROM {view}")).mappings().all()
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("view", DICTIONARY.values(), ids=list(DICTIONARY))
def test_values_are_of_the_type_and_null_only_where_the_dictionary_says_so(
    filled: sessionmaker[Session], view: View
) -> None:
    sqlite = filled.kw["bind"].dialect.name == "sqlite"
    values = _values(filled, view.name)
    for column in view.columns:
        present = [value for value in values[column.name] if value is not None]
        assert present, f"no example for {view.name}.{column.name}"
        assert column.null or len(present) == len(values[column.name]), f"{column.name} is null somewhere"
        if sqlite and column.type in {ValueType.DATE, ValueType.TIME}:
            present = [PYTHON_TYPES[column.type][0].fromisoformat(value) for value in present]
        if sqlite and column.type is ValueType.BOOLEAN:
            assert set(present) <= {0, 1}
            continue
        exactly = {type(value) for value in present}
        assert exactly <= set(PYTHON_TYPES[column.type]), f"{view.name}.{column.name}: {exactly}"


def test_columns_that_tell_or_link_a_patient_are_marked() -> None:
    protected = {attribute.column for attribute in ATTRIBUTES if attribute.none is Kept.NOTHING}
    for view in DICTIONARY.values():
        marked = {column.name for column in view.columns if column.identifying}
        assert marked == {column.name for column in view.columns if column.name in protected}
