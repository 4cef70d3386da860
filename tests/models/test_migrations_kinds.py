"""Expand and contract: what migrations declare is so, and code meets a newer database as they say."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from further_migrations import NEWEST, FurtherMigrations
from schema_shape import blocking_indexes, shape_of, taken_away

from migrations import locking, schema
from migrations.compatibility import CodeTooOld, SchemaGate, SchemaMismatch
from migrations.presence import Presence
from models.errors import Transient
from models.records.base import utc_now
from models.records.processes import Process, running_processes
from models.records.sessions import open_database
from models.settings import Settings


@pytest.fixture
def newer(tmp_path: Path) -> FurtherMigrations:
    return FurtherMigrations(tmp_path)


@pytest.fixture
def migrate_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Migrate as the newer radstream would; afterwards this process has its own code again."""

    def run(migrations: FurtherMigrations, engine: Engine, revision: str = "head") -> None:
        with monkeypatch.context() as patched:
            patched.setattr(schema, "SCRIPTS", migrations.scripts)
            schema.migrate(engine, revision)

    return run


@pytest.fixture
def bare(bare_database_url: str) -> Iterator[Engine]:
    engine = open_database(Settings(database_url=bare_database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def current(bare: Engine) -> Engine:
    """A database at the level of this code, whose schema a test may change."""
    schema.migrate(bare)
    return bare


def _script(migrations: FurtherMigrations | None = None) -> ScriptDirectory:
    return ScriptDirectory.from_config(schema.alembic_config(migrations and migrations.scripts))


# What migrations declare


def test_every_migration_declares_its_kind_and_a_contract_who_may_go_on() -> None:
    known = schema.declarations(_script())
    names = [each.revision for each in known]
    assert names[-1] == NEWEST
    for place, each in enumerate(known):
        assert each.kind is schema.Kind.EXPAND or names.index(str(each.oldest_code)) <= place


@pytest.mark.parametrize(
    "declared", ["", 'kind = "other"', 'kind = "contract"', 'kind = "expand"\noldest_code = "1"\noldest_release = "1"']
)
def test_a_migration_that_does_not_say_what_it_is_is_refused(newer: FurtherMigrations, declared: str) -> None:
    newer.add(declared)
    with pytest.raises(ValueError, match=r"migration 0010: (declares no kind|oldest_code and oldest_release)"):
        schema.declarations(_script(newer))


def test_every_expand_of_ours_only_adds(bare: Engine) -> None:
    for each in schema.declarations(_script()):
        if each.kind is schema.Kind.CONTRACT:
            schema.migrate(bare, each.revision)
            continue
        before = shape_of(bare)
        with blocking_indexes(bare, set(before.rules)) as blocking:
            schema.migrate(bare, each.revision)
        assert (taken_away(before, shape_of(bare)), blocking) == ([], []), each


ONLY_ADDS = [
    'op.add_column("instance", sa.Column("weight_kg", sa.Double(), nullable=True))',
    'op.add_column("instance", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))',
    'op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))',
    'add_index("ix_study_date", "study", ["study_date"])',
]
TAKES_AWAY = [
    ('op.execute("DROP VIEW study_findings")', r"study_findings\.accession_number is gone"),
    ('op.drop_column("delivery", "commitment_uid")', r"delivery\.commitment_uid is gone"),
    ('op.alter_column("study", "patient_sex", new_column_name="sex")', r"study\.patient_sex is gone"),
    ('op.rename_table("commitment_request", "asked")', r"commitment_request\.id is gone"),
    ('op.create_index("ix_one", "study", ["study_date"], unique=True)', r"study has a new rule: unique"),
]
POSTGRES_TAKES_AWAY = [
    ('op.add_column("study", sa.Column("must", sa.Text(), nullable=False))', r"study\.must must be given"),
    ('op.alter_column("study", "study_description", nullable=False)', r"study\.study_description must be given"),
    (
        'op.alter_column("study", "study_description", type_=sa.Text())',
        r"study\.study_description is TEXT, and was VARCHAR",
    ),
    ('op.create_check_constraint("c", "study", "id > 0")', r"study has a new rule: check"),
]


def test_what_only_adds_takes_nothing_away_and_keeps_no_writer_out(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None]
) -> None:
    before = shape_of(current)
    for body in ONLY_ADDS:
        newer.expand(body)
    with blocking_indexes(current, set(before.rules)) as blocking:
        migrate_with(newer, current)
    assert (taken_away(before, shape_of(current)), blocking) == ([], [])
    assert "ix_study_date" in {index["name"] for index in inspect(current).get_indexes("study")}


def test_what_takes_away_is_told_by_the_look_at_the_schema(current: Engine) -> None:
    # In SQLite the others need a copy of the table, which batch operations make.
    cases = TAKES_AWAY + (POSTGRES_TAKES_AWAY if current.dialect.name == "postgresql" else [])
    for body, expected in cases:
        before = shape_of(current)
        with current.begin() as connection, Operations.context(MigrationContext.configure(connection)) as op:
            exec(body, {"op": op, "sa": sa})
        assert re.search(expected, "; ".join(taken_away(before, shape_of(current)))), body


def test_an_index_that_keeps_writers_out_is_told(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None]
) -> None:
    newer.expand('op.create_index("ix_study_date", "study", ["study_date"])')
    with blocking_indexes(current, {"study"}) as blocking:
        migrate_with(newer, current)
    assert len(blocking) == (1 if current.dialect.name == "postgresql" else 0)


