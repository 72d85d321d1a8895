"""The real inference service on a free port, without MLflow and PostgreSQL.

Small real bundles with signed verdicts are in its cache, and the tests write the serving record.
The keys are in the state folder, as `fraudops up` makes them.
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

from fraudops.audit.records import Record, decode
from fraudops.model.manifest import MANIFEST
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.schema import Feature, FeatureSchema, load_schema
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.kept import keep
from fraudops.signing.key_files import ensure_key
from fraudops.signing.keys import PrivateKey, PublicKeys
from fraudops.signing.verdicts import SignedVerdict
from fraudops.spool.frames import frame_at
from fraudops.state import State
from tests.support.bundles import write_linear_bundle
from tests.support.http_client import HTTP
from tests.support.processes import free_port
from tests.support.signing import SIGNERS, sign_bundle
from tests.support.waiting import eventually
from tests.support.warm_start import ROOT, Process, start_python

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
    process: Process | None = None
    program: tuple[str, ...] = ("services.inference",)
    # The checkout whose code runs: `python -m` searches its working directory first.
    code: Path = ROOT
    # Whether the imports of other projects are made already: see `tests.support.warm_start`.
    warm: bool = True

    @property
    def state(self) -> State:
        return State.at(self.root)

    @property
    def key(self) -> PrivateKey:
        """The key that signs verdicts. It is made in the state folder, as `fraudops up` does."""
        return ensure_key(self.state.verdict_key, self.state.public_keys, "verdict")

    def make_folder(self) -> None:
        """Make the state folder with the admin token and the tests' keys."""
        self.root.mkdir()
        self.state.admin_token.write_text(TOKEN)
        SIGNERS.write_keys(self.state)

    def job_environment(self, model: str, mlflow_url: str, database: str) -> dict[str, str]:
        """Return the variables with which a job finds this service and its stores."""
        return {
            "FRAUDOPS_STATE": str(self.root),
            "FRAUDOPS_URL": self.url,
            "FRAUDOPS_MODEL_NAME": model,
            "MLFLOW_TRACKING_URI": mlflow_url,
            "DATABASE_URL": database,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.root / "service.log").read_text()

    def start(self, wait: bool = True) -> "Service":
        self.root.mkdir(parents=True, exist_ok=True)
        assert self.key
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
        environment = {name: value for name, value in environment.items() if value}
        arguments = ["-m", *self.program]
        with (self.root / "service.log").open("ab") as log:
            if self.warm and self.code == ROOT:
                self.process = start_python(arguments, environment, log)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=self.code,
                    env=environment,
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
        """Put a bundle into the cache as if it were fetched and verified, and return its digest.

        It is that of the version `seed`.
        """
        made = self.root / f"made-{seed}"
        digest = write_linear_bundle(made, seed, schema, threshold, sample)
        self.keep(str(seed), digest, (made / MANIFEST).read_bytes())
        if not (self.state.bundles / digest).exists():
            made.rename(self.state.bundles / digest)
        else:
            shutil.rmtree(made)
        return digest

    def known(self, seed: int) -> str:
        """Keep the signed verdict of a bundle that is nowhere, and return the bundle's digest."""
        made = self.root / f"made-{seed}"
        digest = write_linear_bundle(made, seed)
        self.keep(str(seed), digest, (made / MANIFEST).read_bytes())
        shutil.rmtree(made)
        return digest

    def keep(self, version: str, digest: str, manifest: bytes) -> None:
        """Keep a signed verdict in the cache, as after a verification."""
        self.state.bundles.mkdir(parents=True, exist_ok=True)
        proof = Credentials(signed_verdict=self.signed_verdict(version, manifest))
        keys = PublicKeys.read(self.state.public_keys)
        keep(self.state.bundles, version, digest, proof, accept(proof, version, digest, keys))

    def signed_verdict(self, version: str, manifest: bytes) -> SignedVerdict:
        """Sign a passing verdict with the key of the state folder."""
        return sign_bundle(manifest, version, self.key)

    def record(
        self,
        version: str,
        digest: str,
        epoch: int | None = None,
        credentials: Credentials | None = None,
    ) -> int:
        """Write the serving record, by default one epoch later, and return its epoch.

        By default the entry has a signed verdict on the bundle in the cache.
        """
        if credentials is None:
            manifest = (self.state.bundles / digest / MANIFEST).read_bytes()
            credentials = Credentials(signed_verdict=self.signed_verdict(version, manifest))
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
            verdict={"passed": True},
            signed_verdict=credentials.signed_verdict,
            signed_waiver=credentials.signed_waiver,
            unsigned=credentials.unsigned,
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

    def serving(self) -> str:
        """Return the version that serves; a pod without a model may be ready too."""
        version = self.ready()["version"]
        assert version is not None
        return str(version)

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

    def audited(self) -> list[Record]:
        """Return all records in the spool, those of dead workers included."""
        records: list[Record] = []
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
