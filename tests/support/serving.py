"""The real inference service on a free port, without MLflow and PostgreSQL.

Small real bundles are in its cache, and the tests write the serving record.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from fraudops.audit.records import LabelRecord, Prediction, decode
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.schema import Feature, FeatureSchema, load_schema
from fraudops.spool.frames import frame_at
from fraudops.state import State
from tests.support.bundles import write_linear_bundle
from tests.support.http_client import HTTP
from tests.support.processes import free_port
from tests.support.waiting import eventually

TOKEN = "a-token-of-the-tests"
BANK = FeatureSchema(
    "bank",
    "fraud",
    "seen_at",
    "spent",
    tuple(
        Feature(name, -10.0, 10.0) for name in ("age", "class", "__class__", "velocity", "spent")
    ),
)
ULB_ROW: dict[str, Any] = dict.fromkeys(load_schema().names, 0.25)
BANK_ROW: dict[str, Any] = dict.fromkeys(BANK.names, 0.25)


@dataclass
class Service:
    """One service over one state folder; `start` after `stop` or `kill` is a restart."""

    root: Path
    workers: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    program: tuple[str, ...] = ("services.inference",)
    # The checkout whose code runs: `python -m` searches its working directory first.
    code: Path = Path(__file__).parents[2]

    @property
    def state(self) -> State:
        return State.at(self.root)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.root / "service.log").read_text()

    def start(self, wait: bool = True) -> "Service":
        self.root.mkdir(parents=True, exist_ok=True)
        settings = {
            "FRAUDOPS_STATE": str(self.root),
            "FRAUDOPS_PORT": str(self.port),
            "FRAUDOPS_WORKERS": str(self.workers),
            "FRAUDOPS_ADMIN_TOKEN": TOKEN,
            "FRAUDOPS_RECORD_POLL_SECONDS": "0.2",
            "FRAUDOPS_DRAIN_SECONDS": "0.1",
        }
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            **settings,
            **self.environment,
        }
        with (self.root / "service.log").open("ab") as log:
            command = [sys.executable, "-m", *self.program]
            self.process = subprocess.Popen(
                command,
                cwd=self.code,
                env={k: v for k, v in environment.items() if v},
                stdout=log,
                stderr=log,
            )
        if wait:
            eventually(self.healthy)
        return self

    def healthy(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        assert HTTP.get(f"{self.url}/health", timeout=2).status_code == 200

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def bundle(
        self,
        seed: int,
        schema: FeatureSchema | None = None,
        threshold: float = 0.3,
        sample: bool = True,
    ) -> str:
        """Put a bundle into the cache as if it were fetched and verified, and return its digest."""
        made = self.root / f"made-{seed}"
        digest = write_linear_bundle(made, seed, schema, threshold, sample)
        self.state.bundles.mkdir(parents=True, exist_ok=True)
        if not (self.state.bundles / digest).exists():
            made.rename(self.state.bundles / digest)
        else:
            shutil.rmtree(made)
        return digest

    def record(self, version: str, digest: str, epoch: int | None = None) -> int:
        """Write the serving record, by default one epoch later, and return its epoch."""
        store = FileRecordStore(self.state.serving_record)
        before, token = store.read()
        epoch = epoch or before.epoch + 1
        entry = ServingEntry(
            epoch=epoch,
            version=version,
            digest=digest,
            schema_fingerprint="of the bundle",
            by="a test",
            act="promote",
            at="2026-01-01T00:00:00Z",
            verdict={},
        )
        store.compare_and_set(ServingRecord(current=entry, alias_epoch=epoch), token)
        return epoch

    def promoted(
        self, seed: int, schema: FeatureSchema | None = None, threshold: float = 0.3
    ) -> "Service":
        """Start the service with version `seed` and wait until it is ready."""
        self.record(str(seed), self.bundle(seed, schema, threshold))
        self.start()
        eventually(self.ready)
        return self

    def ready(self) -> dict[str, Any]:
        answer = HTTP.get(f"{self.url}/ready", timeout=5)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def not_ready(self) -> str:
        answer = HTTP.get(f"{self.url}/ready", timeout=5)
        assert answer.status_code == 503, answer.text
        return str(answer.json()["detail"])

    def reload(self, *, token: str = TOKEN, timeout: float = 30, **body: Any) -> httpx.Response:
        return HTTP.post(
            f"{self.url}/reload",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
        )

    def predict(self, row: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        return HTTP.post(
            f"{self.url}/predict", json=ULB_ROW if row is None else row, headers=headers, timeout=10
        )

    def post(
        self, path: str, content: bytes | str, content_type: str | None = "application/json"
    ) -> httpx.Response:
        headers = {"content-type": content_type} if content_type else {}
        return HTTP.post(self.url + path, content=content, headers=headers, timeout=30)

    def worker_pids(self) -> list[int]:
        """Return the pids of all workers, ready or not."""
        return [
            worker["pid"] for worker in HTTP.get(f"{self.url}/ready", timeout=5).json()["workers"]
        ]

    def audited(self) -> list[Prediction | LabelRecord]:
        """Return all records in the spool, those of dead workers included."""
        records: list[Prediction | LabelRecord] = []
        for path in sorted(self.state.spool.glob("*.seg")):
            data, offset = path.read_bytes(), 0
            while frame := frame_at(data, offset):
                records.append(decode(frame.payload))
                offset = frame.end
        return records

    def metrics(self) -> dict[str, float]:
        lines = HTTP.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }


def problem(answer: httpx.Response) -> dict[str, Any]:
    """Return the body of an error after checking that it has the one shape of all errors."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = json.loads(answer.content)
    assert body["status"] == answer.status_code
    assert {"type", "title", "detail"} <= body.keys()
    assert answer.headers["x-request-id"]
    return body
