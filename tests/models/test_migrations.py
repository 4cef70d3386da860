"""The schema: upgrade and downgrade on both databases, and the migrated database against the mapped classes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError

import models.records.findings
import models.records.inference
import models.records.outputs
import models.records.processes
import models.records.summaries  # noqa: F401 - fills the metadata
from migrations.schema import alembic_config, current_revision, migrate, newest_revision
from models.records.base import Base
from models.records.sessions import open_database
from models.records.views import VIEWS, view_bodies
from models.settings import Settings

FIRST_VIEWS = ("instance_findings", "study_findings")


@pytest.fixture
def bare(bare_database_url: str) -> Iterator[Engine]:
    engine = open_database(Settings(database_url=bare_database_url))
    yield engine
    engine.dispose()


def _alembic(engine: Engine, act: Callable[..., object], *arguments: str) -> None:
    config = alembic_config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        act(config, *arguments)


def _schema(engine: Engine) -> dict[str, object]:
    found = inspect(engine)
    return {
        "tables": {
            name: sorted(column["name"] for column in found.get_columns(name)) for name in found.get_table_names()
        },
        "indexes": {
            name: sorted(str(index["name"]) for index in found.get_indexes(name)) for name in found.get_table_names()
        },
        "views": {
            name: [column["name"] for column in found.get_columns(name)] for name in sorted(found.get_view_names())
        },
    }


def test_an_empty_database_has_no_revision_and_a_migrated_one_the_newest(bare: Engine) -> None:
    assert current_revision(bare) is None
    migrate(bare)
    assert current_revision(bare) == newest_revision() == "0009"


def test_migrating_twice_changes_nothing(bare: Engine) -> None:
    migrate(bare)
    before = _schema(bare)
    migrate(bare)
    assert _schema(bare) == before


def test_a_downgrade_leaves_nothing_behind_and_can_be_upgraded_again(bare: Engine) -> None:
    migrate(bare)
    upgraded = _schema(bare)
    _alembic(bare, command.downgrade, "base")
    assert inspect(bare).get_table_names() == ["alembic_version"]
    assert inspect(bare).get_view_names() == []
    assert current_revision(bare) is None
    migrate(bare)
    assert _schema(bare) == upgraded


def test_a_step_back_takes_the_congestion_scores_away_and_keeps_all_else(bare: Engine) -> None:
    migrate(bare, "0001")
    before = _schema(bare)
    definitions = {name: _definition(bare, name) for name in FIRST_VIEWS}
    _insert(bare, task="pneumonia")
    read = text("SELECT sop_instance_uid, pneumonia_version, pneumonia_probability FROM instance_findings")
    found = [("1.2.3", "1.0", 0.75)]
    migrate(bare)
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found
        connection.execute(text("INSERT INTO zone_summary VALUES (1, NULL, 0, NULL, TRUE, -4, 0, 9, 9)"))
        connection.execute(text("INSERT INTO zone_finding VALUES (1, 'left_inf', 2, 0.5, 1.75)"))
    _alembic(bare, command.downgrade, "0001")
    assert _schema(bare) == before
    assert {name: _definition(bare, name) for name in FIRST_VIEWS} == definitions
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found


def test_a_step_back_takes_the_landmarks_away_and_keeps_the_congestion_scores(bare: Engine) -> None:
    migrate(bare, "0002")
    before = _schema(bare)
    definitions = {name: _definition(bare, name) for name in FIRST_VIEWS}
    _insert(bare, task="csi")
    with bare.begin() as connection:
        connection.execute(text("INSERT INTO zone_summary VALUES (1, 1.5, 6, 'medium', TRUE, -4, 0, 9, 9)"))
        connection.execute(text("INSERT INTO zone_finding VALUES (1, 'left_inf', 2, 0.5, 1.75)"))
    read = text(
        "SELECT sop_instance_uid, csi_version, csi_mean, csi_left_inf, heart_failure_class FROM instance_findings"
    )
    found = [("1.2.3", "1.0", 1.5, 2, "medium")]
    migrate(bare)
    landmarks = (
        "spine_summary VALUES (1, 'aasce68', 'frontal', NULL, 0.5, FALSE, NULL, 0.1, 0.1, 'pixel_spacing')",
        "vertebra_finding VALUES (1, 'T1', 0.5, FALSE)",
        "landmark VALUES (1, 'T1', 'top_left', 4.5, -1.5, 0.5, 2.5)",
        "cobb_finding VALUES (1, 'main', 25.5, 'T4', 'T11')",
        "height_finding VALUES (1, 'disc', 'T1', 'T2', 4.5, 5.5, 0.45, 0.55)",
        "slip_finding VALUES (1, 'L4', 'L5', 'anterolisthesis', 12.5, 20.5, NULL, -4.5, 1)",
    )
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found
        for row in landmarks:
            connection.execute(text(f"INSERT INTO {row}"))
    _alembic(bare, command.downgrade, "0002")
    assert _schema(bare) == before
    assert {name: _definition(bare, name) for name in FIRST_VIEWS} == definitions
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found


def test_a_step_back_takes_the_shadow_findings_away_and_no_view_ever_shows_them(bare: Engine) -> None:
    migrate(bare, "0003")
    before = _schema(bare)
    definitions = {name: _definition(bare, name) for name in FIRST_VIEWS}
    _insert(bare, task="pneumonia")
    read = text("SELECT sop_instance_uid, pneumonia_version, pneumonia_probability FROM instance_findings")
    found = [("1.2.3", "1.0", 0.75)]
    migrate(bare, "0004")
    assert {name: _definition(bare, name) for name in FIRST_VIEWS} == definitions
    shadow = (
        "INSERT INTO shadow_finding VALUES (1, 1, 'pneumonia', '1.0', '1.1', 0.75, 0.25, FALSE, 0.5, '{}', 'p', 'fp32',"
        " '2026-01-01 12:00:00+00:00')"
    )
    with bare.begin() as connection:
        connection.execute(text(shadow))
        assert [tuple(row) for row in connection.execute(read)] == found
    _alembic(bare, command.downgrade, "0003")
    assert _schema(bare) == before
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found


def test_a_step_back_takes_the_newer_outputs_away_and_keeps_the_overlays(bare: Engine) -> None:
    migrate(bare, "0004")
    before = _schema(bare)
    _insert(bare, task="pneumonia")
    moment = "'2026-01-01 12:00:00+00:00'"
    delivery = "INSERT INTO delivery (id, output_id, destination, state, attempts, requested_at, next_attempt_at)"
    with bare.begin() as connection:
        connection.execute(
            text(f"INSERT INTO output VALUES (1, 1, 1, 'secondary_capture', '1', '2.25.1', '3', 'f', {moment})")
        )
        connection.execute(text(f"{delivery} VALUES (1, 1, 'archive', 'delivered', 1, {moment}, {moment})"))
    overlays = text(
        "SELECT output.instance_id, model_version_id, kind, sop_instance_uid, destination, state"
        " FROM output JOIN delivery ON output_id = output.id"
    )
    migrate(bare)
    columns = "id, instance_id, study_id, model_version_id, kind, sop_class_uid, sop_instance_uid"
    newer = (
        f"INSERT INTO output ({columns}, series_instance_uid, file_name, created_at) VALUES"
        f" (2, 1, NULL, 1, 'structured_report', '1', '2.25.2', '3', 'f', {moment}),"
        f" (3, 1, NULL, NULL, 'structured_report', '1', '2.25.3', '3', 'f', {moment}),"
        f" (4, NULL, 1, NULL, 'study_summary', '1', '2.25.4', '3', 'f', {moment})"
    )
    with bare.begin() as connection:
        found = [tuple(row) for row in connection.execute(overlays)]
        assert found == [(1, 1, "secondary_capture", "2.25.1", "archive", "delivered")]
        connection.execute(text("INSERT INTO study (id, study_instance_uid) VALUES (1, '1')"))
        connection.execute(text(newer))
        connection.execute(text(f"{delivery} VALUES (2, 4, 'archive', 'pending', 0, {moment}, {moment})"))
    with pytest.raises(IntegrityError), bare.begin() as connection:
        connection.execute(text("UPDATE output SET study_id = 1 WHERE id = 1"))
    _alembic(bare, command.downgrade, "0004")
    assert _schema(bare) == before
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(overlays)] == found
    assert _count(bare, "output") == _count(bare, "delivery") == 1
    with pytest.raises(IntegrityError), bare.begin() as connection:
        connection.execute(text("UPDATE output SET kind = 'structured_report'"))
    migrate(bare)


def test_a_step_back_takes_the_newer_views_away_and_keeps_the_findings(bare: Engine) -> None:
    migrate(bare, "0006")
    before = _schema(bare)
    definitions = {name: _definition(bare, name) for name in FIRST_VIEWS}
    _insert(bare, task="pneumonia")
    read = text("SELECT sop_instance_uid, pneumonia_version, pneumonia_probability FROM instance_findings")
    found = [("1.2.3", "1.0", 0.75)]
    migrate(bare)
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found
        connection.execute(text("INSERT INTO study (study_instance_uid, patient_id_issuer) VALUES ('1', 'CLINIC')"))
    assert _count(bare, "daily_volume") == _count(bare, "model_performance") == 1
    _alembic(bare, command.downgrade, "0006")
    assert _schema(bare) == before
    assert {name: _definition(bare, name) for name in FIRST_VIEWS} == definitions
    with bare.begin() as connection:
        assert [tuple(row) for row in connection.execute(read)] == found
    migrate(bare)
    assert _count(bare, "study") == 1


def test_a_step_back_takes_the_notes_of_summaries_away_and_keeps_the_summaries(bare: Engine) -> None:
    migrate(bare, "0007")
    before = _schema(bare)
    migrate(bare)
    moment = "'2026-01-01 12:00:00+00:00'"
    columns = "id, study_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, file_name, created_at"
    with bare.begin() as connection:
        connection.execute(text("INSERT INTO study (id, study_instance_uid) VALUES (1, '1')"))
        connection.execute(
            text(f"INSERT INTO output ({columns}) VALUES (1, 1, 'study_summary', '1', '2.25.1', '3', 'f', {moment})")
        )
        connection.execute(
            text(f"INSERT INTO study_summary VALUES (1, 'made', NULL, 2, {moment}, {moment}, {moment}, 0)")
        )
    _alembic(bare, command.downgrade, "0007")
    assert _schema(bare) == before
    assert _count(bare, "output") == 1
    migrate(bare)
    assert _count(bare, "study_summary") == 0


def _count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one())


def _insert(engine: Engine, task: str) -> None:
    """Write one instance with one classification finding, as the first schema has them."""
    moment = "'2026-01-01 12:00:00+00:00'"
    statements = (
        f"INSERT INTO model_version VALUES (1, '{task}', '1.0', 'n', 'h', {moment})",
        "INSERT INTO instance (id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, content_sha256, revision,"
        " calling_ae_title, lane, state, duplicates, conflicts, attempts, received_at)"
        f" VALUES (1, '1.2.3', '1', '1', 'h', 0, 'A', 'routine', 'done', 0, 0, 0, {moment})",
        f"INSERT INTO inference VALUES (1, 1, 1, 'p', 'fp32', {moment})",
        "INSERT INTO classification_finding VALUES (1, 'pneumonia', TRUE, 0.75, 0.5)",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_the_migrated_schema_is_the_one_of_the_mapped_classes(database: Engine) -> None:
    # command.check raises AutogenerateDiffsDetected when a migration would be generated.
    _alembic(database, command.check)
    tables = set(inspect(database).get_table_names()) - {"alembic_version"}
    assert tables == set(Base.metadata.tables)


def test_the_migrated_views_are_the_newest_ones(database: Engine) -> None:
    assert sorted(inspect(database).get_view_names()) == sorted(VIEWS)
    with database.begin() as connection:
        for name, body in view_bodies(database.dialect.name).items():
            connection.execute(text(f"CREATE VIEW expected_{name} AS {body}"))
    found = inspect(database)
    for name in VIEWS:
        migrated = [(column["name"], str(column["type"])) for column in found.get_columns(name)]
        expected = [(column["name"], str(column["type"])) for column in found.get_columns(f"expected_{name}")]
        assert migrated == expected
        assert _definition(database, name) == _definition(database, f"expected_{name}").replace("expected_", "")
    with database.begin() as connection:
        for name in reversed(VIEWS):
            connection.execute(text(f"DROP VIEW expected_{name}"))


def _definition(engine: Engine, view: str) -> str:
    """The view's text as the database keeps it, without regard to white space."""
    found = inspect(engine).get_view_definition(view)
    assert found is not None
    return " ".join(found.split())


