"""`python -m benchmarks.fake_pods COUNT RECORD TIMES SEED`: pods for a promoter to call.

Each pod is an HTTP server on the loopback; all run in this one process. A fake pod answers /ready
and /reload as the service does: it refuses a lower epoch, reads the record again on a commit, and
reports the version that it then serves. Instead of a pod's work it waits for a random time from
TIMES, the times of a real pod. In a cluster every pod has its own CPUs; fifty real pods would share
the CPUs of this machine.

The first line of standard output holds the ports. The program ends with its standard input.
"""

import asyncio
import json
import random
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from fraudops.promotion.local import FileRecordStore

WORKERS = 2


class ServiceTimes(msgspec.Struct, frozen=True):
    """Seconds that one real pod took for each call, by phase."""

    ready: list[float]
    prepare: list[float]
    commit: list[float]


class FakePod:
    def __init__(
        self, name: str, record: FileRecordStore, times: ServiceTimes, chance: random.Random
    ) -> None:
        self._name, self._record, self._times, self._chance = name, record, times, chance
        self._epoch, self._version = 0, ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        request_head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        path = request_head.split(" ", 2)[1]
        length = next(
            (
                int(line.partition(":")[2])
                for line in request_head.splitlines()
                if line.startswith("content-length:")
            ),
            0,
        )
        status, body = await self.answer(
            path, json.loads(await reader.readexactly(length) or b"{}")
        )
        content = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    async def answer(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        phase = request.get("phase", "ready") if path == "/reload" else "ready"
        await asyncio.sleep(self._chance.choice(getattr(self._times, phase)))
        if phase == "commit":
            current = self._record.read()[0].current
            if current is None or current.epoch < request["epoch"]:
                return 409, {"detail": "the serving record is not yet there"}
            self._epoch, self._version = current.epoch, current.version
        elif phase == "prepare" and request["epoch"] < self._epoch:
            return 409, {"detail": f"epoch {self._epoch} is served already"}
        workers = [
            {"pid": number, "epoch": self._epoch, "version": self._version}
            for number in range(WORKERS)
        ]
        return 200, {
            "pod": self._name,
            "status": "ready",
            "epoch": self._epoch,
            "version": self._version,
            "workers": workers,
        }


async def serve(count: int, record: Path, times: ServiceTimes, seed: int) -> None:
    chance, store = random.Random(seed), FileRecordStore(record)
    pods = [FakePod(f"pod-{number}", store, times, chance) for number in range(count)]
    servers = [await asyncio.start_server(pod.serve, "127.0.0.1", 0) for pod in pods]
    sys.stdout.write(json.dumps([server.sockets[0].getsockname()[1] for server in servers]) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    measured = msgspec.json.decode(Path(sys.argv[3]).read_bytes(), type=ServiceTimes)
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), measured, int(sys.argv[4])))
