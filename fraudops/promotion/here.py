"""A promoter for this machine, put together from the state folder: the composition root of every local promotion command."""

import asyncio
from collections.abc import Callable

from fraudops import endpoints
from fraudops.errors import SettingsError
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.local import FileLock, FileRecordStore, LocalPods, LocalRecords, SystemClock
from fraudops.promotion.protocol import Promoter
from fraudops.registry import Registry
from fraudops.state import State


class RegistryAliases:
    """The registry's aliases as the protocol's port: its calls block, so they run in a thread."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def get(self, alias: str) -> str | None:
        return await asyncio.to_thread(self.registry.alias, alias)

    async def set(self, alias: str, version: str) -> None:
        await asyncio.to_thread(self.registry.set_alias, alias, version)


def local_records(state: State) -> LocalRecords:
    return LocalRecords(FileRecordStore(state.serving_record))


def local_lock(state: State, wait_seconds: float = 120.0) -> FileLock:
    return FileLock(state.locks / "promotion.lock", wait_seconds)


def local_registry(state: State, model: str) -> Registry:
    return Registry(endpoints.mlflow_url(state), model)


def local_journal(state: State, model: str, say: Callable[[str], None]) -> DatabaseJournal:
    return DatabaseJournal(endpoints.database_url(state), state.root / "promotions.pending", model, say)


def local_promoter(state: State, model: str, say: Callable[[str], None]) -> Promoter:
    """Raises SettingsError when nothing runs in the state folder."""
    try:
        token = state.admin_token.read_text().strip()
    except OSError as error:
        raise SettingsError(f"{state.admin_token} cannot be read ({error.strerror}): run `fraudops up --detach` or give --state FOLDER") from error
    return Promoter(
        local_records(state),
        local_lock(state),
        RegistryAliases(local_registry(state, model)),
        LocalPods(endpoints.inference_url(state), token),
        local_journal(state, model, say),
        SystemClock(),
        say,
    )
