-- How the answers of each version differ from those of the month before: drift of scanners, patients or the feed.
--
-- A month without answers has no difference, nor has the month after it. What drifts is what a version says, not how
-- often it is right: the database does not know the truth. Runs on SQLite and PostgreSQL.
SELECT
    now.task,
    now.version,
    now.month,
    now.answers,
    now.score_mean,
    now.score_mean - before.score_mean AS score_change,
    now.positive_share - before.positive_share AS positive_share_change,
    now.review_share - before.review_share AS review_share_change
FROM model_performance AS now
LEFT JOIN model_performance AS before
    ON before.task = now.task AND before.version = now.version AND before.month_number = now.month_number - 1
ORDER BY now.task, now.version, now.month;
