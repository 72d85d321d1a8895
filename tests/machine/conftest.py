"""The whole product with a model in production, for the tests that only need one to answer."""

import json

import pytest

from tests.support.http_client import HTTP
from tests.support.platform import Platform
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def serving(platform: Platform) -> Platform:
    """Trained, validated and promoted on the packaged sample."""
    version = str(json.loads(_done(platform, "train", "--json"))["version"])
    _done(platform, "validate", "--version", version)
    _done(platform, "promote", "--version", version, "--alias", "production")
    # /ready follows a pod's first model at the next look at the record, a little after the
    # promotion's return.
    eventually(lambda: HTTP.get(f"{platform.inference_url}/ready").raise_for_status())
    return platform


def _done(platform: Platform, *arguments: str) -> str:
    told = platform.run(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout
