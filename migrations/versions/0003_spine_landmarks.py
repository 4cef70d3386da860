"""Landmarks and measures of spines, and the analysts' views with them.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0003"
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
    csi.left_inf AS csi_left_inf,
    spine.version AS landmarks_version,
    spine.mean_confidence AS landmarks_confidence,
    spine.review AS landmarks_review,
    spine.review_reasons AS landmarks_review_reasons,
    spine.cobb_main,
    spine.cobb_main_upper_vertebra,
    spine.cobb_main_lower_vertebra,
    spine.cobb_upper,
    spine.cobb_lower
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
LEFT JOIN (
    SELECT inference.instance_id, model_version.version, summary.mean_confidence, summary.review,
           summary.review_reasons, main_curve.degrees AS cobb_main,
           main_curve.upper_vertebra AS cobb_main_upper_vertebra, main_curve.lower_vertebra AS cobb_main_lower_vertebra,
           upper_curve.degrees AS cobb_upper, lower_curve.degrees AS cobb_lower,
           ROW_NUMBER() OVER (PARTITION BY inference.instance_id ORDER BY inference.id DESC) AS newest
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id AND model_version.task = 'landmarks'
    JOIN spine_summary AS summary ON summary.inference_id = inference.id
    LEFT JOIN cobb_finding AS main_curve ON main_curve.inference_id = inference.id AND main_curve.curve = 'main'
    LEFT JOIN cobb_finding AS upper_curve ON upper_curve.inference_id = inference.id AND upper_curve.curve = 'upper'
    LEFT JOIN cobb_finding AS lower_curve ON lower_curve.inference_id = inference.id AND lower_curve.curve = 'lower'
) AS spine ON spine.instance_id = instance.id AND spine.newest = 1
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
    END AS heart_failure_class,
    MAX(cobb_main) AS cobb_main,
    MAX(CASE WHEN landmarks_review THEN 1 WHEN landmarks_review IS NULL THEN NULL ELSE 0 END) AS landmarks_review
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id
"""


def upgrade() -> None:
    _drop_views()
    _create_summaries()
    _create_measures()
    _create_views(INSTANCE_FINDINGS, STUDY_FINDINGS)


def downgrade() -> None:
    _drop_views()
    for table in ("slip_finding", "height_finding", "cobb_finding", "landmark", "vertebra_finding", "spine_summary"):
        op.drop_table(table)
    before = import_module("migrations.versions.0002_congestion_scores")
    _create_views(before.INSTANCE_FINDINGS, before.STUDY_FINDINGS)


def _drop_views() -> None:
    op.execute("DROP VIEW study_findings")
    op.execute("DROP VIEW instance_findings")


def _create_views(instance_findings: str, study_findings: str) -> None:
    op.execute(f"CREATE VIEW instance_findings AS {instance_findings}")
    op.execute(f"CREATE VIEW study_findings AS {study_findings}")


