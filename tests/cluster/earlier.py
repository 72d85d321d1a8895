"""An installation of the previous release in its own namespace, which the tests upgrade."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.release import Release, run
from tests.support.releases import commits, unpack

FOLDERS = {"inference": "services/inference", "mlflow": "services/mlflow", "jobs": "jobs"}
NAMES = {"inference": "fraudops-serving", "mlflow": "fraudops-mlflow", "jobs": "fraudops-jobs"}


@dataclass(frozen=True)
class Upgrade:
    """One installation in its own namespace: as the previous release and as this one.

    Helm's first revision of it is the previous release.
    """

    version: str
    before: Release
    after: Release
    first_revision: int = 1


@contextmanager
def earlier_release(release: Release, folder: Path) -> Iterator[Upgrade]:
    """Install the previous release with its own chart and images built from its own files."""
    version, commit = next(iter(commits().items()))
    files = unpack(version, folder)
    images = {component: f"{name}:{commit}" for component, name in NAMES.items()}
    with ThreadPoolExecutor(len(images)) as pool:
        list(
            pool.map(lambda component: build(files, FOLDERS[component], images[component]), images)
        )
    # One archive for all images: a layer that they share is sent to the node once.
    cluster = release.context.removeprefix("kind-")
    nodes = ["--nodes", f"{cluster}-control-plane"]
    run("kind", "load", "docker-image", *images.values(), "--name", cluster, *nodes)
    values, chart = values_of_neighbour(release), files / "charts" / "fraudops"
    old = values_of_neighbour(release, chart)
    for component in NAMES:
        old[component]["image"]["tag"] = commit
    with in_namespace(replace(release, values=old), "earlier") as before:
        before.install(chart=chart)
        yield Upgrade(version, before, replace(before, values=values))


def build(files: Path, folder: str, image: str) -> None:
    dockerfile = str(files / folder / "Dockerfile")
    run("docker", "build", "--quiet", "--file", dockerfile, "--tag", image, str(files))
