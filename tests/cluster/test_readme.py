"""Run every command that the README and docs/ give for a cluster on a real one."""

import shlex

from tests.cluster.release import CHART, ROOT, Release
from tests.support.documents import commands


def test_the_release_is_installed_as_the_pages_say(release: Release) -> None:
    """Run the commands with `--dry-run=server`, because the release is installed already.

    test_release.py runs `helm test`.
    """
    tried = []
    for command in commands("console"):
        match shlex.split(command):
            case ["helm", "install", name, chart, *_]:
                assert (name, ROOT / chart) == (release.name, CHART)
                release.helm("install", "another", str(CHART), "--dry-run=server")
            case ["helm", "test", name, *_]:
                assert name == release.name
            case ["kubectl", "apply", "-k", folder]:
                release.kubectl("apply", "-k", str(ROOT / folder), "--dry-run=server")
            case ["kubectl", "-n", _, "create", *words]:
                assert words[-1].removeprefix("--from=") == f"cronjob/{release.name}-pipeline"
                release.kubectl("create", *words, "--dry-run=server")
            case [program, *_]:
                assert program == "fraudops", command
                continue
        tried.append(command)
    assert len(tried) >= 4


def test_the_commands_do_what_the_pages_say(release: Release, versions: tuple[str, str]) -> None:
    # The pages name the versions 1 and 2 of a new cluster; here they may have other numbers.
    named = dict(zip(("1", "2"), sorted(versions, key=int), strict=True))
    for command in (line for line in commands("console") if line.startswith("fraudops")):
        words = shlex.split(command)[1:]
        for position, word in enumerate(words[:-1]):
            if word == "--version":
                words[position + 1] = named[words[position + 1]]
        release.fraudops(*words)
    release.agreed()
