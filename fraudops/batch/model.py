"""The model of a run: the version that serves, or another, with its verified scorer; from the state
folder's cache, else from the registry.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fraudops import endpoints
from fraudops.errors import BundleError, SettingsError
from fraudops.model.manifest import Manifest
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.model.verification import verify_bundle
from fraudops.registry import Registry
from fraudops.schema import FeatureSchema
from fraudops.settings import ClusterJobSettings
from fraudops.state import State
from fraudops.wiring import read_record


@dataclass(frozen=True)
class BatchModel:
    """A verified version, ready to score."""

    name: str
    version: str
    digest: str
    schema: FeatureSchema
    threshold: float
    scorer: Scorer


@dataclass(frozen=True)
class BatchModels:
    """Where versions and bundles are found: this machine's state folder, or the cluster that the
    settings name.
    """

    settings: ClusterJobSettings
    state: State

    def find(self, version: str | None) -> tuple[str, str]:
        """Number and digest: of the version that serves when none is named.

        Raises SettingsError, UnknownVersionError, StoreDownError.
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
                return version, entry.digest  # known without the registry
        found = self._registry().find(version)
        if found.digest is None:
            raise SettingsError(
                f"version {version} carries no digest: it was not made by `fraudops train`; name another with --version N"
            )
        return found.version, found.digest

    def open(self, version: str, digest: str) -> BatchModel:
        """Raises BundleError when the bundle is not what its digest says, StoreDownError when it is
        not to be had.
        """
        cached = self.state.bundles / digest
        if cached.is_dir():
            try:
                return _open(cached, version, digest)
            except BundleError:
                pass  # the registry's may be whole
        folder = Path(tempfile.mkdtemp(prefix="fraudops-score-"))
        try:
            registry = self._registry()
            registry.download_bundle(registry.version(version), folder)
            return _open(folder, version, digest)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _registry(self) -> Registry:
        return Registry(endpoints.mlflow_url(self.state), self.settings.model_name)


def _open(folder: Path, version: str, digest: str) -> BatchModel:
    manifest: Manifest = verify_bundle(folder, digest)
    return BatchModel(
        manifest.model_name,
        version,
        digest,
        manifest.feature_schema,
        manifest.threshold,
        open_scorer(folder),
    )
