"""The promotion's ports on one machine: a file for the record, and a file lock."""

from pathlib import Path

import pytest

from fraudops.promotion.local import FileLock, FileRecordStore, LocalRecords
from fraudops.promotion.ports import Lock, Records
from tests.support.promotion_ports import LockContract, RecordsContract


class TestFileRecords(RecordsContract):
    @pytest.fixture
    def records(self, tmp_path: Path) -> Records:
        return LocalRecords(FileRecordStore(tmp_path / "serving.json"))


class TestFileLock(LockContract):
    @pytest.fixture
    def locks(self, tmp_path: Path) -> tuple[Lock, Lock]:
        path = tmp_path / "promotion.lock"
        return FileLock(path, wait_seconds=2), FileLock(path, wait_seconds=2)
