"""Run every command that the README and docs/ give for one machine."""

import shlex
from pathlib import Path

import httpx
import pytest

from tests.support.documents import commands
from tests.support.http_client import HTTP
from tests.support.platform import Platform

ROOT = Path(__file__).parents[2]
# The fixtures of the suite, test_demo and CI run these.
ELSEWHERE = {"fraudops up --detach", "fraudops down", "make demo", "make test"}
ADDRESS = "http://127.0.0.1:8000"
STATUS = {"/feedback": 202}


def request(command: str, platform: Platform) -> httpx.Response:
    """Send the request that a curl command line describes."""
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
            data, method = next(rest), "POST"
            body = (ROOT / data[1:]).read_bytes() if data.startswith("@") else data.encode()
        else:
            url = word.replace(ADDRESS, platform.inference_url)
    return HTTP.request(method, url, headers=headers, content=body, timeout=30)


def test_the_pages_have_the_commands_that_run_elsewhere() -> None:
    assert set(commands("sh")) >= ELSEWHERE


@pytest.mark.parametrize("command", [line for line in commands("sh") if line not in ELSEWHERE])
def test_the_command_does_what_the_page_says(command: str, serving: Platform) -> None:
    if command.startswith("curl"):
        answer = request(command, serving)
        path = "/" + command.split(ADDRESS + "/")[1].split()[0]
        assert answer.status_code == STATUS.get(path, 200), answer.text
    else:
        program, *arguments = shlex.split(command.replace(" .fraudops/", f" {serving.state.root}/"))
        assert program == "fraudops"
        result = serving.run(*arguments)
        assert result.returncode == 0, result.stderr
