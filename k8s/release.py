"""What the release workflow does: `make release-check`, `make release-images`, `make release`.

| variable          | meaning                                                               |
|-------------------|-----------------------------------------------------------------------|
| REGISTRY          | where images and chart go, such as registry.example.com/fraud         |
| REGISTRY_USER     | the user of that registry                                             |
| REGISTRY_PASSWORD | the user's password or token                                          |
| BASE_IMAGE        | the base of the three images, with its digest                         |
| TAG               | the release's tag, such as v0.3.0                                     |
| ARCH              | the processor of this machine: amd64 or arm64                         |

Each processor's images are built on a machine of its own, without emulation. docker, helm, cosign,
syft and gh must be on PATH. Only digests are signed, because a tag may move.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "fraudops"
DIST = ROOT / "dist"
PLATFORMS = ("amd64", "arm64")
# The folder of each image's Dockerfile.
IMAGES: Mapping[str, str] = {
    "fraudops-serving": "services/inference",
    "fraudops-mlflow": "services/mlflow",
    "fraudops-jobs": "jobs",
}
# The sections of CHANGELOG.md that Artifact Hub has a kind for.
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def fail(message: str) -> NoReturn:
    sys.exit(f"release: {message}")


def setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        fail(f"{name} is empty: set it in the repository's variables or secrets")
    return value


def run(*command: str, stdin: str | None = None, errors: int | None = None) -> str:
    """Run a program and return its output; a failure ends the release."""
    sys.stderr.write(f"+ {' '.join(command)}\n")
    output = {"stdout": subprocess.PIPE, "stderr": errors}
    done = subprocess.run(command, input=stdin, text=True, check=False, **output)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def version() -> str:
    """Return the version that the programs and the chart agree on."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "fraudops/__init__.py").read_text())
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    versions = {found[1] if found else "", chart["version"], chart["appVersion"]}
    if len(versions) != 1:
        fail(f"fraudops/__init__.py and Chart.yaml name several versions: {sorted(versions)}")
    return versions.pop()


def changes(text: str, release: str) -> Iterator[tuple[str, str]]:
    """Yield kind and sentence of each entry that CHANGELOG.md has for a release."""
    _, _, rest = text.partition(f"\n## {release}\n")
    section = rest.partition("\n## ")[0]
    for part in section.split("\n### ")[1:]:
        title, _, body = part.partition("\n")
        for entry in re.findall(r"^- (.*(?:\n  .*)*)", body, re.MULTILINE):
            yield title.strip(), " ".join(entry.split())


def check() -> None:
    """Refuse a tag that the files do not agree with."""
    tag, named = setting("TAG"), version()
    if tag != f"v{named}":
        fail(f"the tag is {tag}, but the files name version {named}")
    if not re.fullmatch(r"\d+\.\d+\.\d+", named):
        fail(f"{named} is no release: name it in fraudops/__init__.py and Chart.yaml")
    if not list(changes((ROOT / "CHANGELOG.md").read_text(), named)):
        fail(f"CHANGELOG.md has no entry for {named}")
    setting("REGISTRY")
    if not re.search(r"@sha256:[0-9a-f]{64}$", setting("BASE_IMAGE")):
        fail("BASE_IMAGE must name the base image with its digest, as NAME@sha256:…")


def log_in() -> str:
    """Give the registry's password to docker, whose file cosign, helm and syft read too."""
    registry = setting("REGISTRY")
    host, password = registry.partition("/")[0], setting("REGISTRY_PASSWORD")
    command = ("docker", "login", host, "--username", setting("REGISTRY_USER"), "--password-stdin")
    run(*command, stdin=password)
    return registry


def images() -> None:
    """Build the three images for this machine's processor, and push them."""
    registry, arch = log_in(), setting("ARCH")
    for name, folder in IMAGES.items():
        target = f"{registry}/{name}:{version()}-{arch}"
        dockerfile = str(ROOT / folder / "Dockerfile")
        base = f"BASE={setting('BASE_IMAGE')}"
        run(
            "docker", "build", "--build-arg", base, "--file", dockerfile, "--tag", target, str(ROOT)
        )
        run("docker", "push", target)


def joined(image: str) -> str:
    """Join the images of all processors into one, and return its digest."""
    parts = [f"{image}:{version()}-{arch}" for arch in PLATFORMS]
    run("docker", "buildx", "imagetools", "create", "--tag", f"{image}:{version()}", *parts)
    shown = ("--format", "{{json .Manifest}}")
    manifest = run("docker", "buildx", "imagetools", "inspect", f"{image}:{version()}", *shown)
    return str(json.loads(manifest)["digest"])


