"""The model of a run: a version, by default the one that serves, with its verified scorer."""

from dataclasses import dataclass
from pathlib import Path

from fraudops import endpoints
from fraudops.errors import SettingsError
from fraudops.model.manifest import Manifest
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.model.verification import verify_bundle
from fraudops.promotion.pod_rules import offered_credentials
from fraudops.promotion.serving_record import ServingTarget
from fraudops.registry import Registry, verified_bundle
from fraudops.registry.proof import require_credentials
from fraudops.schema import FeatureSchema
from fraudops.settings import BundleJobSettings
from fraudops.signing.keys import PublicKeys
from fraudops.state import State
from fraudops.wiring import read_record


@dataclass(frozen=True)
class BatchModel:
    """A version with a verified bundle, ready to score."""

    name: str
    version: str
    digest: str
    schema: FeatureSchema
    threshold: float
    scorer: Scorer


@dataclass(frozen=True)
class BatchModels:
    """The versions and bundles of a state folder, or of the cluster that the settings name."""

    settings: BundleJobSettings
    state: State

    def find(self, version: str | None) -> tuple[str, str]:
        """Return the number and the digest of a version, or of the one that serves for None.

        Raises SettingsError when no version serves or the version has no digest, and
        UnknownVersionError, StoreDownError.
        """
        record = read_record(self.settings.cluster, self.state)
        if version is None:
            if record.current is None:
                raise SettingsError(
                    "no version serves yet: promote one, or name one with --version N"
                )
            return record.current.version, record.current.digest
        for entry in (record.current, *record.stack):
            if entry is not None and entry.version == version:
                # The record has the digest, so scoring works while MLflow is down.
                return version, entry.digest
        registered = self._registry().find(version)
        if registered.digest is None:
            raise SettingsError(
                f"version {version} has no digest: `fraudops train` did not make it; "
                "name another version with --version N"
            )
        return registered.version, registered.digest

    def open(self, version: str, digest: str) -> BatchModel:
        """Open the bundle of a version, from the local cache or else from the registry.

        Raises SignatureRefusedError when no signed verdict or waiver lets it serve, BundleError
        when the bundle does not have this digest, UnknownVersionError, and StoreDownError when
        MLflow is needed and is unavailable.
        """
        self._require_credentials(version, digest)
        bundle = verified_bundle(version, digest, self.state.bundles, self._registry, verify_bundle)
        with bundle as (folder, manifest):
            return _open(folder, manifest, version, digest)

    def _require_credentials(self, version: str, digest: str) -> None:
        record = read_record(self.settings.cluster, self.state)
        require_credentials(
            version,
            digest,
            offered_credentials(record, ServingTarget(record.epoch, version, digest)),
            self.state.bundles,
            PublicKeys.read(self.settings.signing.public_keys_of(self.state)),
            self._registry,
        )

    def _registry(self) -> Registry:
        return Registry(endpoints.mlflow_url(self.state), self.settings.model_name)


def _open(folder: Path, manifest: Manifest, version: str, digest: str) -> BatchModel:
    return BatchModel(
        manifest.model_name,
        version,
        digest,
        manifest.feature_schema,
        manifest.threshold,
        open_scorer(folder),
    )
