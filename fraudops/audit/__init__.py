"""The audit trail: records, tables, migrations, retention, and queries for monitoring."""
