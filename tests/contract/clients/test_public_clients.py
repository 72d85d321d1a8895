"""The public clients of the Open Inference Protocol, unchanged, each in its own environment.

KServe's client and `mlserver infer` run with PROOF=1. What all three send is recorded, and
test_recorded_clients.py sends it again in every run.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fraudops.audit.records import Prediction
from tests.support.environments import installed_programs
from tests.support.figures import PROOF
from tests.support.recorder import RECORDED, recording
from tests.support.serving import ULB_ROW, Service

HERE = Path(__file__).parent
VALUES = dict.fromkeys(ULB_ROW, 0.25)
proof = pytest.mark.skipif(not PROOF, reason="imports much: PROOF=1 runs it")


def run(service: Service, client: str, *command: str) -> str:
    """Run a client through a recorder, compare what it sends with the recording, and return stdout.

    `ADDRESS` in the command stands for the service's.
    """
    programs = installed_programs(HERE / f"{client}.lock")
    with recording(service.port) as recorder:
        address = f"127.0.0.1:{recorder.port}"
        done = subprocess.run(
            [programs / command[0], *(part.replace("ADDRESS", address) for part in command[1:])],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sent, file = recorder.inferences(), RECORDED / f"{client}.http"
    if PROOF and not file.exists():
        file.write_bytes(sent)
    assert sent == file.read_bytes(), f"{client} sends other bytes; delete {file.name}, run again"
    return done.stdout


def audited(service: Service, start: str) -> dict[str, Prediction]:
    """Return the records whose transaction_id begins so, by it."""
    return {
        record.transaction_id: record
        for record in service.audited()
        if isinstance(record, Prediction) and (record.transaction_id or "").startswith(start)
    }


def check_forms(service: Service, client: str, seen: dict[str, Any]) -> None:
    """Compare the two answers of a session with the records that they left."""
    for form in ("binary", "json"):
        records = audited(service, f"{client}-{form}-")
        rows = [records[f"{client}-{form}-{row}"] for row in range(2)]
        assert seen[form]["prediction_ids"] == [row.id for row in rows]
        assert seen[form]["probabilities"] == [row.fraud_probability for row in rows]
        assert [row.features for row in rows] == [VALUES] * 2
        assert {row.request_id for row in rows} == {seen[form]["id"]} == {f"{client}-{form}"}


def test_tritonclient_works_unchanged_with_binary_and_json_tensors(service: Service) -> None:
    seen = json.loads(
        run(
            service,
            "tritonclient",
            "python",
            str(HERE / "tritonclient_session.py"),
            "ADDRESS",
        )
    )
    assert (seen["server"], seen["model"]) == ([True, True], [True, True, False])
    assert seen["extensions"] == ["binary_tensor_data"]
    check_forms(service, "triton", seen)
    for form in ("binary", "json"):
        (record,) = audited(service, f"triton-{form}-single").values()
        assert (seen[form]["single"], record.features) == ([record.prediction], VALUES)
    missing = "no such model, or no such version of it, is served; see /v2/models"
    assert seen["another model"] == seen["another version"] == ["404", missing]
    assert seen["compressed"][0] == "415"
    assert seen["a call that does not exist"][0] == "404"


@proof
def test_the_client_of_kserve_works_unchanged(service: Service) -> None:
    out = run(service, "kserve", "python", str(HERE / "kserve_session.py"), "ADDRESS")
    seen = json.loads(out.splitlines()[-1])
    assert (seen["server"], seen["model"]) == ([True, True], [True, False])
    check_forms(service, "kserve", seen)
    assert seen["another model"].startswith("no such model")


@proof
def test_mlserver_infer_works_unchanged(service: Service, tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    tensor = {"name": "predict", "shape": [1, len(VALUES)], "datatype": "FP64"}
    requests = [
        {"id": f"mlserver-{row}", "inputs": [{**tensor, "data": list(VALUES.values())}]}
        for row in range(3)
    ]
    asked.write_text("".join(json.dumps(request) + "\n" for request in requests))
    options = ["-u", "ADDRESS", "-m", "credit-fraud", "-i", str(asked), "-o", str(answered)]
    run(service, "mlserver", "mlserver", "infer", *options, "-w", "1")
    answers = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["mlserver-0", "mlserver-1", "mlserver-2"]
    records = {record.id: record for record in service.audited() if isinstance(record, Prediction)}
    for answer in answers:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        record = records[outputs["prediction_id"][0]]
        assert (record.features, record.request_id) == (VALUES, answer["id"])
        assert outputs["fraud_probability"] == [record.fraud_probability]
