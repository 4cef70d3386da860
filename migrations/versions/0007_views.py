"""Views for analysts: daily volume and performance of model versions, and who issued a patient identifier.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
kind = "contract"
oldest_code = "0007"
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
    pneumonia_model.version AS pneumonia_version,
    pneumonia.probability AS pneumonia_probability,
    pneumonia.threshold AS pneumonia_threshold,
    pneumonia.label AS pneumonia_label,
    pneumonia.positive AS pneumonia_positive,
    csi_model.version AS csi_version,
    csi.mean_csi AS csi_mean,
    csi.gradable_zones AS csi_gradable_zones,
    csi.heart_failure_class,
    csi.lungs_found AS csi_lungs_found,
    right_sup.score AS csi_right_sup,
    left_sup.score AS csi_left_sup,
    right_mid.score AS csi_right_mid,
    left_mid.score AS csi_left_mid,
    right_inf.score AS csi_right_inf,
    left_inf.score AS csi_left_inf,
    landmarks_model.version AS landmarks_version,
    spine.mean_confidence AS landmarks_confidence,
    spine.review AS landmarks_review,
    spine.review_reasons AS landmarks_review_reasons,
    main_curve.degrees AS cobb_main,
    main_curve.upper_vertebra AS cobb_main_upper_vertebra,
    main_curve.lower_vertebra AS cobb_main_lower_vertebra,
    upper_curve.degrees AS cobb_upper,
    lower_curve.degrees AS cobb_lower,
    study.patient_id_issuer,
    {received_day} AS received_day,
    {received_week} AS received_week,
    instance.queued_at,
    instance.inferred_at,
    instance.committed_at,
    {settle_latency} AS settle_latency_s,
    {delivery_latency} AS delivery_latency_s,
    instance.revision,
    instance.duplicates,
    instance.conflicts,
    instance.reason_detail,
    normality_model.version AS normality_version,
    normality.probability AS normality_probability,
    normality.threshold AS normality_threshold,
    normality.label AS normality_label,
    normality.positive AS normality_positive
FROM instance
LEFT JOIN series ON series.id = instance.series_id
LEFT JOIN study ON study.id = series.study_id
LEFT JOIN inference AS pneumonia_answer ON pneumonia_answer.id = (
    SELECT MAX(inference.id)
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id
    WHERE inference.instance_id = instance.id AND model_version.task = 'pneumonia'
)
LEFT JOIN model_version AS pneumonia_model ON pneumonia_model.id = pneumonia_answer.model_version_id
LEFT JOIN classification_finding AS pneumonia ON pneumonia.inference_id = pneumonia_answer.id
LEFT JOIN inference AS csi_answer ON csi_answer.id = (
    SELECT MAX(inference.id)
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id
    WHERE inference.instance_id = instance.id AND model_version.task = 'csi'
)
LEFT JOIN model_version AS csi_model ON csi_model.id = csi_answer.model_version_id
LEFT JOIN zone_summary AS csi ON csi.inference_id = csi_answer.id
LEFT JOIN zone_finding AS right_sup ON right_sup.inference_id = csi_answer.id AND right_sup.zone = 'right_sup'
LEFT JOIN zone_finding AS left_sup ON left_sup.inference_id = csi_answer.id AND left_sup.zone = 'left_sup'
LEFT JOIN zone_finding AS right_mid ON right_mid.inference_id = csi_answer.id AND right_mid.zone = 'right_mid'
LEFT JOIN zone_finding AS left_mid ON left_mid.inference_id = csi_answer.id AND left_mid.zone = 'left_mid'
LEFT JOIN zone_finding AS right_inf ON right_inf.inference_id = csi_answer.id AND right_inf.zone = 'right_inf'
LEFT JOIN zone_finding AS left_inf ON left_inf.inference_id = csi_answer.id AND left_inf.zone = 'left_inf'
LEFT JOIN inference AS landmarks_answer ON landmarks_answer.id = (
    SELECT MAX(inference.id)
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id
    WHERE inference.instance_id = instance.id AND model_version.task = 'landmarks'
)
LEFT JOIN model_version AS landmarks_model ON landmarks_model.id = landmarks_answer.model_version_id
LEFT JOIN spine_summary AS spine ON spine.inference_id = landmarks_answer.id
LEFT JOIN cobb_finding AS main_curve ON main_curve.inference_id = landmarks_answer.id AND main_curve.curve = 'main'
LEFT JOIN cobb_finding AS upper_curve ON upper_curve.inference_id = landmarks_answer.id AND upper_curve.curve = 'upper'
LEFT JOIN cobb_finding AS lower_curve ON lower_curve.inference_id = landmarks_answer.id AND lower_curve.curve = 'lower'
LEFT JOIN inference AS normality_answer ON normality_answer.id = (
    SELECT MAX(inference.id)
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id
    WHERE inference.instance_id = instance.id AND model_version.task = 'normality'
)
LEFT JOIN model_version AS normality_model ON normality_model.id = normality_answer.model_version_id
LEFT JOIN classification_finding AS normality ON normality.inference_id = normality_answer.id
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
    MAX(CASE WHEN landmarks_review THEN 1 WHEN landmarks_review IS NULL THEN NULL ELSE 0 END) AS landmarks_review,
    patient_id_issuer,
    CASE WHEN MIN(pneumonia_version) = MAX(pneumonia_version) THEN MIN(pneumonia_version) END AS pneumonia_version,
    CASE WHEN MIN(csi_version) = MAX(csi_version) THEN MIN(csi_version) END AS csi_version,
    CASE WHEN MIN(landmarks_version) = MAX(landmarks_version) THEN MIN(landmarks_version) END AS landmarks_version,
    SUM(CASE WHEN delivered_at IS NULL THEN 0 ELSE 1 END) AS instances_delivered,
    SUM(CASE WHEN committed_at IS NULL THEN 0 ELSE 1 END) AS instances_committed,
    MAX(delivered_at) AS last_delivered_at,
    MAX(committed_at) AS last_committed_at,
    MAX(normality_probability) AS normality_probability,
    MAX(CASE WHEN normality_positive THEN 1 WHEN normality_positive IS NULL THEN NULL ELSE 0 END) AS normality_positive
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id, patient_id_issuer
"""

