"""Model versions as the registry stores them, and the tags that fraudops writes on them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from fraudops.canonical import decode_json
from fraudops.errors import BundleError, SettingsError
from fraudops.registry import artifacts

TAG_DIGEST = "fraudops.digest"
TAG_SCHEMA_FINGERPRINT = "fraudops.schema_fingerprint"
TAG_SAMPLE = "fraudops.sample"
TAG_REQUEST = "fraudops.request"
TAG_VERDICT = "fraudops.verdict"
# Every MLflow release since 2.0 stores a value of this length without cutting it.
MAX_TAG_CHARACTERS = 5000


@dataclass(frozen=True)
class ModelVersion:
    """A version of the registered model.

    `source` is the URI of its bundle. `created_at` is ISO 8601 in UTC.
    """

    version: str
    run_id: str
    source: str
    digest: str | None
    schema_fingerprint: str | None
    verdict: dict[str, Any] | None
    aliases: tuple[str, ...]
    created_at: str
    tags: dict[str, str]


def parse_version(row: dict[str, Any], aliases: tuple[str, ...]) -> ModelVersion:
    """Return the version that MLflow describes in `row`."""
    tags = {str(tag["key"]): str(tag.get("value", "")) for tag in row.get("tags", [])}
    return ModelVersion(
        version=str(row["version"]),
        run_id=str(row.get("run_id", "")),
        source=str(row.get("source", "")),
        digest=tags.get(TAG_DIGEST),
        schema_fingerprint=tags.get(TAG_SCHEMA_FINGERPRINT),
        verdict=_mapping(tags.get(TAG_VERDICT)),
        aliases=aliases,
        created_at=datetime.fromtimestamp(int(row["creation_timestamp"]) / 1000, UTC).isoformat(
            timespec="milliseconds"
        ),
        tags=tags,
    )


def check_tag(key: str, value: str) -> None:
    """Raise SettingsError for a value that MLflow may cut."""
    if len(value) > MAX_TAG_CHARACTERS:
        raise SettingsError(
            f"the tag {key} holds {len(value)} characters; "
            f"MLflow keeps at most {MAX_TAG_CHARACTERS}"
        )


def run_folder(version: ModelVersion) -> str:
    """Return the path of the version's run behind MLflow's artifact proxy.

    Raises BundleError when the version has no bundle.
    """
    folder, _, last = version.source.rpartition("/")
    if last != artifacts.BUNDLE or "artifacts" not in version.source:
        raise BundleError(
            f"version {version.version} was not registered by `fraudops train`: it has no bundle"
        )
    return artifacts.proxied_path(folder)


def _mapping(value: str | None) -> dict[str, Any] | None:
    """Return the JSON object in a tag, or None.

    A malformed verdict therefore counts as missing, and a promotion is refused.
    """
    try:
        return None if value is None else decode_json(value.encode(), dict[str, Any])
    except msgspec.MsgspecError:
        return None
