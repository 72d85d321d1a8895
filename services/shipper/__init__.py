"""The shipper: moves the records of the spool to PostgreSQL.

Each record becomes exactly one row. During an outage the records stay in the spool.
"""
