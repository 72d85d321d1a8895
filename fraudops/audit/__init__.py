"""The audit trail: records, tables, migrations and the questions that monitor and drift ask."""