DAILY_VOLUME = """
SELECT
    {received_day} AS day,
    series.modality,
    instance.calling_ae_title,
    COUNT(*) AS received,
    SUM(CASE WHEN instance.state IN ('received', 'queued') THEN 1 ELSE 0 END) AS waiting,
    SUM(CASE WHEN instance.state = 'done' THEN 1 ELSE 0 END) AS done,
    SUM(CASE WHEN instance.state = 'skipped' THEN 1 ELSE 0 END) AS skipped,
    SUM(CASE WHEN instance.state = 'failed' THEN 1 ELSE 0 END) AS failed,
    SUM(CASE WHEN instance.lane = 'stat' THEN 1 ELSE 0 END) AS stat,
    SUM(instance.duplicates) AS duplicates,
    SUM(instance.conflicts) AS conflicts,
    SUM(CASE WHEN instance.delivered_at IS NULL THEN 0 ELSE 1 END) AS delivered,
    AVG({settle_latency}) AS settle_latency_mean_s,
    MAX({settle_latency}) AS settle_latency_max_s,
    AVG({delivery_latency}) AS delivery_latency_mean_s,
    MAX({delivery_latency}) AS delivery_latency_max_s
FROM instance
LEFT JOIN series ON series.id = instance.series_id
GROUP BY {received_day}, series.modality, instance.calling_ae_title
"""

