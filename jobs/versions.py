"""Which version a command means."""

from fraudops.registry import ModelVersion, Registry

LATEST = "latest"


def find_version(registry: Registry, version: str) -> ModelVersion:
    """The version of that number; `latest` is the newest. Raises UnknownVersionError, StoreDownError."""
    newest = registry.versions()[:1] if version == LATEST else []
    return newest[0] if newest else registry.version(version)