# Code and database


def test_code_goes_on_with_a_newer_database_until_a_contract_that_is_not_for_it(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None]
) -> None:
    gate = SchemaGate(current)
    newer.expand()
    newer.contract(oldest_code=NEWEST)
    for _ in range(2):
        migrate_with(newer, current)
        gate.check()
        newer.expand("pass")
    last = newer.contract(oldest_code="0012")
    migrate_with(newer, current)
    sentence = (
        rf"at migration {last}, and this code \(migration {NEWEST}\) is too old .*: update radstream to at least 9\.14"
    )
    with pytest.raises(CodeTooOld, match=sentence):
        gate.check()
    # Code of 0012 and later may: the row says which.
    with current.connect() as connection:
        assert connection.scalar(text("SELECT oldest_code FROM schema_compatibility")) == "0012"


def test_a_step_back_over_a_contract_lets_older_code_go_on_again(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer.expand()
    newer.contract()
    migrate_with(newer, current)
    gate = SchemaGate(current)
    with pytest.raises(CodeTooOld):
        gate.check()
    monkeypatch.setattr(schema, "SCRIPTS", newer.scripts)
    config = schema.alembic_config()
    with current.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0010")
    gate.check()


def test_a_newer_database_that_does_not_say_who_may_use_it_is_left_alone(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None]
) -> None:
    newer.expand()
    migrate_with(newer, current)
    with current.begin() as connection:
        connection.execute(text("DELETE FROM schema_compatibility"))
    with pytest.raises(CodeTooOld, match="update radstream to a newer release"):
        SchemaGate(current).check()


def test_an_older_database_is_to_be_migrated(bare: Engine) -> None:
    for revision, told in ((None, "none"), ("0008", "0008")):
        if revision:
            schema.migrate(bare, revision)
        with pytest.raises(SchemaMismatch, match=f"at migration {told}, this version needs {NEWEST}: run `python -m"):
            SchemaGate(bare).check()


# Presence


def test_a_process_is_there_until_it_stops_or_is_not_seen_for_long(
    database: Engine, eventually: Callable[..., None]
) -> None:
    def names() -> list[str]:
        with Session(database) as session:
            return [f"{each.name} {each.code}" for each in running_processes(session)]

    with Session(database) as session, session.begin():
        session.add(Process(name="dead", code="0001", release="0", seen_at=utc_now() - timedelta(minutes=2)))
    presence = Presence(database, "worker", leave=None)
    presence.start()
    eventually(lambda: names() == [f"{presence.name} {NEWEST}"])
    presence.stop()
    assert names() == []


def test_a_running_process_leaves_when_the_database_is_not_for_its_code_any_more(
    current: Engine, newer: FurtherMigrations, migrate_with: Callable[..., None]
) -> None:
    left = threading.Event()
    presence = Presence(current, "worker", left.set, beat_s=0.05)
    presence.start()
    newer.expand()
    migrate_with(newer, current)
    assert not left.wait(0.3), "an expand is no reason to leave"
    newer.contract()
    migrate_with(newer, current)
    assert left.wait(10)
    presence.stop()


# Two at once, and long readers


def test_two_migrations_at_once_are_one_after_the_other(bare: Engine) -> None:
    errors: list[BaseException] = []

    def migrate() -> None:
        engine = open_database(Settings(database_url=bare.url.render_as_string(hide_password=False)))
        try:
            schema.migrate(engine)
        except BaseException as error:
            errors.append(error)
        finally:
            engine.dispose()

    # Alembic's environment is for one thread of a process, so the other one is held by its lock alone.
    with bare.connect() as connection, locking.migration_lock(connection):
        thread = threading.Thread(target=migrate)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert inspect(connection).get_table_names() == []
    thread.join(30)
    assert errors == []
    assert schema.current_revision(bare) == NEWEST


def test_a_migration_does_not_queue_behind_a_long_reader(
    postgres_server: object, newer: FurtherMigrations, migrate_with: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    server = request.getfixturevalue("postgres_server")
    server.execute(f"CREATE DATABASE reader TEMPLATE {request.getfixturevalue('postgres_template')}")
    engine = open_database(Settings(database_url=server.url("reader").render_as_string(hide_password=False)))
    monkeypatch.setattr(locking, "LOCK_TIMEOUT_S", 0.2)
    newer.expand()
    with engine.connect() as reader:
        reader.execute(text("SELECT COUNT(*) FROM instance"))  # holds its lock until the transaction ends
        with pytest.raises(Transient, match=r"a table was in use for more than 0\.2 s .* run `migrate` again"):
            migrate_with(newer, engine)
        assert schema.current_revision(engine) == NEWEST
    migrate_with(newer, engine)
    assert schema.current_revision(engine) == "0010"
    engine.dispose()
    server.execute("DROP DATABASE reader WITH (FORCE)")


def test_files_are_named_after_their_revisions_in_order() -> None:
    walked = ScriptDirectory.from_config(schema.alembic_config()).walk_revisions()
    assert schema.known_revisions() == [each.revision for each in reversed(list(walked))]
