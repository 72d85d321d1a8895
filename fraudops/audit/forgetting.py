"""Deletion of the features of single predictions on request; their rows stay."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from fraudops.audit.prediction_ids import Ids, element_bytes, id_array, id_bytes, timestamps
from fraudops.audit.reconciliation import find_outstanding
from fraudops.errors import RefusedError, SettingsError, StoreDownError
from fraudops.state import State

FORGET = """
UPDATE predictions SET features = NULL, features_sealed = NULL
WHERE id = $1 AND "timestamp" = $2 RETURNING id"""


async def forget(connection: Any, state: State, identifiers: Iterable[str]) -> int:
    """Clear the features of all given predictions, or of none, and return the count.

    Running it again changes nothing. A copy that is shipped or replayed later does not restore the
    features, because the shipper never changes a row that the table has.

    Raises SettingsError for an id that the table does not have, StoreDownError while a prediction
    is still in the spool, and RefusedError when it is a dead letter.
    """
    ids = id_array([_parse(identifier) for identifier in identifiers])
    async with connection.transaction():
        for value, moment in zip(ids, timestamps(ids), strict=True):
            identifier = UUID(bytes=element_bytes(value))
            if await connection.fetchval(FORGET, identifier, moment) is None:
                raise _absent(state, identifier)
    return len(ids)


def _parse(identifier: str) -> bytes:
    try:
        return id_bytes(identifier.lower())
    except ValueError:
        raise SettingsError(
            "the id of a prediction must be its prediction_id, which is a UUIDv7"
        ) from None


def _absent(state: State, identifier: UUID) -> Exception:
    """Return the error that says where a prediction is that the table does not have."""
    outstanding = find_outstanding(state)
    if identifier.bytes in _values(outstanding.spool):
        return StoreDownError(
            f"{identifier} is still in the spool: try again when it is shipped. "
            "No features were deleted"
        )
    if identifier.bytes in _values(outstanding.dead_letters):
        return RefusedError(
            f"{identifier} is a dead letter in {state.spool / 'aside'}, with its features: replay "
            "it, or remove its line. No features were deleted"
        )
    return SettingsError(f"the table has no prediction {identifier}. No features were deleted")


def _values(ids: Ids) -> set[bytes]:
    return {element_bytes(value) for value in ids}
