"""The spool: an append-only log on local disk that holds every answered prediction until the
shipper has brought it to PostgreSQL.

A writer owns a series of segment files; `flock` says which one it still appends to, and a
segment whose lock is free belongs to nobody and may be adopted.
"""

from fraudops.spool.reader import SpoolReader
from fraudops.spool.writer import SpoolWriter

__all__ = ["SpoolReader", "SpoolWriter"]
