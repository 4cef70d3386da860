"""The analysts' views: stable names and columns over tables that may change; `models.records.dictionary` explains them.

The SQL is one for SQLite and PostgreSQL, but for what either calls a difference of times and the day of a time, which
stands in braces. A migration that changes a view drops and creates it; the texts here are the newest ones, and a test
holds the migrated database against them. New columns come last, so that the older ones stand where they stood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

INSTANCE_FINDINGS: Final = """
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
"""One row per instance, with the newest finding of each task; every accepted instance is here, also skipped and failed
ones. The newest is looked up by index: numbering all answers takes SQLite a time that grows with their square.

A zone's score is null where nothing was analysed or the zone is ungradable; `csi_gradable_zones` tells these apart. An
angle is null where nothing was analysed or a vertebra is missing; `landmarks_version` tells these apart.
"""

STUDY_FINDINGS: Final = """
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
"""One row per study: the worst finding; null, never 0, where nothing was analysed. `landmarks_review` is 1 or 0."""

DAILY_VOLUME: Final = """
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
"""One row per UTC day of receipt, modality and sending AE."""

MODEL_PERFORMANCE: Final = """
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
"""One row per task, version and UTC month: what the database knows of a version without knowing the truth."""


@dataclass(frozen=True, slots=True)
class _Words:
    """What a database calls these, in UTC."""

    seconds: Callable[[str, str], str]
    day: Callable[[str], str]
    week: Callable[[str], str]
    month: Callable[[str], str]
    month_number: Callable[[str], str]


_WORDS: Final = {
    "sqlite": _Words(
        # Julian days as floating-point numbers tell milliseconds apart, and no less.
        seconds=lambda start, end: f"ROUND((julianday({end}) - julianday({start})) * 86400.0, 3)",
        day=lambda at: f"DATE({at})",
        week=lambda at: f"DATE({at}, 'weekday 0', '-6 days')",
        month=lambda at: f"DATE({at}, 'start of month')",
        month_number=lambda at: f"(CAST(STRFTIME('%Y', {at}) AS INTEGER) * 12 + CAST(STRFTIME('%m', {at}) AS INTEGER))",
    ),
    "postgresql": _Words(
        seconds=lambda start, end: f"CAST(EXTRACT(EPOCH FROM ({end} - {start})) AS DOUBLE PRECISION)",
        day=lambda at: f"CAST({at} AT TIME ZONE 'UTC' AS DATE)",
        week=lambda at: f"CAST(DATE_TRUNC('week', {at} AT TIME ZONE 'UTC') AS DATE)",
        month=lambda at: f"CAST(DATE_TRUNC('month', {at} AT TIME ZONE 'UTC') AS DATE)",
        month_number=lambda at: (
            f"CAST(EXTRACT(YEAR FROM {at} AT TIME ZONE 'UTC') * 12"
            f" + EXTRACT(MONTH FROM {at} AT TIME ZONE 'UTC') AS INTEGER)"
        ),
    ),
}

VIEWS: Final = ("instance_findings", "study_findings", "daily_volume", "model_performance")
"""Names, in the order of creation."""


def view_bodies(dialect: str) -> Mapping[str, str]:
    """Give the SELECT of each view by name, in the order of creation, for `sqlite` or `postgresql`."""
    words = _WORDS[dialect]
    places = {
        "received_day": words.day("instance.received_at"),
        "received_week": words.week("instance.received_at"),
        "settle_latency": words.seconds("instance.received_at", "instance.settled_at"),
        "delivery_latency": words.seconds("instance.received_at", "instance.delivered_at"),
        "inferred_month": words.month("inference.inferred_at"),
        "inferred_month_number": words.month_number("inference.inferred_at"),
        "infer_to_settle": words.seconds("inference.inferred_at", "instance.settled_at"),
    }
    bodies = (INSTANCE_FINDINGS, STUDY_FINDINGS, DAILY_VOLUME, MODEL_PERFORMANCE)
    return {name: body.format(**places) for name, body in zip(VIEWS, bodies, strict=True)}
