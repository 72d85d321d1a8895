"""The registry of model versions, with their tags, aliases and files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fraudops.errors import SettingsError, UnknownVersionError
from fraudops.registry import artifacts
from fraudops.registry.api import MlflowAnswerError, MlflowApi
from fraudops.registry.model_version import ModelVersion, check_tag, parse_version, run_folder

# Versions per answer of MLflow.
PAGE = 200
LATEST = "latest"


class Registry:
    """The versions of one registered model.

    Thread-safe. Every method that calls MLflow raises StoreDownError when MLflow is unavailable.
    """

    def __init__(
        self, url: str, model: str = "credit-fraud", timeout_seconds: float = 10.0
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", model):
            raise SettingsError(
                "the model name may hold only letters, digits, '.', '_' and '-': "
                "set FRAUDOPS_MODEL_NAME"
            )
        self.model = model
        self._api = MlflowApi(url, timeout_seconds)

    @property
    def url(self) -> str:
        """The URL of MLflow without its credentials, so that messages may show it."""
        return self._api.url

    def close(self) -> None:
        """Close the connections. The garbage collector closes them too."""
        self._api.close()

    def versions(self) -> list[ModelVersion]:
        """Return all versions, the newest first; none when the model does not exist yet."""
        rows = list(self._search())
        if not rows:
            return []
        # The search does not return aliases, so they need a second call.
        model = self._api.call("GET", "mlflow/registered-models/get", params={"name": self.model})[
            "registered_model"
        ]
        aliases: dict[str, list[str]] = {}
        for entry in model.get("aliases", []):
            aliases.setdefault(str(entry["version"]), []).append(str(entry["alias"]))
        versions = [
            parse_version(row, tuple(sorted(aliases.get(str(row["version"]), [])))) for row in rows
        ]
        return sorted(versions, key=lambda version: int(version.version), reverse=True)

    def version(self, version: str) -> ModelVersion:
        """Return the version of that number.

        Raises UnknownVersionError, which names the known versions.
        """
        row = self._about(
            version,
            "GET",
            "mlflow/model-versions/get",
            params={"name": self.model, "version": version},
        )["model_version"]
        return parse_version(row, tuple(sorted(row.get("aliases", []))))

    def exists(self, version: str) -> bool:
        """Whether the registry has the version. A version that was deleted no longer exists."""
        if not version.isdecimal():
            return False
        try:
            self._api.call(
                "GET",
                "mlflow/model-versions/get",
                params={"name": self.model, "version": version},
            )
        except MlflowAnswerError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def find(self, version: str) -> ModelVersion:
        """Return the version of that number, or the newest one for `latest`.

        Raises UnknownVersionError.
        """
        newest = self.versions()[:1] if version == LATEST else []
        return newest[0] if newest else self.version(version)

    def alias(self, alias: str) -> str | None:
        """Return the version that the alias names, or None when it is not set."""
        try:
            row = self._api.call(
                "GET", "mlflow/registered-models/alias", params={"name": self.model, "alias": alias}
            )["model_version"]
        except MlflowAnswerError as error:
            # An unset alias of a known model is INVALID_PARAMETER_VALUE (MLflow 3.17).
            if error.code == "RESOURCE_DOES_NOT_EXIST" or "not found" in str(error):
                return None
            raise
        return str(row["version"])

    def set_alias(self, alias: str, version: str) -> None:
        """Set the alias to the version.

        MLflow has no compare-and-set for aliases, so the caller must hold the promotion lock.
        Raises UnknownVersionError.
        """
        self._about(
            version,
            "POST",
            "mlflow/registered-models/alias",
            body={"name": self.model, "alias": alias, "version": version},
        )

    def delete_alias(self, alias: str) -> None:
        """Delete the alias, if it is set."""
        try:
            self._api.call(
                "DELETE",
                "mlflow/registered-models/alias",
                body={"name": self.model, "alias": alias},
            )
        except MlflowAnswerError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def set_tag(self, version: str, key: str, value: str) -> None:
        """Set a tag of the version.

        Raises SettingsError for a value that MLflow may cut, and UnknownVersionError.
        """
        check_tag(key, value)
        self._about(
            version,
            "POST",
            "mlflow/model-versions/set-tag",
            body={"name": self.model, "version": version, "key": key, "value": value},
        )

    def create_version(self, run_id: str, tags: dict[str, str]) -> str:
        """Register the folder `bundle` of a run's artifacts as a new version; return its number.

        Registers the model first if it does not exist yet. Raises SettingsError for a tag that
        MLflow may cut, and for artifacts that MLflow does not serve.
        """
        for key, value in tags.items():
            check_tag(key, value)
        uri = str(
            self._api.call("GET", "mlflow/runs/get", params={"run_id": run_id})["run"]["info"][
                "artifact_uri"
            ]
        )
        # Before anything is registered: files elsewhere could not be downloaded later.
        artifacts.proxied_path(uri)
        try:
            self._api.call("POST", "mlflow/registered-models/create", body={"name": self.model})
        except MlflowAnswerError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        pairs = [{"key": key, "value": value} for key, value in sorted(tags.items())]
        body = {
            "name": self.model,
            "source": f"{uri.rstrip('/')}/{artifacts.BUNDLE}",
            "run_id": run_id,
            "tags": pairs,
        }
        return str(
            self._api.call("POST", "mlflow/model-versions/create", body=body)["model_version"][
                "version"
            ]
        )

    def download_bundle(self, version: ModelVersion, folder: Path) -> None:
        """Download the files of the version's bundle into `folder`, which is made if missing.

        The caller verifies them with fraudops.model.verification. Raises BundleError when the
        version has no bundle, or when its files cannot be those of a bundle.
        """
        source = f"{run_folder(version)}/{artifacts.BUNDLE}"
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.download_folder(self._api, source, folder)

    def upload(self, version: ModelVersion, name: str, data: bytes) -> None:
        """Write a file to the version's run, for example `validation/test_scores.npz`.

        Replaces an earlier file of that name.
        """
        artifacts.upload(self._api, run_folder(version), name, data)

    def download(
        self, version: ModelVersion, name: str, limit: int = artifacts.MAX_FILE_BYTES
    ) -> bytes | None:
        """Return a file of the version's run, or None when there is none.

        Raises BundleError for a file of more than `limit` bytes.
        """
        return artifacts.download(self._api, run_folder(version), name, limit)

    def _search(self) -> Iterator[dict[str, Any]]:
        query = {"filter": f"name='{self.model}'", "max_results": str(PAGE)}
        while True:
            page = self._api.call("GET", "mlflow/model-versions/search", params=query)
            yield from page.get("model_versions", [])
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]

    def _about(
        self, version: str, method: str, path: str, **content: dict[str, str]
    ) -> dict[str, Any]:
        """Call MLflow about one version. Raises UnknownVersionError when it does not exist."""
        if not version.isdecimal():
            raise self._unknown(version)
        try:
            return self._api.call(method, path, **content)
        except MlflowAnswerError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                raise self._unknown(version) from error
            raise

    def _unknown(self, version: str) -> UnknownVersionError:
        known = ", ".join(row.version for row in self.versions())
        advice = (
            f"known are {known} (`fraudops models`)"
            if known
            else "there is none yet: run `fraudops train`"
        )
        return UnknownVersionError(f"{self.model} has no version {version[:20]!r}; {advice}")
