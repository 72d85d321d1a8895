"""The whole product with a model in production, for tests that only need a served model."""

import json

import pytest

from tests.support.http_client import HTTP
from tests.support.platform import Platform
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def serving(platform: Platform) -> Platform:
    """Return the product after training, validation and promotion on the packaged sample."""
    version = str(json.loads(_done(platform, "train", "--json"))["version"])
    _done(platform, "validate", "--version", version)
    _done(platform, "promote", "--version", version, "--alias", "production")
    # A pod reports its first model in /ready only at the next poll of the record, a little after
    # the promotion has returned.
    eventually(lambda: HTTP.get(f"{platform.inference_url}/ready").raise_for_status())
    return platform


def _done(platform: Platform, *arguments: str) -> str:
    result = platform.run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout
