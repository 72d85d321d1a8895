"""What `helm test` says without a key, of a service that needs one."""

import pytest

from jobs.install.smoke_test import command
from tests.support.commands import Caller


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_the_test_names_the_value(
    key: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {} if key is None else {"FRAUDOPS_API_KEY": key}
    done = Caller("acceptance", command, monkeypatch, capsys)("--needs-key", **given)
    assert done.returncode == 64
    assert "name its Secret in clientAuth.testKeyExistingSecret" in done.stderr.replace("\n", " ")


def test_with_a_key_the_test_asks_the_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke_test = Caller("acceptance", command, monkeypatch, capsys)
    done = smoke_test("--needs-key", "--url", "http://127.0.0.1:1", FRAUDOPS_API_KEY="fo_key")
    assert done.returncode == 75
    assert "127.0.0.1" in done.stderr
