"""Every command of the README is run, and what it says of files, targets and settings is true."""

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest

from fraudops.settings import known_variables
from tests.conftest import Platform
from tests.promoted import promoted
from tests.support import HTTP

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Run by the fixtures of the suite, by test_demo, and by CI.
ELSEWHERE = {"fraudops up --detach", "fraudops down", "make demo", "make test"}
ADDRESS = "http://127.0.0.1:8000"
STATUS = {"/feedback": 202}


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def request(command: str, platform: Platform) -> httpx.Response:
    """The request that a curl command line makes."""
    words = shlex.split(command.replace("$(cat .fraudops/admin.token)", platform.admin_token))
    assert words[:2] == ["curl", "-s"]
    method, headers, body, url = "GET", {}, b"", ""
    rest = iter(words[2:])
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, value = next(rest).split(": ", 1)
            headers[name] = value
        elif word == "-d":
            given, method = next(rest), "POST"
            body = (ROOT / given[1:]).read_bytes() if given.startswith("@") else given.encode()
        else:
            url = word.replace(ADDRESS, platform.inference_url)
    return HTTP.request(method, url, headers=headers, content=body, timeout=30)


@pytest.fixture(scope="module")
def serving(platform: Platform) -> Platform:
    return promoted(platform)


def test_the_readme_has_commands() -> None:
    assert len(commands()) > 20
    assert set(commands()) >= ELSEWHERE


@pytest.mark.parametrize("command", [command for command in commands() if command not in ELSEWHERE])
def test_the_command_does_what_the_readme_says(command: str, serving: Platform) -> None:
    if command.startswith("curl"):
        answer = request(command, serving)
        path = "/" + command.split(ADDRESS + "/")[1].split()[0]
        assert answer.status_code == STATUS.get(path, 200), answer.text
    else:
        program, *arguments = shlex.split(command.replace(" .fraudops/", f" {serving.state.root}/"))
        assert program == "fraudops"
        told = serving.run(*arguments)
        assert told.returncode == 0, told.stderr


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)", README)) <= targets


def test_every_setting_it_names_exists() -> None:
    assert set(re.findall(r"\bFRAUDOPS_[A-Z_]+\b", README)) <= known_variables()


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"(?<![.\w])((?:benchmarks|charts|fraudops|jobs|k8s|services)/[\w./-]+\.\w+)", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_quoted_figures_come_from_recorded_results() -> None:
    for name in re.findall(r"benchmarks/results/[\w-]+\.json", README):
        assert json.loads((ROOT / name).read_text())["commit"]