def test_closed_sets_and_ranges_are_checked_by_the_database(database: Engine) -> None:
    checks = {check["name"] for name in Base.metadata.tables for check in inspect(database).get_check_constraints(name)}
    assert {
        "ck_instance_instance_state",
        "ck_instance_lane",
        "ck_delivery_delivery_state",
        "ck_output_output_kind",
        "ck_output_of_instance_or_study",
        "ck_study_summary_summary_state",
        "ck_model_version_task",
        "ck_classification_finding_probability_range",
        "ck_zone_finding_zone",
        "ck_zone_finding_score_range",
        "ck_zone_finding_probability_range",
        "ck_zone_finding_expected_score_range",
        "ck_zone_finding_scores_together",
        "ck_zone_summary_heart_failure_class",
        "ck_zone_summary_mean_csi_range",
        "ck_zone_summary_gradable_zones_range",
        "ck_zone_summary_mean_csi_of_gradable_zones",
        "ck_spine_summary_spine_view",
        "ck_spine_summary_image_side",
        "ck_spine_summary_spacing_source",
        "ck_spine_summary_mean_confidence_range",
        "ck_spine_summary_review_has_reasons",
        "ck_spine_summary_spacing_range",
        "ck_spine_summary_spacing_together",
        "ck_vertebra_finding_confidence_range",
        "ck_landmark_corner",
        "ck_landmark_confidence_range",
        "ck_landmark_spread_range",
        "ck_landmark_place_together",
        "ck_cobb_finding_curve",
        "ck_cobb_finding_degrees_range",
        "ck_height_finding_part",
        "ck_height_finding_mm_together",
        "ck_slip_finding_slip_kind",
        "ck_slip_finding_grade_range",
        "ck_shadow_finding_task",
        "ck_shadow_finding_live_score_range",
        "ck_shadow_finding_shadow_score_range",
        "ck_shadow_finding_difference_range",
    } <= checks


def test_alembic_on_the_command_line_finds_its_configuration_in_pyproject(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    environment = {"RADSTREAM_DATABASE_URL": f"sqlite:///{tmp_path / 'cli.db'}"}
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        done = run_python("-m", "alembic", *arguments, env=environment)
        assert done.returncode == 0, done.stderr
