"""Requests that schemathesis makes of the OpenAPI document, and bodies that hypothesis makes."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from tests.support.bodies import lists, objects, spliced
from tests.support.environments import installed_programs
from tests.support.figures import PROOF
from tests.support.neighbour import ServiceFacts
from tests.support.serving import ULB_ROW, Service
from tests.support.wire_cases import CARD, LABEL, chunks

FOLDER = Path(__file__).parent
# For each call of the document, of each kind of data.
MOST_EXAMPLES = 10_000 if PROOF else 20
PHASES = "examples,coverage,fuzzing" if PROOF else "fuzzing"
BODIES = 20_000 if PROOF else 100
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
ROWS = objects(dict.fromkeys(ULB_ROW, "0.25") | {"transaction_id": '"t-1"'})
LABELS = objects({name: json.dumps(value) for name, value in LABEL.items()})


def test_generated_requests_get_the_answers_of_the_document(
    hostile: Service, tmp_path: Path
) -> None:
    program = installed_programs(FOLDER / "schemathesis.lock") / "schemathesis"
    before = ServiceFacts.of(hostile)
    command = [
        *(program, "--config-file", FOLDER / "schemathesis.toml", "--no-color"),
        *("run", f"{hostile.url}/openapi.json", "--mode", "all", "--phases", PHASES),
        *("--checks", ",".join(CHECKS), "--max-examples", str(MOST_EXAMPLES), "--workers", "1"),
        # A pod that drains is not ready again.
        *("--exclude-path", "/drain", "--continue-on-failure", "--warnings", "off"),
        *("--seed", "1", "--generation-database", "none", "--suppress-health-check", "all"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=14_400, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    after = ServiceFacts.of(hostile)
    assert (after.pids, after.defects) == (before.pids, before.defects)


@pytest.fixture(scope="module")
def kept(hostile: Service) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", hostile.port, timeout=30)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("path", "bodies"),
    [
        ("/predict", spliced(ROWS)),
        ("/predict/batch", spliced(lists("transactions", ROWS))),
        ("/feedback", spliced(lists("labels", LABELS))),
    ],
    ids=["single", "batch", "labels"],
)
def test_any_body_is_answered_alike_on_both_paths(
    hostile: Service, kept: http.client.HTTPConnection, path: str, bodies: SearchStrategy[bytes]
) -> None:
    """With a length a prediction takes the fast path, and in chunks it never does."""

    @settings(max_examples=BODIES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(bodies)
    def check(body: bytes) -> None:
        whole, in_chunks = ask(kept, path, body, False), ask(kept, path, body, True)
        assert whole == in_chunks
        assert whole[0] in {200, 202, 413, 422}

    before = ServiceFacts.of(hostile)
    check()
    assert ServiceFacts.of(hostile).defects == before.defects
    assert CARD not in hostile.log


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes, in_chunks: bool
) -> tuple[int, object]:
    """Return the status and what the answer says, without its ids."""
    kept = connection.sock is not None
    try:
        answer = send(connection, path, body, in_chunks)
    except (http.client.RemoteDisconnected, BrokenPipeError):
        # On a busy machine it may have been idle for too long, as any kept connection.
        if not kept:
            raise
        connection.close()
        answer = send(connection, path, body, in_chunks)
    content = json.loads(answer.read())
    for prediction in [content, *content.get("predictions", [])]:
        for changing in ("prediction_id", "latency_ms"):
            prediction.pop(changing, None)
    return answer.status, content


def send(
    connection: http.client.HTTPConnection, path: str, body: bytes, in_chunks: bool
) -> http.client.HTTPResponse:
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    if in_chunks:
        connection.putheader("Transfer-Encoding", "chunked")
    else:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(chunks(body) if in_chunks else body)
    return connection.getresponse()
