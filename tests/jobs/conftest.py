"""The command `fraudops audit` over a spool and a database, for the tests of this folder."""

from pathlib import Path

import pytest

from jobs.audit import command
from tests.support.audit_site import AuditSite
from tests.support.commands import Caller


@pytest.fixture
def audit(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AuditSite:
    return AuditSite(database, tmp_path / "state", Caller("audit", command, monkeypatch, capsys))
