"""Congestion scores of six lung zones, and the analysts' views with them.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0002"
oldest_release = "0.1.0"


INSTANCE_FINDINGS = """
SELECT
    study.study_instance_uid,
    study.accession_number,
    study.study_date,
    study.patient_id,
    series.series_instance_uid,
    series.modality,
    series.body_part_examined,
    instance.view_position,
    instance.sop_instance_uid,
    instance.calling_ae_title,
    instance.lane,
    instance.state,
    instance.reason,
    instance.received_at,
    instance.settled_at,
    instance.delivered_at,
    pneumonia.version AS pneumonia_version,
    pneumonia.probability AS pneumonia_probability,
    pneumonia.threshold AS pneumonia_threshold,
    pneumonia.label AS pneumonia_label,
    pneumonia.positive AS pneumonia_positive,
    csi.version AS csi_version,
    csi.mean_csi AS csi_mean,
    csi.gradable_zones AS csi_gradable_zones,
    csi.heart_failure_class,
    csi.lungs_found AS csi_lungs_found,
    csi.right_sup AS csi_right_sup,
    csi.left_sup AS csi_left_sup,
    csi.right_mid AS csi_right_mid,
    csi.left_mid AS csi_left_mid,
    csi.right_inf AS csi_right_inf,
    csi.left_inf AS csi_left_inf
FROM instance
LEFT JOIN series ON series.id = instance.series_id
LEFT JOIN study ON study.id = series.study_id
LEFT JOIN (
    SELECT inference.instance_id, model_version.version, finding.probability, finding.threshold, finding.label,
           finding.positive,
           ROW_NUMBER() OVER (PARTITION BY inference.instance_id ORDER BY inference.id DESC) AS newest
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id AND model_version.task = 'pneumonia'
    JOIN classification_finding AS finding ON finding.inference_id = inference.id
) AS pneumonia ON pneumonia.instance_id = instance.id AND pneumonia.newest = 1
LEFT JOIN (
    SELECT inference.instance_id, model_version.version, summary.mean_csi, summary.gradable_zones,
           summary.heart_failure_class, summary.lungs_found, zones.right_sup, zones.left_sup, zones.right_mid,
           zones.left_mid, zones.right_inf, zones.left_inf,
           ROW_NUMBER() OVER (PARTITION BY inference.instance_id ORDER BY inference.id DESC) AS newest
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id AND model_version.task = 'csi'
    JOIN zone_summary AS summary ON summary.inference_id = inference.id
    JOIN (
        SELECT inference_id,
               MAX(CASE WHEN zone = 'right_sup' THEN score END) AS right_sup,
               MAX(CASE WHEN zone = 'left_sup' THEN score END) AS left_sup,
               MAX(CASE WHEN zone = 'right_mid' THEN score END) AS right_mid,
               MAX(CASE WHEN zone = 'left_mid' THEN score END) AS left_mid,
               MAX(CASE WHEN zone = 'right_inf' THEN score END) AS right_inf,
               MAX(CASE WHEN zone = 'left_inf' THEN score END) AS left_inf
        FROM zone_finding
        GROUP BY inference_id
    ) AS zones ON zones.inference_id = inference.id
) AS csi ON csi.instance_id = instance.id AND csi.newest = 1
"""

STUDY_FINDINGS = """
SELECT
    study_instance_uid,
    accession_number,
    study_date,
    patient_id,
    COUNT(*) AS instances,
    SUM(CASE WHEN state = 'done' THEN 1 ELSE 0 END) AS instances_done,
    SUM(CASE WHEN state = 'skipped' THEN 1 ELSE 0 END) AS instances_skipped,
    SUM(CASE WHEN state = 'failed' THEN 1 ELSE 0 END) AS instances_failed,
    SUM(CASE WHEN state IN ('received', 'queued') THEN 1 ELSE 0 END) AS instances_waiting,
    MIN(received_at) AS first_received_at,
    MAX(settled_at) AS last_settled_at,
    MAX(pneumonia_probability) AS pneumonia_probability,
    MAX(CASE WHEN pneumonia_positive THEN 1 WHEN pneumonia_positive IS NULL THEN NULL ELSE 0 END) AS pneumonia_positive,
    MAX(csi_mean) AS csi_mean,
    CASE MAX(CASE heart_failure_class WHEN 'high' THEN 3 WHEN 'medium' THEN 2 WHEN 'low' THEN 1 END)
        WHEN 3 THEN 'high' WHEN 2 THEN 'medium' WHEN 1 THEN 'low'
    END AS heart_failure_class
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id
"""


def upgrade() -> None:
    _drop_views()
    _create_tables()
    _create_views(INSTANCE_FINDINGS, STUDY_FINDINGS)


def downgrade() -> None:
    _drop_views()
    op.drop_table("zone_summary")
    op.drop_table("zone_finding")
    before = import_module("migrations.versions.0001_the_feed")
    _create_views(before.INSTANCE_FINDINGS, before.STUDY_FINDINGS)


def _drop_views() -> None:
    op.execute("DROP VIEW study_findings")
    op.execute("DROP VIEW instance_findings")


def _create_views(instance_findings: str, study_findings: str) -> None:
    op.execute(f"CREATE VIEW instance_findings AS {instance_findings}")
    op.execute(f"CREATE VIEW study_findings AS {study_findings}")


def _create_tables() -> None:
    op.create_table(
        "zone_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column(
            "zone",
            sa.Enum(
                "right_sup",
                "left_sup",
                "right_mid",
                "left_mid",
                "right_inf",
                "left_inf",
                name="zone",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("expected_score", sa.Double(), nullable=True),
        sa.CheckConstraint("score >= 0 AND score <= 3", name=op.f("ck_zone_finding_score_range")),
        sa.CheckConstraint("probability >= 0 AND probability <= 1", name=op.f("ck_zone_finding_probability_range")),
        sa.CheckConstraint(
            "expected_score >= 0 AND expected_score <= 3", name=op.f("ck_zone_finding_expected_score_range")
        ),
        sa.CheckConstraint("(score IS NULL) = (expected_score IS NULL)", name=op.f("ck_zone_finding_scores_together")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_zone_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", "zone", name=op.f("pk_zone_finding")),
    )
    op.create_table(
        "zone_summary",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("mean_csi", sa.Double(), nullable=True),
        sa.Column("gradable_zones", sa.Integer(), nullable=False),
        sa.Column(
            "heart_failure_class",
            sa.Enum(
                "low",
                "medium",
                "high",
                name="heart_failure_class",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("lungs_found", sa.Boolean(), nullable=False),
        sa.Column("frame_left", sa.Integer(), nullable=False),
        sa.Column("frame_top", sa.Integer(), nullable=False),
        sa.Column("frame_right", sa.Integer(), nullable=False),
        sa.Column("frame_bottom", sa.Integer(), nullable=False),
        sa.CheckConstraint("mean_csi >= 0 AND mean_csi <= 3", name=op.f("ck_zone_summary_mean_csi_range")),
        sa.CheckConstraint(
            "gradable_zones >= 0 AND gradable_zones <= 6", name=op.f("ck_zone_summary_gradable_zones_range")
        ),
        sa.CheckConstraint(
            "(mean_csi IS NULL) = (gradable_zones = 0)", name=op.f("ck_zone_summary_mean_csi_of_gradable_zones")
        ),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_zone_summary_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", name=op.f("pk_zone_summary")),
    )
