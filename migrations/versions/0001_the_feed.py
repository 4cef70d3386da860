"""The feed: studies, instances, inferences, findings, outputs, deliveries, and the analysts' views.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0001"
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
    pneumonia.positive AS pneumonia_positive
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
    MAX(CASE WHEN pneumonia_positive THEN 1 WHEN pneumonia_positive IS NULL THEN NULL ELSE 0 END) AS pneumonia_positive
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id
"""


def upgrade() -> None:
    _create_tables()
    op.execute(f"CREATE VIEW instance_findings AS {INSTANCE_FINDINGS}")
    op.execute(f"CREATE VIEW study_findings AS {STUDY_FINDINGS}")


def _create_tables() -> None:
    op.create_table(
        "model_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "task",
            sa.Enum(
                "pneumonia",
                "normality",
                "csi",
                "landmarks",
                name="task",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("network", sa.String(length=64), nullable=False),
        sa.Column("network_sha256", sa.String(length=64), nullable=False),
        sa.Column("first_served_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("task", "version", name=op.f("uq_model_version_task_version")),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=True),
        sa.Column("study_date", sa.Date(), nullable=True),
        sa.Column("study_description", sa.String(length=64), nullable=True),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("patient_name", sa.String(length=324), nullable=True),
        sa.Column("patient_birth_date", sa.Date(), nullable=True),
        sa.Column("patient_sex", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_study_accession_number"), ["accession_number"], unique=False)
        batch_op.create_index(batch_op.f("ix_study_patient_id"), ["patient_id"], unique=False)

    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("body_part_examined", sa.String(length=16), nullable=True),
        sa.Column("series_description", sa.String(length=64), nullable=True),
        sa.Column("manufacturer", sa.String(length=64), nullable=True),
        sa.Column("manufacturer_model_name", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_series_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("series_instance_uid", name=op.f("uq_series_series_instance_uid")),
    )
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_series_study_id"), ["study_id"], unique=False)

    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column(
            "lane",
            sa.Enum("stat", "routine", name="lane", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "received",
                "queued",
                "done",
                "skipped",
                "failed",
                name="instance_state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("reason_detail", sa.String(length=256), nullable=True),
        sa.Column("duplicates", sa.Integer(), nullable=False),
        sa.Column("conflicts", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=True),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("view_position", sa.String(length=16), nullable=True),
        sa.Column("laterality", sa.String(length=16), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("inferred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_instance_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instance_series_id"), ["series_id"], unique=False)
        batch_op.create_index("ix_instance_state_received_at", ["state", "received_at"], unique=False)

    op.create_table(
        "inference",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=16), nullable=False),
        sa.Column("inferred_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_inference_instance_id_instance")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_inference_model_version_id_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inference")),
        sa.UniqueConstraint("instance_id", "model_version_id", name=op.f("uq_inference_instance_id_model_version_id")),
    )
    with op.batch_alter_table("inference", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_inference_model_version_id"), ["model_version_id"], unique=False)

    op.create_table(
        "output",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("secondary_capture", name="output_kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_output_instance_id_instance")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_output_model_version_id_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_output")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_output_sop_instance_uid")),
    )
    with op.batch_alter_table("output", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_output_instance_id"), ["instance_id"], unique=False)

    op.create_table(
        "classification_finding",
        sa.Column("inference_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("positive", sa.Boolean(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "probability >= 0 AND probability <= 1", name=op.f("ck_classification_finding_probability_range")
        ),
        sa.ForeignKeyConstraint(
            ["inference_id"], ["inference.id"], name=op.f("fk_classification_finding_inference_id_inference")
        ),
        sa.PrimaryKeyConstraint("inference_id", name=op.f("pk_classification_finding")),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("output_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "delivered",
                "dead",
                name="delivery_state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["output_id"], ["output.id"], name=op.f("fk_delivery_output_id_output")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("output_id", "destination", name=op.f("uq_delivery_output_id_destination")),
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index("ix_delivery_due", ["destination", "state", "next_attempt_at"], unique=False)


def downgrade() -> None:
    op.execute("DROP VIEW study_findings")
    op.execute("DROP VIEW instance_findings")
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index("ix_delivery_due")

    op.drop_table("delivery")
    op.drop_table("classification_finding")
    with op.batch_alter_table("output", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_output_instance_id"))

    op.drop_table("output")
    with op.batch_alter_table("inference", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_inference_model_version_id"))

    op.drop_table("inference")
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.drop_index("ix_instance_state_received_at")
        batch_op.drop_index(batch_op.f("ix_instance_series_id"))

    op.drop_table("instance")
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_series_study_id"))

    op.drop_table("series")
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_study_patient_id"))
        batch_op.drop_index(batch_op.f("ix_study_accession_number"))

    op.drop_table("study")
    op.drop_table("model_version")
