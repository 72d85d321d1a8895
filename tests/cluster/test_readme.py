"""Every command that the README gives for a cluster is run on one."""

import re
import shlex

import pytest

from tests.cluster.release import CHART, ROOT, Release

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    return [
        line
        for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line
    ]


def test_the_readme_has_commands_for_a_cluster() -> None:
    assert len(commands()) > 8


def test_the_release_is_installed_as_the_readme_says(release: Release) -> None:
    install, first_model = (
        shlex.split(command) for command in commands() if not command.startswith("fraudops")
    )
    assert install[:3] == ["helm", "install", release.name]
    release.helm("install", "another", str(CHART), "--dry-run=server")
    assert first_model[-1].removeprefix("--from=") == f"cronjob/{release.name}-pipeline"
    release.kubectl(*first_model[3:], "--dry-run=server")


def test_the_commands_do_what_the_readme_says(release: Release, versions: tuple[str, str]) -> None:
    """In their order; the versions that it names are those of a cluster that has just been installed."""
    named = dict(zip(("1", "2"), sorted(versions, key=int), strict=True))
    for command in (command for command in commands() if command.startswith("fraudops")):
        words = shlex.split(command)[1:]
        for place, word in enumerate(words[:-1]):
            if word == "--version":
                words[place + 1] = named[words[place + 1]]
        release.fraudops(*words)
    release.agreed()


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#]+\.md)\)", README))
def test_every_document_that_it_names_is_there(name: str) -> None:
    assert (ROOT / name).is_file()
