"""The statements of fraudops.audit.activity: in full, and from a sample."""

from sqlalchemy import text

from fraudops.audit.labels import PRECEDENCE
from fraudops.audit.sampling import INDEXED, SAMPLE_LEVEL, WHOLE, WITHIN
from fraudops.ids import TEST_PREFIX

_COLUMNS = (
    'id, "timestamp", transaction_id, fraud_probability, prediction, latency_ms, '
    "model_version, model_digest"
)
_ALL = f"""
SELECT {_COLUMNS}, 1 AS weight, true AS even
FROM predictions WHERE {WHOLE} AND model_name = :model_name"""  # noqa: S608 (our own constants)
# Frauds are sampled at a lower level than the others. `even` marks the rows that both levels would
# select: they are an even sample of all answers, for quantiles of the latency.
_SAMPLE = " UNION ALL ".join(
    f"""
SELECT {_COLUMNS}, CAST(:weight_{decision} AS integer),
       {SAMPLE_LEVEL} = ANY(CAST(:even AS integer[]))
FROM predictions
WHERE prediction = {decision} AND {SAMPLE_LEVEL} = ANY(CAST(:lowest_bits_{decision} AS integer[]))
  AND {INDEXED} AND {WITHIN} AND model_name = :model_name"""  # noqa: S608 (our own constants)
    for decision in (0, 1)
)
# Repeats and labels of each answer are looked up one by one, by index. The cost of one answer does
# not depend on the size of the window or of the table. IS TRUE stops the planner from using the
# primary key: it would scan all ids of a day to find the few ids of one transaction.
_ACTIVITY = """
WITH answers (
    id, "timestamp", transaction_id, fraud_probability, prediction, latency_ms,
    model_version, model_digest, weight, even
) AS MATERIALIZED ({source}),
decided AS MATERIALIZED (
    SELECT answers.*, NOT EXISTS (
        SELECT FROM predictions earlier
        WHERE earlier.transaction_id = answers.transaction_id
          AND earlier.model_name = :model_name
          AND (earlier.id < answers.id) IS TRUE
          AND earlier."timestamp" >= answers."timestamp" - CAST(:repeat AS interval)
          AND earlier."timestamp" <= answers."timestamp"
    ) AS decision
    FROM answers
),
judged AS (
    SELECT decided.*, truth.label
    FROM decided LEFT JOIN LATERAL (
        SELECT label FROM (
            SELECT label, labelled_at, received_at, labels.id
            FROM labels WHERE labels.prediction_id = decided.id
            UNION ALL
            SELECT label, labelled_at, received_at, labels.id
            FROM labels WHERE labels.transaction_id = decided.transaction_id
            UNION ALL
            SELECT label, labelled_at, received_at, labels.id
            FROM predictions later JOIN labels ON labels.prediction_id = later.id
            WHERE later.transaction_id = decided.transaction_id
              AND later.model_name = :model_name
              AND (later.id > decided.id) IS TRUE
              AND later."timestamp" >= decided."timestamp"
              AND later."timestamp" <= decided."timestamp" + CAST(:repeat AS interval)
        ) AS named
        {precedence} LIMIT 1
    ) AS truth ON decided.decision
)
SELECT model_version, model_digest,
       count(*) AS read,
       coalesce(sum(weight), 0) AS answers,
       coalesce(sum(weight) FILTER (WHERE decision), 0) AS decisions,
       coalesce(sum(weight) FILTER (WHERE decision AND prediction = 1), 0) AS frauds,
       sum(weight * fraud_probability) FILTER (WHERE decision)
           / nullif(sum(weight) FILTER (WHERE decision), 0) AS mean_probability,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
           FILTER (WHERE even) AS latencies,
       min("timestamp") AS first, max("timestamp") AS last,
       coalesce(sum(weight) FILTER (WHERE label IS NOT NULL), 0) AS labelled,
       coalesce(sum(weight) FILTER (WHERE label = 1 AND prediction = 1), 0) AS true_positives,
       coalesce(sum(weight) FILTER (WHERE label = 0 AND prediction = 1), 0) AS false_positives,
       coalesce(sum(weight) FILTER (WHERE label = 1 AND prediction = 0), 0) AS false_negatives,
       coalesce(sum(weight) FILTER (WHERE label = 0 AND prediction = 0), 0) AS true_negatives,
       coalesce(sum(weight) FILTER (WHERE starts_with(transaction_id, '{tests}')), 0) AS tests
FROM judged
GROUP BY GROUPING SETS ((model_version, model_digest), ())
ORDER BY grouping(model_version) DESC, first
"""
EXACT, SAMPLED = (
    text(_ACTIVITY.format(source=source, precedence=PRECEDENCE, tests=TEST_PREFIX))
    for source in (_ALL, _SAMPLE)
)
