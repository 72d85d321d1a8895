"""A shipper that stops with its pod reaches the handover even if PostgreSQL is silent.

The grace period of a pod is short, so no wait for PostgreSQL may use it up.
"""

import re
import signal
from pathlib import Path

import pytest

from fraudops.audit.records import encode
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.state import State
from tests.support.audit_records import prediction
from tests.support.fault_proxy import COPYING, INSERTING, WITHIN, FaultProxy, Trap
from tests.support.warm_start import start_python

# The shipper with a short drain and a handover that fails twice and then succeeds.
PROGRAM = """
import services.shipper.__main__ as shipper
answers = iter((1, 1, 0))
def hand_over(settings):
    print("handing over", flush=True)
    return next(answers)
for name, value in {
    "hand_over_to_peers": hand_over,
    "DRAIN_SECONDS": 0.5,
    "RETRY_SECONDS": 0.1,
    "RETRY_DRAIN_SECONDS": 0.5,
}.items():
    assert hasattr(shipper, name), name
    setattr(shipper, name, value)
shipper.main()
"""
READING_DRIFT_RUNS = b"FROM drift_runs"


@pytest.mark.parametrize(
    "words", [COPYING, INSERTING, READING_DRIFT_RUNS], ids=["copy", "insert", "drift"]
)
def test_a_silent_postgresql_does_not_keep_the_shipper_from_handing_over(
    state: State, database: str, tmp_path: Path, words: bytes
) -> None:
    writer = SpoolWriter(state.spool, "answered", SpoolOptions())
    if words != READING_DRIFT_RUNS:
        writer.append_many(
            [encode(prediction(features={"V1": 0.5, "text": "x" * 100_000})) for _ in range(100)]
        )
    match = re.search(r":(\d+)/", database)
    assert match
    with FaultProxy(int(match[1])).running() as proxy, (tmp_path / "log").open("wb") as log:
        trap = proxy.set(Trap(words, "stall", more=WITHIN if words == COPYING else 0))
        environment = {
            "DATABASE_URL": database.replace(match[0], f":{proxy.port}/"),
            "FRAUDOPS_STATE": str(state.root),
            "FRAUDOPS_CLUSTER__RELEASE": "test",
            "HOME": str(tmp_path),
        }
        process = start_python(["-c", PROGRAM], environment, log)
        try:
            assert trap.sprung.wait(20)
            proxy.stall()
            process.send_signal(signal.SIGTERM)
            assert process.wait(12) == 0
        finally:
            process.kill()
            process.wait()
            writer.close()
        assert (tmp_path / "log").read_text().count("handing over") == 3
