"""The release that `make kind-up` has installed.

Two tiers: every behaviour once and short, or with PROOF=1 the full figures, written down.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.release import Release, Repetitions, installed
from tests.support.figures import PROOF, Figures
from tests.support.shared_servers import run_folder

COUNTS = Repetitions(20, 3, 10, 5, 100_000) if PROOF else Repetitions(3, 1, 2, 1, 2_000)
# These make namespaces of their own. They run beside the tests that change the installed release.
OWN_NAMESPACES = {"test_upgrade.py", "test_runner.py", "test_ports.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the tests to two processes (`-n 2 --dist loadgroup`): two groups, each in its order.

    First among the hooks: xdist reads the groups in a hook of the same name.
    """
    for item in items:
        if item.path.parent == Path(__file__).parent:
            own = item.path.name in OWN_NAMESPACES
            group = "own namespaces" if own else "the installed release"
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    with installed(cluster, run_folder(tmp_path_factory)) as found:
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
def counts() -> Repetitions:
    return COUNTS
