"""An audit table of many days, filled inside PostgreSQL.

Every day has the same number of rows, with the features of the packaged sample. Some transactions
are sent twice, and some are labelled.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from fraudops.audit.partitions import partition_name
from fraudops.datasets import load

DIGEST = "d" * 64
# Every n-th row is decided as fraud (8 in 10 of these are frauds), is a missed fraud, has a label
# without being either, or repeats the transaction of the row before it.
FRAUD_EVERY, MISSED_EVERY, LABEL_EVERY, REPEAT_EVERY = 500, 3_000, 10, 50
# The ids are UUIDv7 of evenly spaced milliseconds. Their other bits are a hash of the row's number,
# so that every run makes the same rows.
_ROWS = f"""
INSERT INTO {{day}} (
    id, "timestamp", features, fraud_probability, prediction, threshold,
    model_name, model_version, model_digest, latency_ms, transaction_id, pod
)
SELECT CAST(
           lpad(to_hex(ms), 12, '0') || '7' || substr(hash, 1, 3)
           || '8' || substr(hash, 4, 15) AS uuid
       ),
       to_timestamp(ms / 1000.0),
       sample.features,
       CASE WHEN n % {FRAUD_EVERY} = 0 THEN 0.9 ELSE 0.001 + n % 97 / 1000.0 END,
       CAST(n % {FRAUD_EVERY} = 0 AS int), 0.5,
       'credit-fraud', '1', '{DIGEST}', 0.3 + n % 1009 / 500.0,
       '{{day}}-' || CASE WHEN n % {REPEAT_EVERY} = 1 THEN n - 1 ELSE n END,
       'pod-' || n % 4
FROM (
    SELECT n, {{begins}} + n * 86400000 / {{rows}} AS ms, md5('{{day}}' || n) AS hash
    FROM generate_series(CAST(0 AS bigint), {{rows}} - 1) AS n
) AS numbered
JOIN sample ON sample.number = n % {{features}}
"""  # noqa: S608 (only constants of this module)
_LABELS = f"""
INSERT INTO labels (
    id, prediction_id, transaction_id, label, labelled_at, source, received_at
)
SELECT gen_random_uuid(),
       CASE WHEN n % 2 = 0 THEN id END,
       CASE WHEN n % 2 = 1 THEN transaction_id END,
       CAST(
           (prediction = 1 AND n / {FRAUD_EVERY} % 10 < 8) OR n % {MISSED_EVERY} = 7 AS int
       ),
       "timestamp", 'chargeback', "timestamp"
FROM (SELECT *, CAST(split_part(transaction_id, '-', 2) AS int) AS n FROM {{day}}) AS numbered
WHERE prediction = 1 OR n % {MISSED_EVERY} = 7 OR n % {LABEL_EVERY} = 3
"""  # noqa: S608


class AuditTables:
    """Audit tables that grow backwards from today, day by day.

    Attached days get their indexes as in a migrated database.
    """

    def __init__(self, url: str, day_rows: int) -> None:
        self.connection, self.day_rows, self.days = (
            psycopg.connect(url, autocommit=True),
            day_rows,
            0,
        )
        self.until = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        data = load()
        self.names = data.schema.names
        lines = (
            msgspec.json.encode(dict(zip(self.names, row, strict=True))) for row in data.x.tolist()
        )
        self.connection.execute("SET synchronous_commit = off")
        self.connection.execute("SET maintenance_work_mem = '256MB'")
        self.connection.execute("CREATE TABLE sample (number int PRIMARY KEY, features jsonb)")
        with self.connection.cursor().copy("COPY sample FROM STDIN") as copy:
            for number, line in enumerate(lines):
                copy.write_row((number, line.decode()))
        self._features = len(data)
        self.connection.execute("ANALYZE sample")

    def grow(self, rows: int) -> None:
        """Add whole days until the table has at least `rows` rows."""
        while self.rows < rows:
            self.days += 1
            begins = self.until - timedelta(days=self.days)
            self._make(partition_name(begins.date()), begins)
        self.connection.execute("VACUUM ANALYZE labels")

    def _make(self, day: str, begins: datetime) -> None:
        filled = {
            "day": day,
            "begins": int(begins.timestamp() * 1000),
            "rows": self.day_rows,
            "features": self._features,
        }
        self.connection.execute(
            f"CREATE TABLE {day} (LIKE predictions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        )
        for statement in (_ROWS, _LABELS):
            self.connection.execute(statement.format(**filled))
        # Attached after it is filled: PostgreSQL then builds each index once.
        self.connection.execute(
            f"ALTER TABLE predictions ATTACH PARTITION {day}"
            f" FOR VALUES FROM ('{begins}') TO ('{begins + timedelta(days=1)}')"
        )
        self.connection.execute(f"VACUUM ANALYZE {day}")

    @property
    def rows(self) -> int:
        return self.days * self.day_rows

    def value(self, query: str) -> Any:
        row = self.connection.execute(query).fetchone()
        return row[0] if row else None