def sign(reference: str) -> None:
    """Sign a digest with the identity of the workflow; there is no key to keep."""
    run("cosign", "sign", "--yes", reference)


def attest_packages(name: str, reference: str) -> None:
    """Attach the lists of packages: those of the lock file, and those of the whole image."""
    lists = [DIST / f"{name}.cdx.json"]
    for arch in PLATFORMS:
        path = DIST / f"{name}-{arch}.cdx.json"
        platform = ("--platform", f"linux/{arch}", "--output", f"cyclonedx-json={path}")
        run("syft", "scan", f"registry:{reference}", *platform)
        lists.append(path)
    for path in lists:
        predicate = ("--type", "cyclonedx", "--predicate", str(path))
        run("cosign", "attest", "--yes", *predicate, reference)


def prepared_chart(folder: Path, registry: str, digests: Mapping[str, str]) -> Path:
    """Copy the chart with registry and digests as defaults, and what Artifact Hub shows."""
    chart = Path(shutil.copytree(CHART, folder / "fraudops"))
    values = (chart / "values.yaml").read_text()
    for name, digest in digests.items():
        empty = f'    registry: ""\n    repository: {name}\n    tag: ""\n    digest: ""\n'
        if values.count(empty) != 1:
            fail(f"values.yaml does not have the image {name} in the form that is replaced")
        full = empty.replace('registry: ""', f"registry: {registry}")
        values = values.replace(empty, full.replace('digest: ""', f"digest: {digest}"))
    (chart / "values.yaml").write_text(values)
    described = yaml.safe_load((chart / "Chart.yaml").read_text())
    entries = changes((ROOT / "CHANGELOG.md").read_text(), version())
    shown = [{"kind": kind.lower(), "description": text} for kind, text in entries if kind in KINDS]
    pinned = [{"name": name, "image": f"{registry}/{name}@{digests[name]}"} for name in digests]
    described["annotations"] |= {
        "artifacthub.io/changes": yaml.safe_dump(shown, sort_keys=False, width=1000),
        "artifacthub.io/images": yaml.safe_dump(pinned, sort_keys=False, width=1000),
        "artifacthub.io/prerelease": "false",
    }
    (chart / "Chart.yaml").write_text(yaml.safe_dump(described, sort_keys=False, width=1000))
    return chart


def push_chart(registry: str, digests: Mapping[str, str]) -> str:
    """Package and push the chart; return the digest that the registry gave it."""
    folder = DIST / "chart"
    shutil.rmtree(folder, ignore_errors=True)
    chart = prepared_chart(folder, registry, digests)
    run("helm", "package", str(chart), "--destination", str(DIST))
    package = str(DIST / f"fraudops-{version()}.tgz")
    # Some versions of helm print the digest to standard error.
    push = ("helm", "push", package, f"oci://{registry}/charts")
    found = re.search(r"Digest: (sha256:[0-9a-f]{64})", run(*push, errors=subprocess.STDOUT))
    if found is None:
        fail("helm push printed no digest: does this version of helm print it in another form?")
    return found[1]


def publish() -> None:
    """Join, sign and describe the images, push the chart, and make the release on GitHub."""
    registry = log_in()
    digests = {name: joined(f"{registry}/{name}") for name in IMAGES}
    for name, digest in digests.items():
        reference = f"{registry}/{name}@{digest}"
        sign(reference)
        attest_packages(name, reference)
    pushed = digests | {"charts/fraudops": push_chart(registry, digests)}
    sign(f"{registry}/charts/fraudops@{pushed['charts/fraudops']}")
    wheels = sorted(DIST.glob("*.whl"))
    sums = {f"{registry}/{name}": value.removeprefix("sha256:") for name, value in pushed.items()}
    sums |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    # The workflow attests where each of these was built.
    (DIST / "subjects.txt").write_text("".join(f"{each}  {name}\n" for name, each in sums.items()))
    files = [str(path) for path in (*wheels, *sorted(DIST.glob("*.cdx.json")))]
    run("gh", "release", "create", setting("TAG"), "--verify-tag", "--generate-notes", *files)


def main() -> None:
    commands: dict[str, Callable[[], None]] = {"check": check, "images": images, "publish": publish}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.stderr.write(f"usage: python k8s/release.py {' | '.join(commands)}\n")
        sys.exit(64)
    commands[sys.argv[1]]()


if __name__ == "__main__":
    main()
