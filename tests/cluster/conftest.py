"""The release that `make kind-up` has installed.

Every behaviour is tested once and for a short time. With PROOF=1 the tests run at full length and
write their figures to a file.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.release import Release, Repetitions, installed
from tests.support.figures import PROOF, Figures
from tests.support.shared_servers import run_folder

COUNTS = Repetitions(20, 3, 10, 5, 100_000) if PROOF else Repetitions(3, 1, 2, 1, 2_000)
# These tests make their own namespaces, so they run in parallel with the tests that change the
# installed release.
OWN_NAMESPACES = {"test_upgrade.py", "test_runner.py", "test_ports.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the tests into two groups for `-n 2 --dist loadgroup`; each keeps its order.

    It runs first, because xdist reads the groups in a hook of the same name.
    """
    for item in items:
        if item.path.parent == Path(__file__).parent:
            own = item.path.name in OWN_NAMESPACES
            group = "own namespaces" if own else "the installed release"
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    with installed(cluster, run_folder(tmp_path_factory)) as release:
        # The product's own Kubernetes client reads this variable.
        os.environ["KUBECONFIG"] = str(release.kubeconfig)
        yield release


@pytest.fixture(scope="session")
def versions(release: Release) -> tuple[str, str]:
    """Return the version that serves and another one that passed validation."""
    release.agreed()
    return release.serving()[0], release.new_version(11)


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Yield the collected measurements; PROOF=1 writes them to a file."""
    collected = Figures("cluster", "On Kubernetes", cluster="kind, one node")
    yield collected
    collected.write()


@pytest.fixture(scope="session")
def counts() -> Repetitions:
    return COUNTS
