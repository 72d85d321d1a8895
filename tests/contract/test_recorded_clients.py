"""The bytes that public clients of the Open Inference Protocol send, and their answers.

The recordings are made and compared by PROOF=1 in tests/contract/clients.
"""

from pathlib import Path

import pytest

from fraudops.audit.records import Prediction
from tests.support.recorder import RECORDED
from tests.support.serving import ULB_ROW, Service
from tests.support.two_paths import Wire

CLIENTS = {"tritonclient": 6, "kserve": 4, "mlserver": 3}


@pytest.mark.parametrize("file", sorted(RECORDED.glob("*.http")), ids=lambda file: file.stem)
def test_what_a_public_client_sends_is_answered_and_audited(service: Service, file: Path) -> None:
    requests, rows, before = file.read_bytes(), 0, {record.id for record in service.audited()}
    with Wire(service) as wire:
        wire.socket.sendall(requests)
        for _ in range(requests.count(b"POST /v2/")):
            status, headers, answer = wire.answer()
            assert (status, headers["content-type"]) == (200, "application/json")
            rows += answer["outputs"][0]["shape"][0]
    assert rows == CLIENTS[file.stem]
    new = [record for record in service.audited() if record.id not in before]
    features = [record.features for record in new if isinstance(record, Prediction)]
    assert features == [dict.fromkeys(ULB_ROW, 0.25)] * rows


def test_every_client_is_recorded() -> None:
    assert {file.stem for file in RECORDED.glob("*.http")} == CLIENTS.keys()
