"""The services that the tests of the HTTP contract call."""

from collections.abc import Iterator

import pytest

from tests.support.serving import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two workers that serves version 1 in epoch 1."""
    started = Service(tmp_path_factory.mktemp("service")).promoted(1)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without a promoted model and without an admin token."""
    started = Service(
        tmp_path_factory.mktemp("empty"), workers=1, environment={"FRAUDOPS_ADMIN_TOKEN": ""}
    ).start()
    yield started
    started.stop()
