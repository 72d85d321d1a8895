"""One inference service with small bundles, and the commands that promote them.

MLflow and PostgreSQL are the real ones of the tests. The versions carry signed verdicts as
`fraudops validate` stores them.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from fraudops.model.manifest import MANIFEST, read_manifest
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import TAG_DIGEST, TAG_SCHEMA_FINGERPRINT, Registry
from fraudops.registry.verdicts import FOLDER
from fraudops.signing.keys import PrivateKey
from fraudops.signing.verdicts import SIGNATURE_FILE, VERDICT_FILE, sign_verdict
from fraudops.validation.gates import GateResult, GateSettings
from fraudops.validation.verdict import Findings, Production, store_verdict, verdict
from jobs import models, promote, promotions, reconcile, rollback, verify
from tests.support.commands import Caller, CommandResult
from tests.support.mlflow_runs import delete_version, new_run, put, remove
from tests.support.serving import BANK, Service
from tests.support.signing import SIGNERS

COMMANDS = {
    "models": models.command,
    "promote": promote.command,
    "promotions": promotions.command,
    "reconcile": reconcile.command,
    "rollback": rollback.command,
    "verify": verify.command,
}
# Nothing listens on this port.
NOWHERE = "127.0.0.1:9"
NO_DATABASE = {"DATABASE_URL": f"postgresql://me:secret@{NOWHERE}/fraudops"}
NO_REGISTRY = {"MLFLOW_TRACKING_URI": f"http://{NOWHERE}"}


@dataclass
class PromotionSite:
    """A running service, its registry and its database."""

    service: Service
    registry: Registry
    mlflow_url: str
    environment: Mapping[str, str]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    _bundles: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def run(self, command: str, *arguments: str, **environment: str) -> CommandResult:
        caller = Caller(command, COMMANDS[command], self.monkeypatch, self.capsys)
        return caller(*arguments, **{**self.environment, **environment})

    def done(self, command: str, *arguments: str, **environment: str) -> CommandResult:
        """Run a command that must succeed."""
        result = self.run(command, *arguments, **environment)
        assert result.returncode == 0, result.stderr
        return result

    def version(self, seed: int, validated: bool = True, bank: bool = False) -> str:
        """Register a version, whose bundle is in the service's cache too; return its number."""
        digest = self._cache(seed, bank)
        bundle = self.service.state.bundles / digest
        fingerprint = read_manifest(bundle).schema_fingerprint
        tags = {TAG_DIGEST: digest, TAG_SCHEMA_FINGERPRINT: fingerprint}
        run = new_run(self.mlflow_url)
        for path in bundle.iterdir():
            put(self.mlflow_url, run, f"bundle/{path.name}", path.read_bytes())
        version = self.registry.create_version(run, tags)
        self._bundles[version] = seed, bank
        if validated:
            self.validate(version)
        return version

    def _cache(self, seed: int, bank: bool) -> str:
        return self.service.bundle(seed, BANK if bank else None)

    def validate(
        self, version: str, passed: bool = True, key: PrivateKey = SIGNERS.verdict
    ) -> None:
        """Store a signed verdict that compared the version with what serves now."""
        # A pod removes bundles that its record does not name.
        bundle = self.service.state.bundles / self._cache(*self._bundles[version])
        manifest, current = read_manifest(bundle), self.record.current
        serving = (
            Production(current.version, current.digest, current.schema_fingerprint)
            if current
            else None
        )
        gate = GateResult("roc_auc", 0.9 if passed else 0.5, 0.8, passed, "of a test")
        findings = Findings([gate], manifest, compared_to=serving)
        found, at = self.registry.version(version), "2026-03-01T10:00:00+00:00"
        judged = verdict(self.registry.model, found, findings, GateSettings(), at)
        signed = sign_verdict((bundle / MANIFEST).read_bytes(), judged, key)
        store_verdict(self.registry, found, judged, signed)

    def forget(self, version: str) -> None:
        """Remove the version's bundle from the service's cache."""
        shutil.rmtree(self.service.state.bundles / str(self.registry.version(version).digest))

    def unsign(self, version: str) -> None:
        """Remove the signed verdict of the version, as if an earlier release had stored it."""
        found = self.registry.version(version)
        for name in (VERDICT_FILE, SIGNATURE_FILE):
            remove(self.mlflow_url, found.run_id, f"{FOLDER}/{name}")

    def change_record(self, change: Callable[[ServingRecord], ServingRecord]) -> None:
        """Write the serving record without a promotion."""
        store = FileRecordStore(self.service.state.serving_record)
        record, token = store.read()
        store.compare_and_set(change(record), token)

    def promote(self, version: str, *arguments: str, **environment: str) -> CommandResult:
        """Validate the version against what serves now and promote it; it must succeed."""
        self.validate(version)
        return self.done("promote", "--version", version, *arguments, **environment)

    def delete(self, version: str) -> None:
        delete_version(self.mlflow_url, self.registry.model, version)

    @property
    def record(self) -> ServingRecord:
        return FileRecordStore(self.service.state.serving_record).read()[0]

    @property
    def aliases(self) -> tuple[str | None, str | None]:
        """The versions of `production` and `champion`."""
        return self.registry.alias("production"), self.registry.alias("champion")

    @property
    def served(self) -> tuple[Any, Any]:
        """The version and the epoch that every worker serves."""
        workers = self.service.ready()["workers"]
        (served,) = {(worker["version"], worker["epoch"]) for worker in workers}
        version, epoch = served
        return version, epoch

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """Act, versions and outcome of each row, in the order of their start."""
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(
                "SELECT act, coalesce(from_version, ''), to_version, outcome FROM promotions"
                " ORDER BY started_at, id"
            ).fetchall()


@contextmanager
def running_site(
    folder: Path,
    mlflow_url: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **service_environment: str,
) -> Iterator[PromotionSite]:
    """Yield a site with a running service that has no model yet and trusts the tests' keys.

    The service finds no registry unless `service_environment` names one.
    """
    model = f"promotion-{uuid4().hex[:8]}"
    service = Service(folder, environment={"FRAUDOPS_MODEL_NAME": model, **service_environment})
    service.make_folder()
    environment = service.job_environment(model, mlflow_url, database) | {
        "FRAUDOPS_PROMOTION__PREPARE_SECONDS": "30"
    }
    service.start()
    try:
        yield PromotionSite(
            service, Registry(mlflow_url, model), mlflow_url, environment, monkeypatch, capsys
        )
    finally:
        service.stop()