def _create_summaries() -> None:
    op.create_table(
        "spine_summary",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("landmark_schema", sa.String(length=32), nullable=False),
        sa.Column(
            "view",
            sa.Enum("frontal", "lateral", name="spine_view", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column(
            "anterior",
            sa.Enum("left", "right", name="image_side", native_enum=False, create_constraint=True, length=32),
            nullable=True,
        ),
        sa.Column("mean_confidence", sa.Double(), nullable=False),
        sa.Column("review", sa.Boolean(), nullable=False),
        sa.Column("review_reasons", sa.String(length=256), nullable=True),
        sa.Column("row_mm", sa.Double(), nullable=True),
        sa.Column("column_mm", sa.Double(), nullable=True),
        sa.Column(
            "spacing_source",
            sa.Enum(
                "calibrated_geometry",
                "calibrated_fiducial",
                "pixel_spacing_corrected",
                "imager_pixel_spacing_corrected",
                "pixel_spacing",
                "imager_pixel_spacing",
                "nominal_scanned_pixel_spacing",
                name="spacing_source",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=True,
        ),
        sa.CheckConstraint(
            "(row_mm IS NULL) = (spacing_source IS NULL) AND (column_mm IS NULL) = (spacing_source IS NULL)",
            name=op.f("ck_spine_summary_spacing_together"),
        ),
        sa.CheckConstraint(
            "mean_confidence >= 0 AND mean_confidence <= 1", name=op.f("ck_spine_summary_mean_confidence_range")
        ),
        sa.CheckConstraint("review = (review_reasons IS NOT NULL)", name=op.f("ck_spine_summary_review_has_reasons")),
        sa.CheckConstraint("row_mm > 0 AND column_mm > 0", name=op.f("ck_spine_summary_spacing_range")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_spine_summary_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", name=op.f("pk_spine_summary")),
    )
    op.create_table(
        "vertebra_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("vertebra", sa.String(length=8), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("review", sa.Boolean(), nullable=False),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_vertebra_finding_confidence_range")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_vertebra_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", "vertebra", name=op.f("pk_vertebra_finding")),
    )
    op.create_table(
        "landmark",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("vertebra", sa.String(length=8), nullable=False),
        sa.Column(
            "corner",
            sa.Enum(
                "top_left",
                "top_right",
                "bottom_left",
                "bottom_right",
                name="corner",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("x", sa.Double(), nullable=True),
        sa.Column("y", sa.Double(), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("spread", sa.Double(), nullable=False),
        sa.CheckConstraint("(x IS NULL) = (y IS NULL)", name=op.f("ck_landmark_place_together")),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_landmark_confidence_range")),
        sa.CheckConstraint("spread >= 0", name=op.f("ck_landmark_spread_range")),
        sa.ForeignKeyConstraint(["inference_id"], ["inference.id"], name=op.f("fk_landmark_inference_id_inference")),
        sa.PrimaryKeyConstraint("inference_id", "vertebra", "corner", name=op.f("pk_landmark")),
    )


def _create_measures() -> None:
    op.create_table(
        "cobb_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column(
            "curve",
            sa.Enum("main", "upper", "lower", name="curve", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("degrees", sa.Double(), nullable=False),
        sa.Column("upper_vertebra", sa.String(length=8), nullable=False),
        sa.Column("lower_vertebra", sa.String(length=8), nullable=False),
        sa.CheckConstraint("degrees >= 0 AND degrees <= 180", name=op.f("ck_cobb_finding_degrees_range")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_cobb_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", "curve", name=op.f("pk_cobb_finding")),
    )
    op.create_table(
        "height_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column(
            "part",
            sa.Enum("body", "disc", name="part", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("upper_vertebra", sa.String(length=8), nullable=False),
        sa.Column("lower_vertebra", sa.String(length=8), nullable=False),
        sa.Column("left_px", sa.Double(), nullable=False),
        sa.Column("right_px", sa.Double(), nullable=False),
        sa.Column("left_mm", sa.Double(), nullable=True),
        sa.Column("right_mm", sa.Double(), nullable=True),
        sa.CheckConstraint("(left_mm IS NULL) = (right_mm IS NULL)", name=op.f("ck_height_finding_mm_together")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_height_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint(
            "inference_id", "part", "upper_vertebra", "lower_vertebra", name=op.f("pk_height_finding")
        ),
    )
    op.create_table(
        "slip_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("upper_vertebra", sa.String(length=8), nullable=False),
        sa.Column("lower_vertebra", sa.String(length=8), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "normal",
                "left_laterolisthesis",
                "right_laterolisthesis",
                "anterolisthesis",
                "retrolisthesis",
                name="slip_kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("percent", sa.Double(), nullable=False),
        sa.Column("offset_px", sa.Double(), nullable=False),
        sa.Column("offset_mm", sa.Double(), nullable=True),
        sa.Column("angle_degrees", sa.Double(), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.CheckConstraint("grade >= 0 AND grade <= 5", name=op.f("ck_slip_finding_grade_range")),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_slip_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", "upper_vertebra", name=op.f("pk_slip_finding")),
    )
