"""The release that `make kind-up` has installed.

Every behaviour is tested once and for a short time. With PROOF=1 the tests run at full length and
write their figures to a file.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.cluster.by_helm_3 import second_release
from tests.cluster.earlier import Upgrade, earlier_release
from tests.cluster.release import Release, Repetitions, installed
from tests.cluster.strict import strict_release
from tests.support.figures import PROOF, Figures
from tests.support.shared_servers import run_folder

COUNTS = Repetitions(20, 3, 10, 5, 100_000) if PROOF else Repetitions(3, 1, 2, 1, 2_000)
# These tests have their own namespaces, so each group runs in parallel with the tests that change
# the installed release.
OWN_NAMESPACES = {
    "test_promotion.py": "promotion",
    "test_vanished_node.py": "vanished node",
    "test_upgrade.py": "upgrade",
    "test_runner.py": "upgrade",
    "test_ports.py": "upgrade",
    "test_promotion_policy.py": "upgrade",
    "test_strict.py": "strict",
    "test_network_policies.py": "vanished node",
    "test_rights.py": "upgrade",
    "test_backup.py": "vanished node",
}

SUBJECTS = {
    "cluster": "On Kubernetes",
    "cluster-promotion": "Promotion on Kubernetes",
    "cluster-upgrade": "Upgrades and vanished nodes on Kubernetes",
}
SUBJECT_OF = {
    "test_promotion.py": "cluster-promotion",
    "test_upgrade.py": "cluster-upgrade",
    "test_backup.py": "cluster-upgrade",
    "test_strict.py": "cluster-upgrade",
    "test_password.py": "cluster-upgrade",
    "test_vanished_node.py": "cluster-upgrade",
}


class ClusterScheduling(LoadFileScheduling):
    """The groups of tests, one for each process, each in its order."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return OWN_NAMESPACES.get(Path(file).name, "the installed release")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ClusterScheduling:
    # The groups of `--dist loadgroup` would do, but xdist 3.8 does not see them with pytest 9.2.
    return ClusterScheduling(config, log)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    with installed(cluster, run_folder(tmp_path_factory)) as release:
        # The product's own Kubernetes client reads this variable.
        os.environ["KUBECONFIG"] = str(release.kubeconfig)
        yield release


@pytest.fixture(scope="module")
def versions(release: Release) -> tuple[str, str]:
    """Return the version that serves and another one that passed validation."""
    release.agreed()
    return release.serving()[0], release.new_version(11)


@pytest.fixture(scope="session")
def upgrade(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Upgrade]:
    """Yield an installation of the previous release, which its first test upgrades."""
    with earlier_release(release, tmp_path_factory.mktemp("previous")) as upgrade:
        yield upgrade


@pytest.fixture(scope="session")
def second(release: Release) -> Iterator[Release]:
    """Yield a release that Helm 3 installed, with three pods and a backup."""
    with second_release(release) as own:
        yield own


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Release]:
    """Yield a strict release with an external PostgreSQL. Its first test finds no model in it."""
    with strict_release(release, tmp_path_factory.mktemp("strict")) as own:
        yield own


@pytest.fixture(scope="session")
def all_figures() -> Iterator[dict[str, Figures]]:
    """Yield the measurements of each subject, which PROOF=1 writes."""
    collected = {
        name: Figures(name, title, cluster="kind, two nodes") for name, title in SUBJECTS.items()
    }
    yield collected
    for figures in collected.values():
        if figures.rows:
            figures.write()


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest, all_figures: dict[str, Figures]) -> Figures:
    return all_figures[SUBJECT_OF.get(request.path.name, "cluster")]


@pytest.fixture(scope="session")
def counts() -> Repetitions:
    return COUNTS
