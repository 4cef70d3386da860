-- Patients whose mean congestion score rose by 0.5 or more from one study to their next.
--
-- A patient is the same where identifier and issuer are; with RADSTREAM_PHI=pseudonymised the identifier is a keyed
-- hash of both, with RADSTREAM_PHI=none this finds nothing. Only studies that one version measured throughout are
-- compared, and only with studies that the same version measured. Runs on SQLite and PostgreSQL.
SELECT
    patient_id,
    patient_id_issuer,
    study_instance_uid,
    study_date,
    csi_version,
    csi_mean_before,
    csi_mean,
    csi_mean - csi_mean_before AS rise
FROM (
    SELECT
        patient_id,
        patient_id_issuer,
        study_instance_uid,
        study_date,
        csi_version,
        csi_mean,
        LAG(csi_mean) OVER (
            PARTITION BY patient_id, patient_id_issuer, csi_version
            ORDER BY study_date, first_received_at
        ) AS csi_mean_before
    FROM study_findings
    WHERE patient_id IS NOT NULL AND study_date IS NOT NULL AND csi_mean IS NOT NULL AND csi_version IS NOT NULL
) AS steps
WHERE csi_mean - csi_mean_before >= 0.5
ORDER BY rise DESC, study_date, study_instance_uid;
