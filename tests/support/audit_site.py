"""A spool, an audit database, and the command `fraudops audit` over both."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.records import Record, encode
from fraudops.spool import SpoolReader
from fraudops.state import State
from services.shipper.sink import Sink
from tests.support.commands import Caller, CommandResult


class AuditSite:
    """A state folder with a spool, an audit database, and the command `fraudops audit`."""

    def __init__(self, url: str, folder: Path, call: Caller) -> None:
        self.url, self.state, self._call = url, State.at(folder), call
        self.dead_letters = DeadLetters(self.state.spool)

    def __call__(
        self, *arguments: str | Path, stdin: str = "", **environment: str
    ) -> CommandResult:
        return self._call(
            *arguments,
            "--state",
            self.state.root,
            stdin=stdin,
            **({"DATABASE_URL": self.url} | environment),
        )

    def ship(self, *records: Record) -> list[str]:
        """Write the records to the table as the shipper does; return their ids."""
        asyncio.run(self._ship(records))
        return [record.id for record in records]

    async def _ship(self, records: Iterable[Record]) -> None:
        sink = Sink(self.url)
        await sink.ship([encode(record) for record in records])
        await sink.close()

    def ship_the_spool(self) -> int:
        """Empty the spool as a shipper does; return how many rows were new.

        Refused records become dead letters, and the segments are deleted.
        """
        return asyncio.run(self._ship_the_spool())

    async def _ship_the_spool(self) -> int:
        sink, spool, new = Sink(self.url), SpoolReader(self.state.spool), 0
        while group := spool.read(1 << 20):
            outcome = await sink.ship([payload for _, piece in group for payload in piece.payloads])
            self.dead_letters.put(outcome.rejected)
            new += outcome.new
            for reader, piece in group:
                reader.commit(piece)
        spool.close()
        await sink.close()
        return new

    def verify(self, ids: Iterable[str], **environment: str) -> tuple[int, dict[str, Any]]:
        result = self("verify", "--answers", "-", "--json", stdin="\n".join(ids), **environment)
        return result.returncode, json.loads(result.stdout)
