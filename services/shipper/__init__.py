"""The shipper: takes what is in the spool to PostgreSQL, exactly once, and waits out whatever keeps
it from doing so.
"""
