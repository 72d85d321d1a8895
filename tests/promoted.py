"""The whole product with a model in production, for tests that only need one to answer."""

import json

from tests.conftest import Platform
from tests.support import HTTP, eventually


def promoted(platform: Platform) -> Platform:
    """Trains, validates and promotes on the packaged sample unless something already serves."""
    if HTTP.get(f"{platform.inference_url}/ready").is_success:
        return platform
    version = json.loads(_done(platform, "train", "--json"))["version"]
    _done(platform, "validate", "--version", str(version))
    _done(platform, "promote", "--version", str(version), "--alias", "production")
    # /ready follows a pod's first model at the next look at the record, a little after the promotion's return.
    eventually(lambda: HTTP.get(f"{platform.inference_url}/ready").raise_for_status(), 10)
    return platform


def _done(platform: Platform, *arguments: str) -> str:
    told = platform.run(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout
