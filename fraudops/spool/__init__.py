"""The spool: an append-only log on local disk of answered predictions.

It holds every record until the shipper has written it to PostgreSQL. A writer owns a series of
segment files and holds a `flock` on the segment that it appends to. A segment whose lock is free
has no writer any more, and may be adopted.
"""

from fraudops.spool.reader import SpoolReader
from fraudops.spool.writer import SpoolWriter

__all__ = ["SpoolReader", "SpoolWriter"]