MODEL_PERFORMANCE = """
SELECT
    answer.task,
    answer.version,
    answer.month,
    answer.month_number,
    COUNT(*) AS answers,
    SUM(answer.positive) AS positive,
    AVG(CAST(answer.positive AS DOUBLE PRECISION)) AS positive_share,
    SUM(CASE WHEN answer.score IS NULL THEN 1 ELSE 0 END) AS without_score,
    AVG(answer.score) AS score_mean,
    MIN(answer.score) AS score_min,
    MAX(answer.score) AS score_max,
    AVG(CAST(answer.review AS DOUBLE PRECISION)) AS review_share,
    AVG(answer.settle_s) AS infer_to_settle_mean_s,
    MAX(answer.settle_s) AS infer_to_settle_max_s,
    shadow.compared AS shadow_compared,
    shadow.agreement AS shadow_agreement
FROM (
    SELECT
        model_version.task,
        model_version.version,
        {inferred_month} AS month,
        {inferred_month_number} AS month_number,
        CASE WHEN finding.positive THEN 1 WHEN finding.positive IS NULL THEN NULL ELSE 0 END AS positive,
        COALESCE(finding.probability, zones.mean_csi / 3.0, spine.mean_confidence) AS score,
        CASE WHEN spine.review THEN 1 WHEN spine.review IS NULL THEN NULL ELSE 0 END AS review,
        CASE WHEN instance.settled_at >= inference.inferred_at THEN {infer_to_settle} END AS settle_s
    FROM inference
    JOIN model_version ON model_version.id = inference.model_version_id
    JOIN instance ON instance.id = inference.instance_id
    LEFT JOIN classification_finding AS finding ON finding.inference_id = inference.id
    LEFT JOIN zone_summary AS zones ON zones.inference_id = inference.id
    LEFT JOIN spine_summary AS spine ON spine.inference_id = inference.id
) AS answer
LEFT JOIN (
    SELECT inference.task, inference.live_version AS version, {inferred_month} AS month, COUNT(*) AS compared,
           AVG(CAST(CASE WHEN inference.agrees THEN 1 ELSE 0 END AS DOUBLE PRECISION)) AS agreement
    FROM shadow_finding AS inference
    GROUP BY inference.task, inference.live_version, {inferred_month}
) AS shadow ON shadow.task = answer.task AND shadow.version = answer.version AND shadow.month = answer.month
GROUP BY answer.task, answer.version, answer.month, answer.month_number, shadow.compared, shadow.agreement
"""

_SQLITE = {
    "received_day": "DATE(instance.received_at)",
    "received_week": "DATE(instance.received_at, 'weekday 0', '-6 days')",
    "settle_latency": "ROUND((julianday(instance.settled_at) - julianday(instance.received_at)) * 86400.0, 3)",
    "delivery_latency": "ROUND((julianday(instance.delivered_at) - julianday(instance.received_at)) * 86400.0, 3)",
    "inferred_month": "DATE(inference.inferred_at, 'start of month')",
    "inferred_month_number": (
        "(CAST(STRFTIME('%Y', inference.inferred_at) AS INTEGER) * 12"
        " + CAST(STRFTIME('%m', inference.inferred_at) AS INTEGER))"
    ),
    "infer_to_settle": "ROUND((julianday(instance.settled_at) - julianday(inference.inferred_at)) * 86400.0, 3)",
}
_POSTGRESQL = {
    "received_day": "CAST(instance.received_at AT TIME ZONE 'UTC' AS DATE)",
    "received_week": "CAST(DATE_TRUNC('week', instance.received_at AT TIME ZONE 'UTC') AS DATE)",
    "settle_latency": "CAST(EXTRACT(EPOCH FROM (instance.settled_at - instance.received_at)) AS DOUBLE PRECISION)",
    "delivery_latency": "CAST(EXTRACT(EPOCH FROM (instance.delivered_at - instance.received_at)) AS DOUBLE PRECISION)",
    "inferred_month": "CAST(DATE_TRUNC('month', inference.inferred_at AT TIME ZONE 'UTC') AS DATE)",
    "inferred_month_number": (
        "CAST(EXTRACT(YEAR FROM inference.inferred_at AT TIME ZONE 'UTC') * 12"
        " + EXTRACT(MONTH FROM inference.inferred_at AT TIME ZONE 'UTC') AS INTEGER)"
    ),
    "infer_to_settle": "CAST(EXTRACT(EPOCH FROM (instance.settled_at - inference.inferred_at)) AS DOUBLE PRECISION)",
}


def upgrade() -> None:
    _drop("study_findings", "instance_findings")
    op.add_column("study", sa.Column("patient_id_issuer", sa.String(length=64), nullable=True))
    places = _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL
    _create("instance_findings", INSTANCE_FINDINGS.format(**places))
    _create("study_findings", STUDY_FINDINGS)
    _create("daily_volume", DAILY_VOLUME.format(**places))
    _create("model_performance", MODEL_PERFORMANCE.format(**places))


def downgrade() -> None:
    _drop("model_performance", "daily_volume", "study_findings", "instance_findings")
    op.drop_column("study", "patient_id_issuer")
    before = import_module("migrations.versions.0003_spine_landmarks")
    _create("instance_findings", before.INSTANCE_FINDINGS)
    _create("study_findings", before.STUDY_FINDINGS)


def _drop(*views: str) -> None:
    for view in views:
        op.execute(f"DROP VIEW {view}")


def _create(view: str, body: str) -> None:
    op.execute(f"CREATE VIEW {view} AS {body}")
