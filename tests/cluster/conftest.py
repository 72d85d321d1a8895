"""The release that `make kind-up` has installed.

Two tiers: every behaviour once and short, or with PROOF=1 the full figures, written down.
"""

import os
from collections.abc import Iterator

import pytest

from tests.cluster.release import PodCounts, Release, installed
from tests.support.figures import PROOF, Figures

COUNTS = PodCounts(20, 3, 10, 5, 100_000) if PROOF else PodCounts(3, 1, 2, 1, 2_000)


@pytest.fixture(scope="session")
def release() -> Iterator[Release]:
    with installed(os.environ.get("KIND_CLUSTER", "fraudops")) as found:
        os.environ["KUBECONFIG"] = str(found.kubeconfig)  # what the product's own client reads
        yield found


@pytest.fixture(scope="session")
def versions(release: Release) -> tuple[str, str]:
    """The one that serves, and another that could."""
    release.agreed()
    return release.serving()[0], release.new_version(11)


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """What is measured on the way; the full tier writes it down."""
    found = Figures("cluster", "On Kubernetes", cluster="kind, one node")
    yield found
    found.write()


@pytest.fixture(scope="session")
def counts() -> PodCounts:
    return COUNTS
