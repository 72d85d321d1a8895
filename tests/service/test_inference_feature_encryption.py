"""Sealed and hashed features: a real worker leaves none in its spool, the table or its log."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fraudops.audit.records import Prediction, encode
from fraudops.feature_encryption import FeatureDecryptor, FeaturesUnreadableError, protection
from services.shipper.sink import Sink
from tests.support.serving import ULB_ROW, Service

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
AMOUNT = 411111.25
ROW = ULB_ROW | {"Amount": AMOUNT}


@pytest.fixture(params=["sealed", "hashed"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    started = Service(
        tmp_path,
        workers=1,
        environment={"FRAUDOPS_AUDIT__FEATURES": request.param, "FRAUDOPS_AUDIT__KEY": TEXT},
    ).promoted(1)
    yield started
    started.stop()


def answered(service: Service) -> list[str]:
    """Send one row alone, one with ids, and two in a batch; return the prediction ids."""
    batch = json.dumps({"transactions": [ROW, ROW | {"entity_key": "e"}]})
    single = [
        service.predict(ROW),
        service.predict(ROW | {"transaction_id": "t-1", "entity_key": "e"}),
    ]
    many = service.post("/predict/batch", batch)
    assert many.status_code == 200, many.text
    answers = [*(each.json() for each in single), *many.json()["predictions"]]
    return [answer["prediction_id"] for answer in answers]


def test_no_feature_touches_the_disk_of_the_pod_nor_the_table(
    service: Service, database: str
) -> None:
    ids = answered(service)
    records = [record for record in service.audited() if isinstance(record, Prediction)]
    assert [record.id for record in records] == ids
    spooled = b"".join(path.read_bytes() for path in service.state.root.rglob("*.seg"))
    assert b"Amount" not in spooled

    async def ship() -> None:
        sink = Sink(database)
        assert not (await sink.ship([encode(record) for record in records])).rejected
        await sink.close()

    asyncio.run(ship())
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT id::text, features, features_sealed, transaction_id, pod"
            " FROM predictions ORDER BY id"
        ).fetchall()
    assert [(row[0], row[1], row[3], row[4]) for row in rows] == [
        (name, None, "t-1" if place == 1 else None, "local") for place, name in enumerate(ids)
    ]
    decryptor = FeatureDecryptor([KEY])
    if service.environment["FRAUDOPS_AUDIT__FEATURES"] == "sealed":
        assert [decryptor.open(row[0], row[2]) for row in rows] == [ROW] * 4
    else:
        digest = protection("hashed", [KEY])
        assert digest
        assert [row[2] for row in rows] == [digest("", ROW)] * 4
        with pytest.raises(FeaturesUnreadableError, match="keyed hash"):
            decryptor.open(rows[0][0], rows[0][2])
    assert not any(trace in service.log for trace in (TEXT, str(AMOUNT)))


def test_a_service_without_its_key_does_not_start(tmp_path: Path) -> None:
    service = Service(tmp_path, workers=1, environment={"FRAUDOPS_AUDIT__FEATURES": "sealed"})
    service.start(wait=False)
    assert service.process
    assert service.process.wait(30) == 64
    assert "set FRAUDOPS_AUDIT__KEY" in service.log
