"""The tables of the sizing guide follow from the recorded results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fraudops.audit.records import encode
from fraudops.spool.frames import encode_frame
from tests.support.audit_records import prediction
from tests.support.known_transaction import TRANSACTION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations" / "sizing.md").read_text()
GIB = 1 << 30


def number(text: str) -> float:
    """Return the first number of a text."""
    found = re.search(r"[\d,]*\.?\d+", text)
    assert found is not None, text
    return float(found[0].replace(",", ""))


def recorded(name: str, row: str, column: int = 1, title: str = "") -> float:
    """Return the number in the row of a result that begins with this text.

    `title` is that of the table, if several have such a row.
    """
    result: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / f"{name}.json").read_text()
    )
    tables = [each for each in result["tables"] if title in ("", each["title"])]
    rows = [cells for each in tables for cells in each["rows"]]
    return number(next(cells[column] for cells in rows if cells[0].startswith(row)))


ALONE = recorded("parts", "the whole request")
WORKER = recorded("serving", "fraudops, 1 worker, audit spool, shipping")
BUSY = recorded("serving", "fraudops, 1 worker, audit spool, shipping", 3)
SHIPPED = recorded("faults", "backlog of 1,000,000 rows")
ROW = recorded("reads", "10,000,000", title="Disk") * 1e9 / 1e7


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def spooled() -> int:
    """Return the bytes of one record of the packaged transaction in the spool."""
    features = {name: float(value) for name, value in json.loads(TRANSACTION).items()}
    ids = {"request_id": "0" * 36, "transaction_id": "0" * 36}
    pod = "fraudops-inference-7c9d8b6f5-abcde"
    record = prediction(features=features, fraud_probability=0.0123456789, pod=pod, **ids)
    return len(encode_frame(1, encode(record)))


def near(written: str, computed: float, share: float = 0.01) -> None:
    assert number(written) == pytest.approx(computed, rel=share), written


def test_the_measured_costs_are_those_of_the_results() -> None:
    shown = {cells[0]: cells[1] for cells in table("What was measured")}
    assert len(shown) == 8
    near(shown["processor for one request that arrives alone"], ALONE)
    near(shown["processor for one answer at full load, worker and shipper"], BUSY)
    near(shown["most answers of one worker"], WORKER)
    near(shown["rows that one shipper ships from a backlog"], SHIPPED)
    near(shown["memory of a worker, after half an hour"], recorded("soak", "29.8", 3))
    near(shown["memory of a shipper"], recorded("faults", "memory of the shipper"))
    near(shown["table and indexes"], ROW)
    near(next(text for name, text in shown.items() if "spool" in name), spooled())


def test_pods_have_the_processor_that_their_share_costs() -> None:
    for rate, cores, pods, workers, requests in table("Pods"):
        answers = number(rate)
        near(cores, answers * (ALONE + 1e6 / SHIPPED) / 1e6, 0.2)
        assert number(pods) >= 3
        share = answers / (number(pods) - 1) / number(workers)
        assert share < WORKER / 2, "one pod is lost, and the others are past half of their maximum"
        service, shipper = re.findall(r"`(\d+)(m?)`", requests)
        for (amount, unit), cost in ((service, ALONE), (shipper, 1e6 / SHIPPED)):
            asked = int(amount) / (1000 if unit else 1)
            assert asked >= answers / number(pods) * cost / 1e6, (rate, requests)


def test_the_spool_bridges_these_minutes() -> None:
    for rate, pods, minutes in table("Spool"):
        near(minutes, GIB * number(pods) / (number(rate) * spooled() * 60), 0.03)


def test_postgresql_needs_this_disk() -> None:
    for rate, rows, day, month, all_days in table("PostgreSQL"):
        daily = number(rate) * 86_400
        near(rows, daily / 1e6)
        near(day, daily * ROW / 1e9)
        near(month, 30 * daily * ROW / 1e12, 0.02)
        near(all_days, 400 * daily * ROW / 1e12)
