"""The analysts' views: stable names and columns over tables that may change.

The SQL is plain enough for SQLite and PostgreSQL alike. A migration that changes a view drops and creates it; the
texts here are the newest ones, and a test holds the migrated database against them.
"""

from __future__ import annotations

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
"""One row per instance, newest finding of each task; every accepted instance is here, also skipped and failed ones.

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
    MAX(CASE WHEN landmarks_review THEN 1 WHEN landmarks_review IS NULL THEN NULL ELSE 0 END) AS landmarks_review
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id
"""
"""One row per study: the worst finding; null, never 0, where nothing was analysed. `landmarks_review` is 1 or 0."""

VIEWS: Final = {"instance_findings": INSTANCE_FINDINGS, "study_findings": STUDY_FINDINGS}
"""By name, in the order of creation."""
