-- Share of pneumonia among analysed instances, by week and sending AE: does one device or one version stand out?
--
-- A week begins on Monday, UTC. Weeks with few answers say little: look at `answers` first. Every column used here is
-- explained in deploy/data_dictionary.md. Runs on SQLite and PostgreSQL.
SELECT
    received_week AS week,
    calling_ae_title,
    pneumonia_version AS version,
    COUNT(*) AS answers,
    SUM(CASE WHEN pneumonia_positive THEN 1 ELSE 0 END) AS positive,
    AVG(CASE WHEN pneumonia_positive THEN 1.0 ELSE 0.0 END) AS positive_share,
    AVG(pneumonia_probability) AS mean_probability
FROM instance_findings
WHERE pneumonia_version IS NOT NULL
GROUP BY received_week, calling_ae_title, pneumonia_version
ORDER BY received_week, calling_ae_title, pneumonia_version;
