"""The features of single predictions, taken out of the audit on request. Their rows stay."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from fraudops.audit.reconciliation import binary, find_outstanding, ids_of, moments
from fraudops.errors import RefusedError, SettingsError, StoreDownError
from fraudops.state import State

FORGET = """UPDATE predictions SET features = NULL, features_sealed = NULL WHERE id = $1 AND "timestamp" = $2 RETURNING id"""


async def forget(connection: Any, state: State, identifiers: Iterable[str]) -> int:
    """Takes the features of all of them out, or of none; how many they are.

    Again changes nothing.

    A row that is shipped or replayed later leaves one that is there as it is. Raises
    SettingsError for an id that the table does not have, StoreDownError while one is still in
    the spool, RefusedError when one was set aside.
    """
    ids = ids_of([_binary(identifier) for identifier in identifiers])
    async with connection.transaction():
        for value, moment in zip(ids, moments(ids), strict=True):
            identifier = UUID(bytes=bytes(value).ljust(16, b"\0"))
            if await connection.fetchval(FORGET, identifier, moment) is None:
                raise _absent(state, identifier)
    return len(ids)


def _binary(identifier: str) -> bytes:
    try:
        return binary(identifier.lower())
    except ValueError:
        raise SettingsError("a prediction is named by its prediction_id, a UUIDv7") from None


def _absent(state: State, identifier: UUID) -> Exception:
    found = find_outstanding(state)
    if identifier.bytes in _all(found.spool):
        return StoreDownError(
            f"{identifier} is still in the spool: try again when it is shipped. Nothing was forgotten"
        )
    if identifier.bytes in _all(found.aside):
        return RefusedError(
            f"{identifier} is set aside in {state.spool / 'aside'}, with its features: replay it, or remove its line. Nothing was forgotten"
        )
    return SettingsError(f"the table has no prediction {identifier}. Nothing was forgotten")


def _all(ids: Any) -> set[bytes]:
    return {bytes(value).ljust(16, b"\0") for value in ids}
