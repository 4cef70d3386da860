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
"""One row per instance, newest finding of each task; every accepted instance is here, also skipped and failed ones."""

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
    MAX(CASE WHEN pneumonia_positive THEN 1 WHEN pneumonia_positive IS NULL THEN NULL ELSE 0 END) AS pneumonia_positive
FROM instance_findings
WHERE study_instance_uid IS NOT NULL
GROUP BY study_instance_uid, accession_number, study_date, patient_id
"""
"""One row per study: the worst finding; null, never 0, where nothing was analysed."""

VIEWS: Final = {"instance_findings": INSTANCE_FINDINGS, "study_findings": STUDY_FINDINGS}
"""By name, in the order of creation."""
