"""Model versions with their tags, aliases and files: what the rest of fraudops asks of the registry."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fraudops.errors import BundleError, SettingsError, UnknownVersionError
from fraudops.registry import artifacts
from fraudops.registry.api import MlflowAnswerError, MlflowApi

TAG_DIGEST = "fraudops.digest"
TAG_SCHEMA_FINGERPRINT = "fraudops.schema_fingerprint"
TAG_SAMPLE = "fraudops.sample"
TAG_REQUEST = "fraudops.request"
TAG_VERDICT = "fraudops.verdict"
TAG_WAIVER = "fraudops.waiver"
# What every MLflow release since 2.0 stores whole.
MAX_TAG_CHARACTERS = 5000
PAGE = 200


@dataclass(frozen=True)
class ModelVersion:
    """One version as the registry knows it;

    `source` is where its bundle lies, `created_at` is ISO 8601 in UTC.
    """

    version: str
    run_id: str
    source: str
    digest: str | None
    schema_fingerprint: str | None
    verdict: dict[str, Any] | None
    waiver: dict[str, Any] | None
    aliases: tuple[str, ...]
    created_at: str
    tags: dict[str, str]


LATEST = "latest"


class Registry:
    """The versions of one registered model.

    Thread-safe. Every method raises StoreDownError when MLflow is not to be had.
    """

    def __init__(
        self, url: str, model: str = "credit-fraud", timeout_seconds: float = 10.0
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", model):
            raise SettingsError(
                "the model name may hold only letters, digits, '.', '_' and '-' (FRAUDOPS_MODEL_NAME)"
            )
        self.model = model
        self._api = MlflowApi(url, timeout_seconds)

    @property
    def url(self) -> str:
        """Without credentials: fit to be shown."""
        return self._api.url

    def close(self) -> None:
        """Closes the connections; forgetting the object does so too."""
        self._api.close()

    def versions(self) -> list[ModelVersion]:
        """Newest first; empty when the model does not exist yet."""
        rows = list(self._search())
        if not rows:
            return []
        model = self._api.call("GET", "mlflow/registered-models/get", params={"name": self.model})[
            "registered_model"
        ]
        named = [(str(entry["version"]), str(entry["alias"])) for entry in model.get("aliases", [])]
        found = [
            _version(
                row,
                tuple(sorted(alias for version, alias in named if version == str(row["version"]))),
            )
            for row in rows
        ]
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def version(self, version: str) -> ModelVersion:
        """Raises UnknownVersionError naming the known ones."""
        row = self._about(
            version,
            "GET",
            "mlflow/model-versions/get",
            params={"name": self.model, "version": version},
        )["model_version"]
        return _version(row, tuple(sorted(row.get("aliases", []))))

    def find(self, version: str) -> ModelVersion:
        """The version of that number; `latest` is the newest. Raises UnknownVersionError."""
        newest = self.versions()[:1] if version == LATEST else []
        return newest[0] if newest else self.version(version)

    def alias(self, alias: str) -> str | None:
        """The version that the alias names, None when it is not set."""
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
        """MLflow has no compare-and-set for it: the caller holds the promotion lock.

        Raises UnknownVersionError.
        """
        self._about(
            version,
            "POST",
            "mlflow/registered-models/alias",
            body={"name": self.model, "alias": alias, "version": version},
        )

    def delete_alias(self, alias: str) -> None:
        """No change when it is not set."""
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
        """Raises SettingsError for a value that MLflow may cut, UnknownVersionError."""
        _check_tag(key, value)
        self._about(
            version,
            "POST",
            "mlflow/model-versions/set-tag",
            body={"name": self.model, "version": version, "key": key, "value": value},
        )

    def create_version(self, run_id: str, tags: dict[str, str]) -> str:
        """Registers the run's artifact folder `bundle` as a new version, the model too if it is not
        there yet, and returns its number.
        """
        for key, value in tags.items():
            _check_tag(key, value)
        uri = str(
            self._api.call("GET", "mlflow/runs/get", params={"run_id": run_id})["run"]["info"][
                "artifact_uri"
            ]
        )
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
        """Streams the files of the version's bundle into `folder` (made if absent), unverified:
        fraudops.model.verification judges them.

        Raises BundleError when there is none, or it holds what no bundle holds.
        """
        source = f"{_run_folder(version)}/{artifacts.BUNDLE}"
        folder.mkdir(parents=True, exist_ok=True)
        artifacts.download_folder(self._api, source, folder)

    def upload(self, version: ModelVersion, name: str, data: bytes) -> None:
        """Writes a file beside the bundle, e.g.

        `validation/test_scores.npz`; replaces what was there.
        """
        artifacts.upload(self._api, _run_folder(version), name, data)

    def download(self, version: ModelVersion, name: str) -> bytes | None:
        """A file beside the bundle, None when there is none."""
        return artifacts.download(self._api, _run_folder(version), name)

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
        """A call about one version; raises UnknownVersionError when it is none."""
        if not version.isdecimal():
            raise self._unknown(version)
        try:
            return self._api.call(method, path, **content)
        except MlflowAnswerError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                raise self._unknown(version) from error
            raise

    def _unknown(self, version: str) -> UnknownVersionError:
        known = ", ".join(found.version for found in self.versions())
        advice = (
            f"known are {known} (`fraudops models`)"
            if known
            else "there is none yet: run `fraudops train`"
        )
        return UnknownVersionError(f"{self.model} has no version {version[:20]!r}; {advice}")


def _check_tag(key: str, value: str) -> None:
    if len(value) > MAX_TAG_CHARACTERS:
        raise SettingsError(
            f"the tag {key} holds {len(value)} characters; MLflow keeps at most {MAX_TAG_CHARACTERS}"
        )


def _run_folder(version: ModelVersion) -> str:
    folder, _, last = version.source.rpartition("/")
    if last != artifacts.BUNDLE or "artifacts" not in version.source:
        raise BundleError(
            f"version {version.version} was not registered by `fraudops train`: it has no bundle"
        )
    return artifacts.proxied_path(folder)


def _version(row: dict[str, Any], aliases: tuple[str, ...]) -> ModelVersion:
    tags = {str(tag["key"]): str(tag.get("value", "")) for tag in row.get("tags", [])}
    return ModelVersion(
        version=str(row["version"]),
        run_id=str(row.get("run_id", "")),
        source=str(row.get("source", "")),
        digest=tags.get(TAG_DIGEST),
        schema_fingerprint=tags.get(TAG_SCHEMA_FINGERPRINT),
        verdict=_mapping(tags.get(TAG_VERDICT)),
        waiver=_mapping(tags.get(TAG_WAIVER)),
        aliases=aliases,
        created_at=datetime.fromtimestamp(int(row["creation_timestamp"]) / 1000, UTC).isoformat(
            timespec="milliseconds"
        ),
        tags=tags,
    )


def _mapping(value: str | None) -> dict[str, Any] | None:
    """A tag that is not a JSON object counts as not there: nobody is let through by it."""
    try:
        return None if value is None else msgspec.json.decode(value.encode(), type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
