"""The audit's tables for SQLAlchemy.

The migrations create the tables in PostgreSQL. A contract test compares the two.
"""

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, JSONB, UUID

metadata = MetaData()
_moment = DateTime(timezone=True)

predictions = Table(
    "predictions",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("timestamp", _moment, primary_key=True),
    Column("features", JSONB),
    Column("fraud_probability", Double, nullable=False),
    Column("prediction", SmallInteger, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("latency_ms", Double, nullable=False),
    Column("challenger_version", Text),
    Column("challenger_probability", Double),
    Column("request_id", Text),
    Column("transaction_id", Text),
    Column("entity_key", Text),
    Column("pod", Text, nullable=False),
    Column("features_sealed", LargeBinary),
    Column("client", Text),
)

labels = Table(
    "labels",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("prediction_id", UUID(as_uuid=False)),
    Column("transaction_id", Text),
    Column("label", SmallInteger, nullable=False),
    Column("labelled_at", _moment, nullable=False),
    Column("source", Text, nullable=False),
    Column("received_at", _moment, nullable=False),
    Column("client", Text),
)

refusals = Table(
    "refusals",
    metadata,
    Column("at", _moment, primary_key=True),
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("pod", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text),
    Column("field", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rows", Integer, nullable=False),
)

label_imports = Table(
    "label_imports",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("file_sha256", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("started_at", _moment, nullable=False),
    Column("finished_at", _moment),
    Column("next_batch", Integer, nullable=False),
    Column("rows", BIGINT, nullable=False),
    Column("inserted", BIGINT, nullable=False),
    Column("repeated", BIGINT, nullable=False),
    Column("contradictory", BIGINT, nullable=False),
    Column("unmatched", BIGINT, nullable=False),
    Column("refused", BIGINT, nullable=False),
    Column("requested_by", Text, nullable=False),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("request", Text, nullable=False),
    Column("started_at", _moment, nullable=False),
    Column("finished_at", _moment),
    Column("model_name", Text, nullable=False),
    Column("from_version", Text),
    Column("to_version", Text, nullable=False),
    Column("to_digest", Text, nullable=False),
    Column("epoch", BIGINT),
    Column("strategy", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("requested_by", Text, nullable=False),
    Column("act", Text),
    Column("waiver_reason", Text),
    # Not JSONB: SQLAlchemy would write None as the JSON value null, which is not NULL.
    Column("behind", ARRAY(Text)),
    Column("actor", Text),
    Column("authenticated", Boolean),
    Column("approver", Text),
    Column("signer", Text),
)

drift_runs = Table(
    "drift_runs",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("at", _moment, nullable=False),
    Column("window_start", _moment, nullable=False),
    Column("window_end", _moment, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("score_psi", Double),
    Column("decision_rate", Double),
    Column("expected_decision_rate", Double),
    Column("report", JSONB, nullable=False),
    Column("html_path", Text),
)

drift_columns = Table(
    "drift_columns",
    metadata,
    Column("run_id", UUID(as_uuid=True), primary_key=True),
    Column("column_name", Text, primary_key=True),
    Column("psi", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("exceeded", Boolean, nullable=False),
)
