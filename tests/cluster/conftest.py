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

COUNTS = Repetitions(20, 3, 10, 5, 3, 100_000) if PROOF else Repetitions(2, 1, 1, 1, 1, 2_000)
# Each group of files changes one release, in the order of the files. The groups run in parallel.
# The longest groups start first, so that all test processes end at about the same time.
THE_INSTALLED = "the installed release"
GROUPS = {
    THE_INSTALLED: (),
    "second": (
        "test_backup.py",
        "test_network_policies.py",
        "test_promotion.py",
    ),
    "upgrade": (
        "test_ports.py",
        "test_promotion_policy.py",
        "test_rights.py",
        "test_runner.py",
        "test_upgrade.py",
    ),
    "vanished": ("test_vanished_node.py",),
    "strict": ("test_strict.py",),
}
GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}

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
        return GROUP_OF.get(Path(file).name, THE_INSTALLED)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {group: place for place, group in enumerate(GROUPS)}

    def place(item: pytest.Item) -> tuple[int, str]:
        return places[GROUP_OF.get(item.path.name, THE_INSTALLED)], item.path.name

    # The sort is stable, so the tests of a file keep their order.
    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ClusterScheduling:
    # The groups of `--dist loadgroup` would do, but xdist 3.8 does not see them with pytest 9.2.
    return ClusterScheduling(config, log)


@pytest.fixture(scope="session")
def installed_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    with installed(cluster, run_folder(tmp_path_factory)) as release:
        # The product's own Kubernetes client reads this variable.
        os.environ["KUBECONFIG"] = str(release.kubeconfig)
        yield release


@pytest.fixture(scope="session")
def release(installed_release: Release) -> Release:
    """Return the installed release. A file of tests may name another one so."""
    return installed_release


@pytest.fixture(scope="module")
def versions(release: Release) -> tuple[str, str]:
    """Return the version that serves and another one that passed validation."""
    release.agreed()
    return release.serving()[0], release.new_version(11)


@pytest.fixture(scope="session")
def upgrade(
    tmp_path_factory: pytest.TempPathFactory, installed_release: Release
) -> Iterator[Upgrade]:
    """Yield an installation of the previous release, which its first test upgrades."""
    with earlier_release(installed_release, tmp_path_factory.mktemp("previous")) as upgrade:
        yield upgrade


@pytest.fixture(scope="session")
def second(installed_release: Release) -> Iterator[Release]:
    """Yield a release that Helm 3 installed, with three pods and a backup."""
    with second_release(installed_release) as own:
        yield own


@pytest.fixture(scope="session")
def strict(
    tmp_path_factory: pytest.TempPathFactory, installed_release: Release
) -> Iterator[Release]:
    """Yield a strict release with an external PostgreSQL. Its first test finds no model in it."""
    with strict_release(installed_release, tmp_path_factory.mktemp("strict")) as own:
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
