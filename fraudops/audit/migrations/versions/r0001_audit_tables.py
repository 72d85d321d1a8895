"""Revision 1: predictions, labels, promotions and drift runs."""

from alembic import op

revision = "0001"
down_revision = None

# There is no default partition, because with one PostgreSQL refuses DETACH … CONCURRENTLY. There
# are no foreign keys to predictions: a label may arrive before its prediction, and stays when the
# partition is dropped.
STATEMENTS = (
    """
    CREATE TABLE predictions (
        id uuid NOT NULL,
        "timestamp" timestamptz NOT NULL,
        features jsonb,
        fraud_probability double precision NOT NULL CHECK (fraud_probability BETWEEN 0 AND 1),
        prediction smallint NOT NULL CHECK (prediction IN (0, 1)),
        threshold double precision NOT NULL,
        model_name text NOT NULL,
        model_version text NOT NULL,
        model_digest text NOT NULL,
        latency_ms double precision NOT NULL,
        challenger_version text,
        challenger_probability double precision,
        request_id text,
        transaction_id text,
        entity_key text,
        pod text NOT NULL,
        PRIMARY KEY (id, "timestamp")
    ) PARTITION BY RANGE ("timestamp")
    """,
    # Rows arrive in the order of time, so that a small BRIN index is enough to find a window.
    """
    CREATE INDEX predictions_timestamp ON predictions USING brin ("timestamp")
    WITH (pages_per_range = 32, autosummarize = on)
    """,
    """
    CREATE INDEX predictions_transaction_id ON predictions (transaction_id)
    WHERE transaction_id IS NOT NULL
    """,
    """
    CREATE TABLE labels (
        id uuid PRIMARY KEY,
        prediction_id uuid,
        transaction_id text,
        label smallint NOT NULL CHECK (label IN (0, 1)),
        labelled_at timestamptz NOT NULL,
        source text NOT NULL,
        received_at timestamptz NOT NULL,
        CHECK (num_nonnulls(prediction_id, transaction_id) >= 1)
    )
    """,
    """
    CREATE INDEX labels_prediction_id ON labels (prediction_id)
    WHERE prediction_id IS NOT NULL
    """,
    """
    CREATE INDEX labels_transaction_id ON labels (transaction_id)
    WHERE transaction_id IS NOT NULL
    """,
    """
    CREATE TABLE promotions (
        id uuid PRIMARY KEY,
        request text NOT NULL,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        model_name text NOT NULL,
        from_version text,
        to_version text NOT NULL,
        to_digest text NOT NULL,
        epoch bigint,
        strategy text NOT NULL,
        outcome text NOT NULL,
        reason text,
        requested_by text NOT NULL
    )
    """,
    "CREATE INDEX promotions_started_at ON promotions (started_at)",
    """
    CREATE TABLE drift_runs (
        id uuid PRIMARY KEY,
        at timestamptz NOT NULL,
        window_start timestamptz NOT NULL,
        window_end timestamptz NOT NULL,
        model_version text NOT NULL,
        model_digest text NOT NULL,
        rows integer NOT NULL,
        verdict text NOT NULL,
        score_psi double precision,
        decision_rate double precision,
        expected_decision_rate double precision,
        report jsonb NOT NULL,
        html_path text
    )
    """,
    "CREATE INDEX drift_runs_model_digest ON drift_runs (model_digest, window_end)",
    """
    CREATE TABLE drift_columns (
        run_id uuid NOT NULL,
        column_name text NOT NULL,
        psi double precision NOT NULL,
        threshold double precision NOT NULL,
        exceeded boolean NOT NULL,
        PRIMARY KEY (run_id, column_name)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
