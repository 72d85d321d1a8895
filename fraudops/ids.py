"""Prediction ids: UUIDv7, so that ids sort by time and carry the millisecond that the audit table
partitions on.
"""

import uuid_utils

# A transaction_id that begins so is a test of the installation, such as `helm test`, and no
# transaction of a customer. The name is reserved: it is written into audit rows.
TEST_PREFIX = "fraudops-test-"


def uuid7() -> str:
    """A new UUIDv7 in canonical text, made from the clock in milliseconds and random bits."""
    return str(uuid_utils.uuid7())


def timestamp_ms(identifier: str) -> int:
    """Unix milliseconds inside a canonical UUIDv7. Raises ValueError for anything else."""
    if len(identifier) != 36 or identifier[14] != "7":
        raise ValueError("not a canonical UUIDv7")
    return int(identifier[:8] + identifier[9:13], 16)
